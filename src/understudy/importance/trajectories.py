"""Path KL per step on the reference's own trajectories.

A trajectory is sampled by the reference alone, lazily, and whenever it makes a pass every other model looks at the same
canvas. Which positions a step reveals is independent of what they hold, so the KL of the revealed positions, summed, is
an unbiased estimate of D_k (`record.PathDivergence`). Given how many a step reveals, they are a uniform choice of the
masked ones; so more masked positions may be looked at, and their mean KL times the number revealed has the same
expectation and, step by step, less variance.

Shapes: n samples, L length, N steps, M models besides the reference, B bins, R positions looked at.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser, Positions
from understudy.errors import ModelError
from understudy.importance.divergence import log_probabilities, row_divergence
from understudy.importance.record import PathDivergence
from understudy.sampling import SamplingTask
from understudy.sampling.passes import EagerPasses
from understudy.sampling.queue import Pass, PassQueue

SETTLE_EVERY = 64  # passes whose results lie on the device at a time
LEAST_SAMPLES = 2  # whose spread is known


def bin_edges(num_steps: int, num_bins: int) -> NDArray[np.int64]:
    """Steps (B + 1,) at which bins of nearly equal length begin and end; no more bins than steps."""
    return np.unique(np.round(np.linspace(0, num_steps, min(num_bins, num_steps) + 1)).astype(np.int64))


class MeasuredPasses(EagerPasses):
    """Passes of the reference beside which other models are asked for the same positions.

    values: float64 (n, M, N), filled as passes are made: the estimate of D_k by each sample's events.
    """

    def __init__(
        self, task: SamplingTask, canvas: torch.Tensor, others: Mapping[str, Denoiser], positions: int
    ) -> None:
        super().__init__(task, canvas)
        self.others, self.positions = others, positions
        shape = (task.plan.num_samples, len(others), task.plan.num_steps)
        self.values = np.zeros(shape)
        self._order, self._first = _reveal_order(task)
        self._pending: list[tuple[Pass, Positions, torch.Tensor]] = []

    @torch.inference_mode()
    def make(self, batch: Pass) -> None:
        """Reveal one batch, and note how far the others are from it."""
        where, is_revealed = self._widened(batch)
        logits = self.look(self.settings.denoisers[batch.key], batch, where)
        log_p = log_probabilities(logits, self.settings.mask_id)
        found = []
        for model in self.others.values():
            other = log_probabilities(self.look(model, batch, where), self.settings.mask_id)
            found.append(row_divergence(log_p, other).kl)
        self._pending.append((batch, where, torch.stack(found)))
        self.reveal(batch, logits[self._put(np.flatnonzero(is_revealed))])

    def settle(self) -> None:
        """Move what has been found from the device into `values`."""
        for batch, where, kl in self._pending:
            counts = np.bincount(where.rows, minlength=len(batch.samples))
            revealed = np.bincount(batch.where.rows, minlength=len(batch.samples))
            for index, row in enumerate(kl.double().cpu().numpy()):
                mean = np.bincount(where.rows, weights=row, minlength=len(batch.samples)) / counts
                self.values[batch.samples, index, batch.steps] += revealed * mean
        self._pending.clear()

    def _widened(self, batch: Pass) -> tuple[Positions, NDArray[np.bool_]]:
        """Positions to look at, and which of them are revealed: these first in each row, then others still masked.

        The others are those that will be revealed next: a uniform choice of the masked ones, since the order of reveals
        is independent of the tokens.
        """
        rows, cols, is_revealed = [], [], []
        for row, (sample, step) in enumerate(zip(batch.samples, batch.steps, strict=True)):
            mine = batch.where.cols[batch.where.rows == row]
            start = int(self._first[sample, step]) + len(mine)
            more = self._order[sample, start : start + max(0, self.positions - len(mine))]
            more = more[more >= 0]
            rows += [row] * (len(mine) + len(more))
            cols += [*mine, *more]
            is_revealed += [True] * len(mine) + [False] * len(more)
        return Positions(np.array(rows), np.array(cols, dtype=np.int64)), np.array(is_revealed)


def _reveal_order(task: SamplingTask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Free positions of each sample in the order of their reveals (n, L), −1 behind the last; reveals before a step.

    Reveals of one step follow each other in the order of their uniforms, which only the tokens drawn there depend on.
    """
    plan = task.plan
    steps = np.where(plan.reveal_step < 0, plan.num_steps + 1, plan.reveal_step)
    order = np.lexsort((plan.uniforms, steps), axis=1)
    is_given = np.take_along_axis(plan.reveal_step, order, axis=1) < 0
    before = np.zeros((plan.num_samples, plan.num_steps + 2), dtype=np.int64)
    for sample, row in enumerate(steps):
        before[sample, 1:] = np.cumsum(np.bincount(row, minlength=plan.num_steps + 1)[: plan.num_steps + 1])
    return np.where(is_given, -1, order), before


def measure_chunk(
    task: SamplingTask, others: Mapping[str, Denoiser], *, positions: int, edges: NDArray[np.int64]
) -> Generator[int, None, list[dict[str, Any]]]:
    """Sample a task by its one model, the reference, and sum what is found over its samples.

    Yields the number of sequences in each pass. The return value is that of `half_sums`. ModelError for logits that
    nobody can draw from.
    """
    device = next(iter(task.denoisers.values())).device
    canvas = torch.tensor(task.template, device=device)
    passes = MeasuredPasses(task, canvas, others, positions)
    for number, batch in enumerate(passes.run(PassQueue(task.plan, task.schedule, task.batch_size))):
        if number % SETTLE_EVERY == SETTLE_EVERY - 1:
            passes.settle()
        yield len(batch.samples)
    passes.settle()
    if not bool(passes.is_healthy) or not np.isfinite(passes.values).all():
        raise ModelError("a model returned logits with NaN or no finite entry; is its checkpoint intact?")
    return half_sums(passes.values, np.asarray(task.indices), edges)


def half_sums(
    values: NDArray[np.float64], indices: NDArray[np.int64], edges: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Sum estimates of D_k (n, M, N) over the samples of even index (n,), and over those of odd, plain for a file.

    Of each half `count`, its samples; `steps` and `step_squares`, Σ over them of D_k and of its square (M, N); `bins`,
    Σ of their sums in bins (M·B); `squares`, Σ of the products of these (M·B, M·B). Which half a sample is of hangs on
    its index alone, so that it does not matter how samples are cut into chunks.
    """
    sums = []
    for parity in (0, 1):
        mine = values[indices % 2 == parity]
        binned = np.add.reduceat(mine, edges[:-1], axis=2).reshape(len(mine), values.shape[1] * (len(edges) - 1))
        sums.append(
            {
                "count": len(mine),
                "steps": mine.sum(axis=0).tolist(),
                "step_squares": (mine**2).sum(axis=0).tolist(),
                "bins": binned.sum(axis=0).tolist(),
                "squares": (binned.T @ binned).tolist(),
            }
        )
    return sums


def path_divergence(
    name: str,
    chunks: Sequence[Sequence[Mapping[str, Any]]],
    keys: Sequence[str],
    edges: NDArray[np.int64],
    task: SamplingTask,
) -> PathDivergence:
    """Put the chunks of one condition, each of `half_sums`, together; two samples or more, and halves from four on."""
    parts = [[chunk[half] for chunk in chunks] for half in (0, 1)]
    halves = tuple(_put_together(name, part, keys, edges, task) for part in parts if _count(part) >= LEAST_SAMPLES)
    whole = _put_together(name, [*parts[0], *parts[1]], keys, edges, task)
    return replace(whole, halves=halves) if len(halves) == len(parts) else whole


def _count(sums: Sequence[Mapping[str, Any]]) -> int:
    return sum(entry["count"] for entry in sums)


def _put_together(
    name: str, sums: Sequence[Mapping[str, Any]], keys: Sequence[str], edges: NDArray[np.int64], task: SamplingTask
) -> PathDivergence:
    count = _count(sums)
    names = ("steps", "step_squares", "bins", "squares")
    mean = {name: np.sum([entry[name] for entry in sums], axis=0) / count for name in names}
    return PathDivergence(
        name=name,
        num_steps=task.plan.num_steps,
        length=task.plan.length,
        free_positions=int(np.count_nonzero(task.template[0] == task.mask_id)),
        num_samples=count,
        keys=tuple(keys),
        per_step=mean["steps"],
        step_variances=(mean["step_squares"] - mean["steps"] ** 2) / (count - 1),
        bins=edges,
        bin_means=mean["bins"].reshape(len(keys), -1),
        covariance=(mean["squares"] - np.outer(mean["bins"], mean["bins"])) / (count - 1),
    )
