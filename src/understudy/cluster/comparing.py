"""`compare_schedules` by many workers: each samples and judges stretches of the samples of a cell.

A sample is a function of (seed, index), and a stretch begins and ends between two batches of the judge. So on the CPU
the figures are those of one process to the last bit where the judge reads ids, and up to rounding where it reads
texts, whose lengths differ.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from understudy.cluster.parts import Arrays, FinishedParts, stretch_size
from understudy.cluster.sampling import with_models
from understudy.driving import mapped
from understudy.evaluation import Comparison, ComparisonProgress, ComparisonTask, Scoring
from understudy.evaluation.running import SampledCell, sample_cells, summarise_cells
from understudy.evaluation.tasks import Cell
from understudy.sampling import Chosen, part_of, passes_of, request_of
from understudy.work import Finished, Tools, Workforce


@dataclass(frozen=True)
class JudgedStretch:
    """Some samples of one cell, to be sampled and judged; its task is without models."""

    cell: Cell
    scoring: Scoring

    def run(self, tools: Tools) -> Generator[int, None, Arrays]:
        """Yields passes; gives tokens (n, L), nll_sums (n,), counts (n,), seconds (1,); and what no plan knows."""
        cell = replace(self.cell, task=with_models(self.cell.task, tools.denoisers))
        task = ComparisonTask(tools.denoisers, (cell,), (0,), tools.judge, self.scoring, tools.tokenizer, {})
        before = 0

        def further(record: ComparisonProgress) -> int:
            nonlocal before
            step, before = record.passes_done - before, record.passes_done
            return step

        (done,) = yield from mapped(sample_cells(task), further)
        tokens = done.tokens.numpy().astype(np.int32)
        own: Arrays = {
            "tokens": tokens,
            "nll_sums": done.nll_sums,
            "counts": done.counts,
            "seconds": np.array([done.seconds]),
        }
        return own if done.chosen is None else own | done.chosen.arrays()


def compare_on_cluster(
    task: ComparisonTask, workforce: Workforce, parts: FinishedParts | None = None
) -> Generator[ComparisonProgress, None, Comparison]:
    """Sample and judge by a workforce whose models and judge are those of the task; the return value is the comparison.

    parts: where finished stretches are kept; a comparison that was stopped goes on from them, by any number of workers.
    The records are those of `compare_schedules`, of several cells in turn. Seconds are those of all workers together.
    Raises what `run_comparison` raises, and the errors of the workforce and of `parts`.
    """
    run = _Run(task, FinishedParts() if parts is None else parts)
    yield from run.waiting()
    size = stretch_size(
        [task.num_samples] * len(task.cells),
        request_of(task.cells[0].task).batch_size,
        len(workforce),
        multiple=task.scoring.judge_batch_size,
    )
    stretches = {run.name(*place): place for place in run.missing(size)}
    for event in workforce.do((name, run.work(*place)) for name, place in stretches.items()):
        place = stretches[event.unit]
        yield run.finish(*place, event.result) if isinstance(event, Finished) else run.advance(place[0], event.amount)
    return (yield from summarise_cells(task, run.sampled()))


class _Run:
    """How far every cell is."""

    def __init__(self, task: ComparisonTask, parts: FinishedParts) -> None:
        self.task, self.parts = task, parts
        self.scoring = Scoring(task.scoring.protocol, task.scoring.judge_batch_size, task.scoring.bos_id)
        self.done: list[int] = []
        self.passes: list[int] = []
        for number, cell in enumerate(task.cells):
            stretches = parts.stretches(number)
            self.done.append(sum(end - first for first, end in stretches))
            self.passes.append(sum(passes_of(cell.task, first, end) for first, end in stretches))

    def waiting(self) -> Iterator[ComparisonProgress]:
        """What is to come, cell by cell."""
        for number in range(len(self.task.cells)):
            yield self._record(number, "waiting")

    def missing(self, size: int) -> Iterator[tuple[int, int, int]]:
        """Cell, first sample and one past the last of every stretch that is not finished."""
        for number in range(len(self.task.cells)):
            for first, end in self.parts.gaps(number, self.task.num_samples, size):
                yield number, first, end

    def name(self, number: int, first: int, end: int) -> str:
        """What a stretch is called."""
        return f"{self.task.cells[number].label} {first}:{end}"

    def work(self, number: int, first: int, end: int) -> JudgedStretch:
        """A stretch, ready to travel."""
        cell = self.task.cells[number]
        return JudgedStretch(replace(cell, task=with_models(part_of(cell.task, first, end), {})), self.scoring)

    def advance(self, number: int, passes: int) -> ComparisonProgress:
        """A cell is so much further."""
        self.passes[number] += passes
        return self._record(number, "sampling")

    def finish(self, number: int, first: int, end: int, arrays: Arrays) -> ComparisonProgress:
        """Keep a stretch."""
        self.parts.put(number, first, end, arrays)
        self.done[number] += end - first
        return self._record(number, "done" if self.done[number] == self.task.num_samples else "sampling")

    def sampled(self) -> list[SampledCell]:
        """All cells, whole."""
        found = []
        for number in range(len(self.task.cells)):
            own = self.parts.joined(number)
            tokens = torch.from_numpy(own["tokens"].astype(np.int64))
            figures = own["nll_sums"], own["counts"], float(own["seconds"].sum())
            found.append(SampledCell(tokens, *figures, Chosen.from_arrays(own)))
        return found

    def _record(self, number: int, stage: Any) -> ComparisonProgress:
        left = self.task.num_samples - self.done[number]
        return self.task.cells[number].progress(stage, open_samples=left, passes=self.passes[number])
