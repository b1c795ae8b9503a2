"""Workers of a Ray cluster as a workforce: units go to whoever is free, and those of a lost worker to another.

Everything is counted where the job is driven: a unit is finished when its result has arrived here, once; a worker that
dies takes back what it had said, and its unit is given out again. Ray's own retries are off.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from understudy import __version__
from understudy.cluster.connection import LOCAL, Cluster, connect
from understudy.cluster.models import WorkerModels
from understudy.cluster.placing import Placement, place_workers
from understudy.cluster.worker import Broken, Failure, Ready, Step, Worker
from understudy.errors import ClusterError, one_line
from understudy.work import Advance, Event, Finished, Work

MOST_LOSSES = 3  # of one unit's workers, or of workers one after another before they are ready
PATIENCE_SECONDS = 600.0  # without any worker: a cluster may be growing


@dataclass(eq=False)
class _Hand:
    """One actor. answers: to what it was asked for last; unit and work: None while it has none; said: its progress."""

    actor: Any
    answers: Any
    unit: str | None = None
    work: Work | None = None
    said: int = 0
    is_busy: bool = field(default=True)


class _Queue:
    """Units that are to be done: fresh ones, made when they are wanted, then those that were lost.

    Those last, so that one that kills its workers keeps no other from being finished.
    """

    def __init__(self, fresh: Iterator[tuple[str, Work]]) -> None:
        self._fresh, self._ahead, self._lost = fresh, deque[tuple[str, Work]](), deque[tuple[str, Work]]()

    def is_empty(self) -> bool:
        """Whether nothing is left, now."""
        if not self._ahead:
            self._ahead.extend(islice(self._fresh, 1))
        return not (self._ahead or self._lost)

    def take(self) -> tuple[str, Work]:
        """The next one, where `is_empty` has said that there is one."""
        return (self._ahead or self._lost).popleft()

    def put_back(self, unit: str, work: Work) -> None:
        """It was lost."""
        self._lost.append((unit, work))


class RayWorkforce:
    """So many workers with the same models, wherever the cluster has room. Made by `ray_workforce`.

    losses: workers that died so far, in words. Raises from `do`: what a unit raises, as in a local run; ClusterError
    where a unit's workers die again and again, or none can be started.
    """

    def __init__(self, cluster: Cluster, models: WorkerModels, placement: Placement) -> None:
        self.models, self.placement = models, placement
        self.losses: list[str] = []
        self._ray = cluster.ray
        options = {"num_cpus": placement.cpus, "num_gpus": placement.gpus, "scheduling_strategy": "SPREAD"}
        self._kind = self._ray.remote(Worker).options(max_restarts=0, max_task_retries=0, **options)
        self._early_losses = 0
        self._seen: list[Ready] = []
        self._hands: list[_Hand] = []
        self._hire()

    def __len__(self) -> int:
        return self.placement.workers

    def do(self, units: Iterable[tuple[str, Work]]) -> Generator[Event, None, None]:
        """Do all units; see `understudy.work.Workforce`."""
        queue = _Queue(iter(units))
        losses: Counter[str] = Counter()
        self._hire()
        try:
            while True:
                self._hand_out(queue)
                if queue.is_empty() and not any(hand.work for hand in self._hands):
                    return
                for hand in self._spoken():
                    yield from self._hear(hand, queue, losses)
        finally:
            for hand in [hand for hand in self._hands if hand.work is not None]:  # stopped in the middle
                self._dismiss(hand)

    def facts(self) -> dict[str, Any]:
        """What results say of it: workers, nodes, workers by hardware as far as they were ready, workers lost."""
        hardware = Counter(worker.hardware for worker in self._seen)
        nodes = len({worker.node for worker in self._seen})
        return {"workers": len(self), "nodes": nodes, "hardware": dict(hardware), "lost": len(self.losses)}

    def dismiss(self) -> None:
        """End all workers, now."""
        for hand in list(self._hands):
            self._dismiss(hand)

    def _hire(self) -> None:
        """Fill up the number of workers."""
        while len(self._hands) < self.placement.workers:
            actor = self._kind.remote(max(1, self.placement.cpus))
            self._hands.append(_Hand(actor, actor.prepare.remote(self.models, __version__)))

    def _dismiss(self, hand: _Hand) -> None:
        self._ray.kill(hand.actor, no_restart=True)
        self._hands.remove(hand)

    def _hand_out(self, queue: _Queue) -> None:
        """Give a unit to everyone who is free."""
        for hand in self._hands:
            if not hand.is_busy and not queue.is_empty():
                hand.unit, hand.work = queue.take()
                hand.said, hand.is_busy = 0, True
                hand.answers = hand.actor.do.options(num_returns="streaming").remote(hand.work)

    def _spoken(self) -> Sequence[_Hand]:
        """Wait for someone who is loading or at work to say something."""
        asked = [hand for hand in self._hands if hand.is_busy]
        has_workers = any(hand.work for hand in asked)
        answers = [hand.answers for hand in asked]
        ready, _ = self._ray.wait(answers, timeout=None if has_workers else PATIENCE_SECONDS, fetch_local=False)
        if not ready:
            raise ClusterError(
                f"no worker could be started within {PATIENCE_SECONDS:.0f} s: each needs {self.placement.cpus} CPUs "
                f"and {self.placement.gpus:g} GPUs; free or add nodes, and give the command again to go on"
            )
        return [hand for hand in asked if any(hand.answers is answer for answer in ready)]

    def _hear(self, hand: _Hand, queue: _Queue, losses: Counter[str]) -> Iterator[Event]:
        """Take one thing that someone said."""
        try:
            answer = self._ray.get(hand.answers if hand.work is None else next(hand.answers))
        except self._ray.exceptions.RayTaskError:
            raise  # an error of ours, with its traceback
        except (self._ray.exceptions.RayError, StopIteration) as error:
            yield from self._lose(hand, queue, losses, _reason(error))
            return
        if isinstance(answer, Failure):
            raise answer.to_error()
        if isinstance(answer, Broken):
            yield from self._lose(hand, queue, losses, answer.why)
        elif isinstance(answer, Ready):
            self._seen.append(answer)
            hand.is_busy, self._early_losses = False, 0
        elif isinstance(answer, Step):
            hand.said += answer.amount
            yield Advance(str(hand.unit), answer.amount)
        else:
            unit = str(hand.unit)
            hand.unit = hand.work = None
            hand.is_busy = False
            yield Finished(unit, answer.value)

    def _lose(self, hand: _Hand, queue: _Queue, losses: Counter[str], why: str) -> Iterator[Event]:
        """Someone died: its unit goes to another, and someone else is hired."""
        self.losses.append(why)
        if hand.work is None:
            self._early_losses += 1
            if self._early_losses > MOST_LOSSES * len(self):
                raise ClusterError(f"workers die before they are ready, the last one so: {why}")
        else:
            unit = str(hand.unit)
            losses[unit] += 1
            if losses[unit] >= MOST_LOSSES:
                raise ClusterError(
                    f"the workers of {unit!r} died {losses[unit]} times, the last one so: {why}; if memory is short, "
                    "take a smaller batch size. What is finished is kept"
                )
            queue.put_back(unit, hand.work)
            yield Advance(unit, -hand.said)
        self._dismiss(hand)
        self._hire()


def _reason(error: BaseException) -> str:
    """The line of Ray's message that says why a worker died."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    because = [line for line in lines if line.startswith("The actor died because")]
    if not lines:
        return one_line(error)
    return because[0] if because and "creation task" not in because[0] else lines[-1]


@contextmanager
def workers_of(cluster: Cluster, models: WorkerModels, *, workers: int | None = None) -> Iterator[RayWorkforce]:
    """Workers of a cluster with these models; at the end they are dismissed. workers: as in `place_workers`."""
    placement = place_workers(cluster.rooms(), workers, on_gpus=models.device != "cpu")
    workforce = RayWorkforce(cluster, models, placement)
    try:
        yield workforce
    finally:
        workforce.dismiss()


@contextmanager
def ray_workforce(models: WorkerModels, address: str = LOCAL, *, workers: int | None = None) -> Iterator[RayWorkforce]:
    """Workers of the cluster at `address` (`connect`) with these models; at the end nothing of them is left.

    workers: as in `place_workers`. Raises the errors of both.
    """
    with connect(address) as cluster, workers_of(cluster, models, workers=workers) as workforce:
        yield workforce
