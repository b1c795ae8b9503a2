"""Which sequences share the next pass.

A plan gives every sequence its own list of events. Sequences at different steps may share a pass as long as they
need the same model. They are taken on in waves of two to four batches. Within a wave those in the earliest segment go
first, among them those with the most events left in it: so a wave ends a segment nearly at once, and little more than
the last pass of a segment is not full. Letting each go on as soon as some model has a full batch scatters the sequences
of a sandwich, and the stragglers then travel in small batches.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.denoisers.protocol import Positions
from understudy.reveal import RevealPlan
from understudy.schedule import ModelSchedule


@dataclass(frozen=True)
class Pass:
    """One batch for one model.

    samples, steps: int64 (B,), rows of the canvas and the nominal step each is at; times: float64 (B,), at which the
    model looks; where: R positions; uniforms: float64 (R,).
    """

    key: str
    samples: NDArray[np.int64]
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    where: Positions
    uniforms: NDArray[np.float64]


class PassQueue:
    """Iterate over the passes of a plan; each sequence meets its events in order."""

    def __init__(self, plan: RevealPlan, schedule: ModelSchedule, batch_size: int) -> None:
        self._plan, self._events, self._batch_size = plan, plan.events, batch_size
        self._keys = plan.event_keys(schedule)
        ends = np.cumsum([segment.count for segment in schedule.segments])
        self._segments = np.searchsorted(ends, self._events.steps, side="right")
        # Events of sample s are first[s] … first[s + 1] − 1.
        self._first = np.searchsorted(self._events.samples, np.arange(plan.num_samples + 1))
        self._left = _run_lengths(self._events.samples * (len(ends) + 1) + self._segments)
        self._schedule = schedule

    def __iter__(self) -> Iterator[Pass]:
        admitted = 0
        while admitted < self._plan.num_samples:
            wave = _wave_size(self._plan.num_samples - admitted, self._batch_size)
            yield from self._run(range(admitted, admitted + wave))
            admitted += wave

    def _run(self, samples: range) -> Iterator[Pass]:
        """Take a wave from its first events to its last."""
        waiting: dict[str, list[tuple[int, int, int, int]]] = {key: [] for key in self._schedule.keys}
        for sample in samples:
            self._enqueue(waiting, int(self._first[sample]), sample)
        while heaps := [heap for heap in waiting.values() if heap]:
            heap = self._choose(heaps)
            batch = [heapq.heappop(heap)[2:] for _ in range(min(self._batch_size, len(heap)))]
            batch.sort()
            events = np.array([event for _, event in batch])
            yield self._assemble(str(self._keys[events[0]]), events)
            for sample, event in batch:
                self._enqueue(waiting, event + 1, sample)

    def _choose(self, heaps: list[list[tuple[int, int, int, int]]]) -> list[tuple[int, int, int, int]]:
        """Pick those that wait for the model which the sequence furthest behind needs."""
        return min(heaps, key=lambda heap: heap[0])

    def _enqueue(self, waiting: dict[str, list[tuple[int, int, int, int]]], event: int, sample: int) -> None:
        if event < self._first[sample + 1]:
            place = (int(self._segments[event]), -int(self._left[event]), sample, event)
            heapq.heappush(waiting[str(self._keys[event])], place)

    def _assemble(self, key: str, events: NDArray[np.int64]) -> Pass:
        starts = self._events.starts[events]
        counts = self._events.starts[events + 1] - starts
        rows = np.repeat(np.arange(len(events)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        cols = self._events.positions[starts[rows] + within]
        samples, steps = self._events.samples[events], self._events.steps[events]
        uniforms = self._plan.uniforms[samples[rows], cols]
        return Pass(key, samples, steps, self._plan.times[steps], Positions(rows, cols), uniforms)


def _wave_size(num_samples: int, batch_size: int) -> int:
    """Give how many of the samples left go next: two batches, or all where fewer than two more would remain."""
    return num_samples if num_samples < 4 * batch_size else 2 * batch_size


def _run_lengths(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give, for each of `values` (E,), how many equal ones follow without a break, itself included."""
    ends = np.append(np.flatnonzero(np.diff(values)) + 1, len(values))
    places = np.arange(len(values))
    return np.asarray(ends[np.searchsorted(ends, places, side="right")] - places)
