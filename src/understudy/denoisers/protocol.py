"""What the sampling engine asks of a model, and nothing more.

Shapes: B sequences in the batch, L length, R revealed positions of all B sequences together, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.flops import PassFlops


@dataclass(frozen=True)
class Positions:
    """Where in a batch logits are wanted: R pairs (row, column), known on the host before the pass.

    rows, cols: int64 arrays (R,), sorted by row; every row of the batch occurs at least once.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Positions wanted per row of the batch (B,)."""
        return np.bincount(self.rows)

    def padded(self, width: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give `columns` (B, M) and `flat` (R,): row r wants columns[r, :counts[r]].

        width: M, the largest count unless given. Rows with fewer than M positions repeat their first one; `flat` picks
        the R wanted entries out of the B·M computed ones, in the order of `rows` and `cols`.
        """
        counts = self.counts
        width = int(counts.max()) if width is None else width
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        offset = np.arange(len(self.rows)) - starts[self.rows]
        columns = np.repeat(self.cols[starts][:, None], width, axis=1)
        columns[self.rows, offset] = self.cols
        return columns, self.rows * width + offset


class Denoiser(Protocol):
    """A model p(x0 | xt) for masked diffusion, as the engine sees it.

    vocab_size: width V of the logits.
    mask_id: the token that stands for "masked"; its logit is ignored.
    max_length: longest sequence the model takes, or None where there is no limit.
    uses_time: whether `t` changes the answer.
    noise: name of the noise schedule in which it reads `t`; None where time does not matter.
    begin_id: the token that every training sequence began with, or None; a prefix goes after it.
    end_id: the token that ended every document of training, or None where the model never draws one.
    device: where `xt` must lie and where the logits come back.
    """

    vocab_size: int
    mask_id: int
    max_length: int | None
    uses_time: bool
    noise: str | None
    begin_id: int | None
    end_id: int | None

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        ...

    def logits(self, xt: torch.Tensor, t: torch.Tensor | None = None, where: Positions | None = None) -> torch.Tensor:
        """Logits of x0.

        xt: int64 (B, L). t: float (B,) in [0, 1], 1 = all masked, on the CPU, where the plan knows it; needed where
        `uses_time`.
        where: the positions wanted; the answer is then (R, V) in their order, else (B, L, V).
        """
        ...

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of one pass of one sequence: full, or with logits at `revealed` positions only."""
        ...


@runtime_checkable
class CapturableDenoiser(Denoiser, Protocol):
    """A denoiser whose pass can become a CUDA graph: fixed shapes, no look at the host, nothing to wait for."""

    def logits_at(
        self, xt: torch.Tensor, columns: torch.Tensor, flat: torch.Tensor, time: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (R, V) at `flat` of the B·M positions `columns`, as `Positions.padded` gives them.

        xt: int64 (B, L). columns: int64 (B, M). flat: int64 (R,). time: float64 (B,), from `encode_time`, where
        `uses_time`. All on the model's device.
        """
        ...

    def encode_time(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """What `logits_at` wants to know of the times t (B,) in [0, 1]: float64 (B,)."""
        ...
