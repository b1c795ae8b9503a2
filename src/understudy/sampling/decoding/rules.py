"""How sure a model is of each masked position: the scores by which confidence-ordered rules choose.

Every score is higher for what is to be revealed sooner. They are functions of probabilities probs, float64 (R, V), at R
masked positions, and of the tokens (R,) drawn there. Shapes: R positions, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch


def low_confidence(probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Probability of the drawn token (R,), in [0, 1]; what has the least stays masked.

    MaskGIT (Chang et al. 2022, arXiv 2202.04200); `remasking="low_confidence"` of LLaDA (Nie et al. 2025, arXiv
    2502.09992), `maskgit_plus` of Dream.
    """
    return probs.gather(-1, tokens[:, None]).squeeze(-1)


def margin(probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Probability of the likeliest token less that of the second (R,), in [0, 1]; the drawn tokens do not matter.

    Top probability margin (Kim et al. 2025, arXiv 2502.06768); `topk_margin` of Dream (Ye et al. 2025, arXiv
    2508.15487).
    """
    top = probs.topk(2, dim=-1).values
    return top[:, 0] - top[:, 1]


def entropy(probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Negative entropy (R,) in nats, in [−log V, 0]; the drawn tokens do not matter.

    `entropy` of Dream (Ye et al. 2025, arXiv 2508.15487), whose code adds 1e-10 in the logarithm; here 0·log 0 is 0.
    """
    return torch.xlogy(probs, probs).sum(-1)


@dataclass(frozen=True)
class ConfidenceRule:
    """A score, and which probabilities it reads.

    reads_drawn_law: those that tokens are drawn from, after temperature and nucleus (where temperature 0 counts as 1),
        as Dream's code does; else those of the model itself, as LLaDA's code does.
    is_probability: whether the score lies in [0, 1], so that a threshold means something.
    """

    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    reads_drawn_law: bool
    is_probability: bool


CONFIDENCE_RULES: Mapping[str, ConfidenceRule] = MappingProxyType(
    {
        "low_confidence": ConfidenceRule(low_confidence, reads_drawn_law=False, is_probability=True),
        "margin": ConfidenceRule(margin, reads_drawn_law=True, is_probability=True),
        "entropy": ConfidenceRule(entropy, reads_drawn_law=True, is_probability=False),
    }
)
"""The rules that choose positions by what a model says, by name."""
