"""Which sequences share the next pass, and what that pass is.

The group of the sequence that has waited longest goes next, filled up with those of the group that have waited longest.
Whoever waits is therefore served within as many passes as there are sequences: each pass serves the one that has waited
longest, and nobody who was served since is before it.

Shapes: B sequences in a pass, R positions that it reveals.
"""

from collections.abc import Hashable, Iterable, Sequence
from heapq import nsmallest
from typing import Protocol, TypeVar

import numpy as np

from understudy.denoisers.protocol import Positions
from understudy.sampling.queue import Pass
from understudy.server.sequences import RunningSequence


class Waiter(Protocol):
    """What waits for a pass: since pass number `since`, admitted as number `order`, which all differ in."""

    since: int
    order: int


Waiting = TypeVar("Waiting", bound=Waiter)


def choose(groups: Iterable[tuple[Hashable, Waiting]], batch_size: int) -> list[Waiting]:
    """Pick up to `batch_size` of those that wait, all of one group, in the order of their admission.

    groups: everyone who waits with the group that they belong to; those of a group can share a pass. Nobody: nothing.
    """
    waiting: dict[Hashable, list[Waiting]] = {}
    for group, waiter in groups:
        waiting.setdefault(group, []).append(waiter)
    if not waiting:
        return []
    oldest = min(waiting.values(), key=lambda members: min(map(_age, members)))
    return sorted(nsmallest(batch_size, oldest, key=_age), key=lambda waiter: waiter.order)


def _age(waiter: Waiter) -> tuple[int, int]:
    return waiter.since, waiter.order


def assemble(sequences: Sequence[RunningSequence]) -> Pass:
    """Make the pass (B,) that gives each sequence its next event; all need one model."""
    plans = [sequence.run.task.plan for sequence in sequences]
    steps = [plan.events.steps[sequence.event] for plan, sequence in zip(plans, sequences, strict=True)]
    cols = [sequence.positions(sequence.event) for sequence in sequences]
    uniforms = [plan.uniforms[sequence.sample, own] for plan, sequence, own in zip(plans, sequences, cols, strict=True)]
    return Pass(
        key=sequences[0].key,
        samples=np.array([sequence.slot for sequence in sequences]),
        steps=np.array(steps),
        times=np.array([plan.times[step] for plan, step in zip(plans, steps, strict=True)]),
        where=Positions(np.repeat(np.arange(len(cols)), [len(own) for own in cols]), np.concatenate(cols)),
        uniforms=np.concatenate(uniforms),
    )
