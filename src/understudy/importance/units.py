"""The units that an analysis is cut into: one time on some blocks of held-out text, and some trajectories."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.importance.held_out import block_sums
from understudy.importance.trajectories import measure_chunk
from understudy.noise import NoiseSchedule
from understudy.sampling import SamplingTask
from understudy.work import Tools


@dataclass(frozen=True)
class HeldOutUnit:
    """Blocks (j, L) under uniforms (j, L) at one time; keys: of all models, the reference first."""

    keys: tuple[str, ...]
    blocks: NDArray[np.int64]
    uniforms: NDArray[np.float64]
    time: float
    noise: NoiseSchedule
    batch_size: int

    def run(self, tools: Tools) -> Generator[int, None, dict[str, list[float]]]:
        """`block_sums` of the blocks."""
        denoisers = {key: tools.denoisers[key] for key in self.keys}
        found = block_sums(denoisers, self.keys[0], self.blocks, self.uniforms, self.time, self.noise, self.batch_size)
        yield len(self.blocks)
        return found


@dataclass(frozen=True)
class TrajectoryUnit:
    """Trajectories of the reference, the first of `keys`, beside which the others look; `task` is without models."""

    keys: tuple[str, ...]
    task: SamplingTask
    positions: int
    edges: NDArray[np.int64]

    def run(self, tools: Tools) -> Generator[int, None, Any]:
        """`measure_chunk` of the trajectories."""
        reference, *others = self.keys
        task = replace(self.task, denoisers={reference: tools.denoisers[reference]})
        beside = {key: tools.denoisers[key] for key in others}
        return (yield from measure_chunk(task, beside, positions=self.positions, edges=self.edges))
