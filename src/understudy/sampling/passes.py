"""Running the passes of a plan: on the device as they are written."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.sampling.draw import draw
from understudy.sampling.queue import Pass
from understudy.sampling.task import SamplingTask

Scalar = TypeVar("Scalar", np.int64, np.float64)


class EagerPasses:
    """Passes operation by operation, on any device and for any denoiser.

    canvas: int64 (n, L) or more rows, filled in place. is_healthy: bool () on the device, whether all probabilities so
    far were finite.
    """

    def __init__(self, task: SamplingTask, canvas: torch.Tensor) -> None:
        self.task, self.canvas = task, canvas
        self.is_healthy = torch.ones((), dtype=torch.bool, device=canvas.device)

    def run(self, queue: Iterable[Pass]) -> Iterator[Pass]:
        """Make the passes in order; give each when it is under way."""
        for batch in queue:
            self.make(batch)
            yield batch

    @torch.inference_mode()
    def make(self, batch: Pass) -> None:
        """Reveal one batch on the canvas."""
        task, device = self.task, self.canvas.device
        model = task.denoisers[batch.key]
        samples = self._put(batch.samples)
        rows, cols = self._put(batch.where.rows), self._put(batch.where.cols)
        times = torch.from_numpy(task.plan.times[batch.steps]) if model.uses_time else None
        logits = model.logits(self.canvas[samples].to(model.device), times, batch.where).to(device)
        tokens, is_finite = draw(
            logits, self._put(batch.uniforms), task.mask_id, temperature=task.temperature, top_p=task.top_p
        )
        self.canvas[samples[rows], cols] = tokens
        self.is_healthy &= is_finite

    def _put(self, array: NDArray[Scalar]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.canvas.device, non_blocking=True)
