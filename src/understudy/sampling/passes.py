"""Running the passes of a plan: on the device as they are written."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser, Positions
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
        self.reveal(batch, self.look(self.task.denoisers[batch.key], batch, batch.where))

    def look(self, model: Denoiser, batch: Pass, where: Positions) -> torch.Tensor:
        """Logits (R, V) that a model gives for the batch's sequences as they are now, on the canvas's device."""
        times = torch.from_numpy(self.task.plan.times[batch.steps]) if model.uses_time else None
        xt = self.canvas[self._put(batch.samples)]
        return model.logits(xt.to(model.device), times, where).to(self.canvas.device)

    def reveal(self, batch: Pass, logits: torch.Tensor) -> None:
        """Draw the batch's tokens from logits (R, V) at its positions, and write them on the canvas."""
        task = self.task
        tokens, is_finite = draw(
            logits, self._put(batch.uniforms), task.mask_id, temperature=task.temperature, top_p=task.top_p
        )
        self.canvas[self._put(batch.samples[batch.where.rows]), self._put(batch.where.cols)] = tokens
        self.is_healthy &= is_finite

    def _put(self, array: NDArray[Scalar]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.canvas.device, non_blocking=True)
