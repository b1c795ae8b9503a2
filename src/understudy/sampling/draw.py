"""From logits and uniforms to tokens: the inverse distribution function, in float64.

One uniform per token replaces one Gumbel variable per vocabulary entry; the draw has the same law, and none of the
bias of float32 noise (Zheng et al. 2024, arXiv 2409.02908). Shapes: R rows, V vocabulary.
"""

from importlib.util import find_spec

import torch

from understudy.errors import SettingError

HAS_TRITON = find_spec("triton") is not None  # it comes with PyTorch for CUDA


def check_draw_settings(temperature: float, top_p: float) -> None:
    """Raise SettingError unless temperature is at least 0 and finite, and top_p in (0, 1]."""
    if not 0 <= temperature < float("inf"):
        raise SettingError(f"temperature is {temperature}; it must be 0 (most likely token) or more")
    if not 0 < top_p <= 1:
        raise SettingError(f"top_p is {top_p}; it must lie in (0, 1], where 1 keeps every token")


def draw(
    logits: torch.Tensor, uniforms: torch.Tensor, mask_id: int, *, temperature: float = 1.0, top_p: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (R,) of logits (R, V) at uniforms (R,), and whether all probabilities were finite: bool ().

    The law of `inverse_cdf(probabilities(…))`; on a GPU by kernels that make no float64 copy of the logits, where
    there is Triton and nothing needs one.
    """
    if logits.is_cuda and temperature > 0 and top_p == 1 and HAS_TRITON:
        from understudy.sampling import draw_kernels  # here, because it needs Triton

        with torch.cuda.device(logits.device):  # Triton launches on the current one
            return draw_kernels.draw(logits, uniforms, mask_id, temperature)
    probs = probabilities(logits, mask_id, temperature=temperature, top_p=top_p)
    return inverse_cdf(probs, uniforms), torch.isfinite(probs).all()


def probabilities(
    logits: torch.Tensor,
    mask_id: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """p(x0 | xt) (R, V) from logits (R, V): no mass on the mask, then temperature, then nucleus.

    temperature 0 puts all mass on the most likely token. top_p keeps the fewest most likely tokens whose mass reaches
    top_p (Holtzman et al. 2020, arXiv 1904.09751), renormalised. A row with a NaN, or with nothing but −∞, is all NaN.
    """
    logits = logits.to(dtype, copy=True)
    logits[..., mask_id] = -torch.inf
    if temperature == 0:
        best = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        top = logits.amax(-1, keepdim=True)  # NaN where one of the row is
        return torch.where(torch.isfinite(top), best, torch.nan)
    if temperature != 1:
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # from 0 down: no temperature can overflow
    probs = torch.softmax(logits, dim=-1)
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
