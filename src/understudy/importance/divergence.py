"""How far two predictions lie apart, row by row. Shapes: R rows, V vocabulary."""

from dataclasses import dataclass

import torch

MASKED = -1e30  # stands for minus infinity: a mass of exactly 0 that makes no NaN


@dataclass(frozen=True)
class RowDivergence:
    """Of R predictions, float32 (R,): KL(reference ‖ other), KL(other ‖ reference), and 1 where best tokens agree."""

    kl: torch.Tensor
    reverse_kl: torch.Tensor
    agreement: torch.Tensor


def log_probabilities(logits: torch.Tensor, mask_id: int) -> torch.Tensor:
    """Log of p(x0 | xt) (R, V) in float32, with no mass on the mask."""
    values = logits.to(torch.float32, copy=True).clamp_(min=MASKED)
    values[:, mask_id] = MASKED
    return torch.log_softmax(values, dim=-1)


def row_divergence(reference: torch.Tensor, other: torch.Tensor) -> RowDivergence:
    """Compare log-probabilities (R, V) row by row."""
    difference = reference - other
    return RowDivergence(
        kl=(reference.exp() * difference).sum(-1),
        reverse_kl=-(other.exp() * difference).sum(-1),
        agreement=(reference.argmax(-1) == other.argmax(-1)).float(),
    )
