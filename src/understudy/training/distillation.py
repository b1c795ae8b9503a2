"""Distillation: the network learns what a frozen teacher predicts at masked positions, beside what the text holds.

With p the teacher's and q the network's distribution of a masked token, and y the token that was there, the loss of a
position is

    λ·KL(p ‖ q) + (1 − λ)·(−log q(y)).

Training gives both terms the weight of the bound, −α'(t) / (1 − α(t)). So weighted, summed over positions and averaged
over all times, the first is the path KL per token of a schedule in which the network makes every step, with noised text
in place of the teacher's own samples: what a plan spends, and what its certificate is made of.

Shapes: b sequences, L length, D width, V vocabulary, m predicted positions of all sequences together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from understudy.denoisers.dit import DiTForMaskedLM
from understudy.errors import SettingError
from understudy.importance.divergence import log_probabilities
from understudy.training.losses import TokenLoss, compile_options
from understudy.training.networks import check_fits_data, load_dit
from understudy.training.settings import TrainingConfig

MAX_LOGITS = 2**27  # entries of the logits that each of both networks holds at a time


class Teacher:
    """A frozen masked denoiser. No part of what is trained: it is neither sharded, averaged nor saved."""

    def __init__(self, network: DiTForMaskedLM) -> None:
        self.network = network.eval().requires_grad_(False)
        self.hidden: Callable[..., torch.Tensor] = network.hidden

    @classmethod
    def load(cls, path: str | Path, config: TrainingConfig, manifest: Any, device: torch.device) -> Teacher:
        """Load it, in float32, onto `device`.

        Raises the errors of `load_dit` and `check_fits_data`; SettingError where it reads time in another noise
        schedule than that of the run.
        """
        network = load_dit(path)
        check_fits_data(path, network.config, manifest)
        if network.config.time_conditioning and network.config.noise != config.noise:
            raise SettingError(
                f"noise is {config.noise!r}, but the teacher in {str(path)!r} reads time in {network.config.noise!r}; "
                "give that"
            )
        return cls(cast(DiTForMaskedLM, network.to(device)))

    def compile(self) -> None:
        """Compile the trunk."""
        self.hidden = torch.compile(self.network.hidden, options=compile_options())


class DistillationLoss(TokenLoss):
    """In training the loss above at chosen positions; in evaluation the cross-entropy, like any `TokenLoss`.

    share: λ in [0, 1]. max_logits: entries of the logits held at a time; where there are more, positions go piece by
    piece and each piece is computed anew for its gradient, so that memory does not grow with their number.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        teacher: Teacher,
        mask_id: int,
        share: float,
        precision: torch.dtype = torch.float32,
        *,
        max_logits: int = MAX_LOGITS,
    ) -> None:
        super().__init__(network, mask_id, precision)
        self.teacher, self.share, self.max_logits = teacher, share, max_logits
        self._piece: Callable[..., torch.Tensor] = self._piece_loss

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Loss in nats (m,), float32, of `targets` (m,) at `positions` (m,) of the flattened `input_ids` (b, L)."""
        if not self.training:
            return super().forward(input_ids, positions, targets, sigma)
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            with torch.no_grad():
                taught = self.teacher.hidden(input_ids, sigma).flatten(0, 1).index_select(0, positions)
            hidden = self._trunk(input_ids, sigma).flatten(0, 1).index_select(0, positions)  # (m, D)
            rows = max(1, self.max_logits // self.network.config.vocab_size)
            if len(positions) <= rows:
                return self._piece(hidden, taught, targets)
            pieces = zip(*(torch.split(tensor, rows) for tensor in (hidden, taught, targets)), strict=True)
            options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
            return torch.cat([checkpoint(self._piece, *piece, **options) for piece in pieces])

    def compile_parts(self, *, by_block: bool) -> None:
        """Compile trunks and tail; `by_block` leaves the tail as it is and compiles the network block by block."""
        super().compile_parts(by_block=by_block)
        self.teacher.compile()
        if not by_block:
            self._piece = torch.compile(self._piece_loss, options=compile_options())

    def _piece_loss(self, hidden: torch.Tensor, taught: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss (m,) from hidden states (m, D) of network and teacher."""
        assert self.mask_id is not None
        with torch.no_grad():
            wanted = log_probabilities(self.teacher.network.head(taught), self.mask_id)  # (m, V)
        found = log_probabilities(self.network.head(hidden), self.mask_id)
        divergence = (wanted.exp() * (wanted - found)).sum(-1)
        entropy = -found.gather(1, targets[:, None])[:, 0]
        return self.share * divergence + (1 - self.share) * entropy
