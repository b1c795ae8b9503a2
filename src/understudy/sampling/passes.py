"""Running passes: on the device as they are written."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser, Positions
from understudy.sampling.draw import draw
from understudy.sampling.queue import Pass

Scalar = TypeVar("Scalar", np.int64, np.float64)


class PassSettings(Protocol):
    """What all passes on one canvas share; a `SamplingTask` is one."""

    @property
    def denoisers(self) -> Mapping[str, Denoiser]:
        """Models by key."""
        ...

    @property
    def mask_id(self) -> int:
        """The mask token of all of them."""
        ...

    @property
    def temperature(self) -> float:
        """At least 0; see `draw.probabilities`."""
        ...

    @property
    def top_p(self) -> float:
        """In (0, 1]; see `draw.probabilities`."""
        ...

    @property
    def batch_size(self) -> int:
        """Most sequences in a pass."""
        ...


class EagerPasses:
    """Passes operation by operation, on any device and for any denoiser.

    canvas: int64 (n, L) or more rows, filled in place. is_healthy: bool () on the device, whether all probabilities so
    far were finite.
    """

    def __init__(self, settings: PassSettings, canvas: torch.Tensor) -> None:
        self.settings, self.canvas = settings, canvas
        self.is_healthy = torch.ones((), dtype=torch.bool, device=canvas.device)

    def run(self, queue: Iterable[Pass]) -> Iterator[Pass]:
        """Make the passes in order; give each when it is under way."""
        for batch in queue:
            self.make(batch)
            yield batch

    @torch.inference_mode()
    def make(self, batch: Pass) -> None:
        """Reveal one batch on the canvas."""
        self.reveal(batch, self.look(self.settings.denoisers[batch.key], batch, batch.where))

    def look(self, model: Denoiser, batch: Pass, where: Positions) -> torch.Tensor:
        """Logits (R, V) that a model gives for the batch's sequences as they are now, on the canvas's device."""
        times = torch.from_numpy(batch.times) if model.uses_time else None
        xt = self.canvas[self._put(batch.samples)]
        return model.logits(xt.to(model.device), times, where).to(self.canvas.device)

    def reveal(self, batch: Pass, logits: torch.Tensor) -> None:
        """Draw the batch's tokens from logits (R, V) at its positions, and write them on the canvas."""
        own = self.settings
        tokens, is_finite = draw(
            logits, self._put(batch.uniforms), own.mask_id, temperature=own.temperature, top_p=own.top_p
        )
        self.canvas[self._put(batch.samples[batch.where.rows]), self._put(batch.where.cols)] = tokens
        self.is_healthy &= is_finite

    def _put(self, array: NDArray[Scalar]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.canvas.device, non_blocking=True)
