"""From logits and uniforms to tokens: the inverse distribution function, in float64.

One uniform per token replaces one Gumbel variable per vocabulary entry; the draw has the same law, and none of the
bias of float32 noise (Zheng et al. 2024, arXiv 2409.02908). Shapes: R rows, V vocabulary.
"""

import torch

from understudy.errors import SettingError


def check_draw_settings(temperature: float, top_p: float) -> None:
    """Raise SettingError unless temperature is at least 0 and finite, and top_p in (0, 1]."""
    if not 0 <= temperature < float("inf"):
        raise SettingError(f"temperature is {temperature}; it must be 0 (most likely token) or more")
    if not 0 < top_p <= 1:
        raise SettingError(f"top_p is {top_p}; it must lie in (0, 1], where 1 keeps every token")


def probabilities(logits: torch.Tensor, mask_id: int, *, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    """p(x0 | xt) in float64 (R, V) from logits (R, V): no mass on the mask, then temperature, then nucleus.

    temperature 0 puts all mass on the most likely token. top_p keeps the fewest most likely tokens whose mass reaches
    top_p (Holtzman et al. 2020, arXiv 1904.09751), renormalised. A row with a NaN, or with nothing but −∞, gives NaN.
    """
    mask = torch.tensor([mask_id], device=logits.device)
    logits = logits.double().index_fill(-1, mask, -torch.inf)
    logits = logits - logits.amax(-1, keepdim=True)  # so that no temperature can overflow; NaN where none is finite
    if temperature == 0:
        best = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
        return torch.where(torch.isnan(logits).any(-1, keepdim=True), torch.nan, best)
    probs = torch.softmax(logits / temperature, dim=-1)
    return probs if top_p == 1 else _nucleus(probs, top_p)


def inverse_cdf(probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Token (R,) at which the distribution function of probs (R, V) first exceeds uniforms (R,) in [0, 1).

    Never a token of probability 0; a row of NaN gives some token in range.
    """
    cdf = probs.cumsum(-1)
    total = cdf[:, -1:]
    token = torch.searchsorted(cdf, uniforms[:, None] * total, right=True)
    # u·total can round up to total, past the end: the last token with any mass is then the answer.
    last = torch.searchsorted(cdf, total.contiguous())
    return torch.minimum(token, last).squeeze(-1).clamp(max=probs.shape[-1] - 1)


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # mass of the more likely tokens
    kept = torch.zeros_like(probs).scatter(-1, index, ordered * (before < top_p))
    return kept / kept.sum(-1, keepdim=True)
