"""What runs on the nodes: an actor that loads the models once and does one unit after another.

What it says is plain: numbers, words, arrays. Errors of ours travel as their name and their message, so that a user
sees the line that a local run would end with.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from understudy import __version__, errors
from understudy.cluster.models import WorkerModels
from understudy.environment import describe_environment
from understudy.errors import ClusterError, DataError, ModelError, UnderstudyError, one_line
from understudy.work import Tools, Work

SAY_EVERY = 0.25  # seconds between two words of progress


@dataclass(frozen=True)
class Ready:
    """A worker that has loaded its models. node: Ray's name of it; hardware: name of the GPU or the processor."""

    node: str
    hardware: str


@dataclass(frozen=True)
class Failure:
    """An error that doing it again would not mend. kind: name of its class."""

    kind: str
    message: str

    def to_error(self) -> Exception:
        """The error as this process would have raised it."""
        kind = getattr(errors, self.kind, MemoryError)
        return kind(self.message) if issubclass(kind, UnderstudyError) else MemoryError(self.message)


@dataclass(frozen=True)
class Broken:
    """The worker's device can do no more: its unit is for another worker, and so is its place."""

    why: str


@dataclass(frozen=True)
class Step:
    """A unit is so much further."""

    amount: int


@dataclass(frozen=True)
class Result:
    """A unit is done."""

    value: Any


class Worker:
    """The actor. threads: of torch on the CPU."""

    def __init__(self, threads: int) -> None:
        import ray
        import torch

        torch.set_num_threads(threads)
        self._node = str(ray.util.get_node_ip_address())
        self._node_id = str(ray.get_runtime_context().get_node_id())
        self._tools: Tools | None = None

    def prepare(self, models: WorkerModels, version: str) -> Ready | Failure:
        """Load the models. version: of Understudy where the job is driven."""
        if version != __version__:
            return _failure(
                ClusterError(f"node {self._node} has Understudy {__version__}, the job {version}; install one")
            )
        try:
            self._tools = models.load()
        except (ModelError, DataError) as error:
            said = str(error).rstrip(".")
            return _failure(
                type(error)(
                    f"node {self._node}: {said}; models must lie where every node can read them under one path: in a "
                    "folder that all share, or on the hub"
                )
            )
        except (UnderstudyError, MemoryError, RuntimeError) as error:
            return _failure(error)
        found = describe_environment()
        return Ready(self._node_id, found["processor"] if models.device == "cpu" else found["cuda_device"])

    def do(self, work: Work) -> Iterator[Step | Result | Failure | Broken]:
        """Do a unit: steps, then a result or what went wrong."""
        assert self._tools is not None
        try:
            yield from _in_steps(work.run(self._tools))
        except (UnderstudyError, MemoryError, RuntimeError) as error:
            yield Broken(one_line(error)) if _is_broken_device(error) else _failure(error)


def _in_steps(run: Generator[int, None, Any]) -> Iterator[Step | Result]:
    """Progress, seldom enough to cost nothing, then the result."""
    amount, said_at = 0, time.monotonic()
    while True:
        try:
            amount += next(run)
        except StopIteration as stop:
            yield Step(amount)
            yield Result(stop.value)
            return
        if time.monotonic() - said_at > SAY_EVERY:
            yield Step(amount)
            amount, said_at = 0, time.monotonic()


def _failure(error: Exception) -> Failure:
    """Errors of ours, and memory that ran out, which is no fault of the machine; others are raised as they are."""
    if isinstance(error, UnderstudyError):
        return Failure(type(error).__name__, str(error))
    if _is_memory(error):
        return Failure("MemoryError", " ".join(str(error).split()))
    raise error


def _is_memory(error: Exception) -> bool:
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_named or "can't allocate memory" in str(error)


def _is_broken_device(error: Exception) -> bool:
    # After such an error, a process can use its GPU no more.
    return isinstance(error, RuntimeError) and "CUDA error" in str(error) and not _is_memory(error)
