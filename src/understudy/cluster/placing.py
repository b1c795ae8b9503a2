"""How many workers there are, and what each has to itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.cluster.connection import Room
from understudy.errors import ClusterError, SettingError

CPUS_PER_WORKER = 4  # unless so many workers are wanted that each has fewer


@dataclass(frozen=True)
class Placement:
    """So many workers, each with so many CPUs and so much of a GPU (0: none, 1/k: one that k of them share)."""

    workers: int
    cpus: int
    gpus: float


def place_workers(rooms: Sequence[Room], wanted: int | None = None, *, on_gpus: bool) -> Placement:
    """Give each worker a GPU, or a share of one where more are wanted; without GPUs as many CPUs as fit.

    wanted: workers; unless given, one for each GPU, or for every four CPUs of a node. SettingError for a number below
    1, ClusterError where the cluster has no such room.
    """
    if wanted is not None and wanted < 1:
        raise SettingError(f"{wanted} workers are wanted; give at least 1")
    return _on_gpus(rooms, wanted) if on_gpus else _on_cpus(rooms, wanted)


def _on_gpus(rooms: Sequence[Room], wanted: int | None) -> Placement:
    total = sum(room.gpus for room in rooms)
    if not total:
        raise ClusterError("the Ray cluster has no GPU; start its nodes with some, or work on the CPU: --device cpu")
    workers = total if wanted is None else wanted
    sharing = -(-workers // total)
    has_cpus = all(room.cpus >= room.gpus * sharing for room in rooms)
    return Placement(workers, int(has_cpus), 1 / sharing)


def _on_cpus(rooms: Sequence[Room], wanted: int | None) -> Placement:
    total = sum(room.cpus for room in rooms)
    workers = sum(-(-room.cpus // CPUS_PER_WORKER) for room in rooms) if wanted is None else wanted
    if not 0 < workers <= total:
        raise ClusterError(f"the Ray cluster has {total} CPUs for {workers} workers; ask for fewer, or add nodes")
    sizes = range(max(room.cpus for room in rooms), 0, -1)
    return Placement(workers, next(size for size in sizes if sum(room.cpus // size for room in rooms) >= workers), 0.0)
