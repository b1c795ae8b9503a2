"""Several processes that share a comparison, one GPU each: `accelerate launch -m understudy evaluate …`.

A sample is a function of (seed, index), so process r of w takes a contiguous stretch of the samples of every cell and
judges them; the first process gathers numbers and reports. Only arrays travel, nothing is pickled.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import SettingError
from understudy.evaluation.comparison import Comparison
from understudy.evaluation.running import SampledCell, sample_cells, summarise_cells
from understudy.evaluation.tasks import ComparisonProgress, ComparisonTask
from understudy.sampling import Chosen


@dataclass(frozen=True)
class Processes:
    """The processes of a launch, as accelerate sees them. index: of this one, from 0; count: of all."""

    state: Any
    index: int
    count: int

    @classmethod
    def join(cls, *, cpu: bool = False) -> "Processes":
        """Meet the processes that `accelerate launch` or torchrun started; `cpu` keeps to the CPU where GPUs are there.

        SettingError where accelerate, the extra `train`, is not installed.
        """
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise SettingError("several processes need accelerate: pip install 'understudy[train]'") from error
        state = PartialState(cpu=cpu)
        return cls(state, int(state.process_index), int(state.num_processes))

    @property
    def device(self) -> str:
        """Device of this process."""
        return str(self.state.device)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that reports."""
        return self.index == 0

    def bounds(self, total: int) -> list[tuple[int, int]]:
        """First of `total` samples and one past the last, of each process; their numbers differ by one at most."""
        if total < self.count:
            raise SettingError(f"{self.count} processes share {total} samples; ask for as many samples or more")
        ends = [total * index // self.count for index in range(self.count + 1)]
        return list(pairwise(ends))

    def gather(self, values: NDArray[Any], total: int) -> NDArray[Any]:
        """Rows (total, …) of all processes in order, from this one's own; every process has to call it."""
        from accelerate.utils import gather

        sizes = [last - first for first, last in self.bounds(total)]
        padded = np.zeros((max(sizes), *values.shape[1:]), dtype=values.dtype)
        padded[: len(values)] = values
        found = gather(torch.from_numpy(padded).to(self.state.device)).cpu().numpy()
        stretches = np.split(found, self.count)
        return np.concatenate([stretch[:size] for stretch, size in zip(stretches, sizes, strict=True)])

    def leave(self) -> None:
        """Take leave of the others."""
        self.state.destroy_process_group()


def compare_on_all(
    processes: Processes, task: ComparisonTask
) -> Generator[ComparisonProgress, None, Comparison | None]:
    """`compare_schedules` by all processes together; gives the comparison in the first, None in the others.

    Every process must have created the same task. The records speak of this process's own samples. Figures equal those
    of one process up to the rounding of the judge's matrix products; seconds are those of the slowest process.
    """
    first, last = processes.bounds(task.num_samples)[processes.index]
    own = yield from sample_cells(task.part(first, last))
    gathered = _gathered(processes, own, task.num_samples)
    return (yield from summarise_cells(task, gathered)) if processes.is_first else None


def _gathered(processes: Processes, own: Sequence[SampledCell], total: int) -> list[SampledCell]:
    found = []
    for cell in own:
        tokens = processes.gather(cell.tokens.numpy(), total)
        sums, counts = processes.gather(cell.nll_sums, total), processes.gather(cell.counts, total)
        seconds = processes.gather(np.full((len(cell.counts), 1), cell.seconds), total)
        chosen = None if cell.chosen is None else _chosen(processes, cell.chosen, total)
        found.append(SampledCell(torch.from_numpy(tokens), sums, counts, float(seconds.max()), chosen))
    return found


def _chosen(processes: Processes, own: Chosen, total: int) -> Chosen:
    """What the runs of all processes tell; their costs, which have no row for each sample, stand in the first rows."""
    costs = []
    for values in (own.passes, own.flops):
        rows = np.zeros((len(own.reveal_step), values.shape[1]), dtype=values.dtype)
        rows[0] = values.sum(axis=0)
        costs.append(processes.gather(rows, total))
    return Chosen(processes.gather(own.reveal_step, total), *costs)
