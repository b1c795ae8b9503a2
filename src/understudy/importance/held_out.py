"""Models on held-out text noised to t: what each loses, and how far the others are from the reference.

Source: the step-importance figures of Sedykh et al. 2026 (arXiv 2604.02340); the bound is that of masked diffusion
(arXiv 2406.07524). All models see the same noise. Shapes: J blocks, L length, T times, R masked positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.budget import logit_chunks
from understudy.denoisers.protocol import Denoiser, Positions
from understudy.errors import ModelError
from understudy.importance.divergence import log_probabilities, row_divergence
from understudy.importance.record import Curve, Floats, HeldOutCurves
from understudy.noise import NoiseSchedule

MAX_LOGITS = 2**27  # entries of the logits held at a time by each of two models
COUNT = "count"


def block_sums(
    denoisers: Mapping[str, Denoiser],
    reference: str,
    blocks: NDArray[np.int64],
    uniforms: Floats,
    time: float,
    noise: NoiseSchedule,
    batch_size: int,
) -> dict[str, list[float]]:
    """Sums over the masked positions of each block at one time: lists (J,) by quantity, their number under `COUNT`.

    blocks: int64 (J, L). uniforms: (J, L), where they lie below the mask probability a token is masked. Quantities are
    `cross_entropy KEY`, and of each model but the reference `kl KEY`, `reverse_kl KEY` and `agreement KEY`.
    Raises ModelError for logits with NaN.
    """
    masked = uniforms < noise.mask_prob(time)
    sums: dict[str, Floats] = {COUNT: masked.sum(axis=1).astype(np.float64)}
    rows = np.flatnonzero(masked.any(axis=1))
    for chunk in logit_chunks(masked.sum(axis=1)[rows], batch_size, denoisers[reference].vocab_size, MAX_LOGITS):
        chosen = rows[chunk]
        values = _compare(denoisers, reference, blocks[chosen], masked[chosen], time)
        owners = chosen[np.nonzero(masked[chosen])[0]]
        for name, value in values.items():
            target = sums.setdefault(name, np.zeros(len(blocks)))
            target += np.bincount(owners, weights=value, minlength=len(blocks))
    broken = sorted({name.split()[-1] for name, value in sums.items() if not np.isfinite(value).all()})
    if broken:
        raise ModelError(f"model {' or '.join(broken)} returned logits with NaN; is its checkpoint intact?")
    return {name: value.tolist() for name, value in sums.items()}


@torch.inference_mode()
def _compare(
    denoisers: Mapping[str, Denoiser], reference: str, ids: NDArray[np.int64], masked: NDArray[np.bool_], time: float
) -> dict[str, Floats]:
    """All quantities at the masked positions, (R,) each, row by row."""
    where = Positions(*np.nonzero(masked))
    targets = torch.from_numpy(ids[masked])
    values: dict[str, torch.Tensor] = {}
    logs: dict[str, torch.Tensor] = {}
    for key in (reference, *(key for key in denoisers if key != reference)):
        model = denoisers[key]
        xt = torch.from_numpy(np.where(masked, model.mask_id, ids)).to(model.device)
        times = torch.full((len(ids),), time, dtype=torch.float64) if model.uses_time else None
        log_p = log_probabilities(model.logits(xt, times, where), model.mask_id)
        values[f"cross_entropy {key}"] = -log_p.gather(1, targets.to(log_p.device)[:, None])[:, 0]
        if key == reference:
            logs[key] = log_p
            continue
        apart = row_divergence(logs[reference], log_p.to(logs[reference].device))
        values |= {f"{name} {key}": getattr(apart, name) for name in ("kl", "reverse_kl", "agreement")}
    return {name: value.double().cpu().numpy() for name, value in values.items()}


def held_out_curves(
    sums: Sequence[Mapping[str, Sequence[float]]],
    times: Sequence[float],
    keys: Sequence[str],
    noise: NoiseSchedule,
    length: int,
) -> HeldOutCurves:
    """Put `block_sums` of all times together. keys: of all models, the reference first."""
    table = {name: np.array([entry[name] for entry in sums]) for name in sums[0]}  # (T, J) each
    counts = table.pop(COUNT)
    reference, *others = keys
    moments = np.asarray(times, dtype=np.float64)
    scale = np.asarray(noise.loss_weight(moments) * noise.mask_prob(moments))
    entropy = {key: table[f"cross_entropy {key}"] for key in keys}
    curves: dict[str, Any] = {
        name: {key: _ratio(table[f"{name} {key}"], counts) for key in others}
        for name in ("kl", "reverse_kl", "agreement")
    }
    return HeldOutCurves(
        times=moments,
        mask_prob=np.asarray(noise.mask_prob(moments)),
        cross_entropy={key: _ratio(values, counts) for key, values in entropy.items()},
        gap={key: _ratio(entropy[key] - entropy[reference], counts) for key in others},
        bound={key: _integral(values, counts, scale) for key, values in entropy.items()},
        num_blocks=counts.shape[1],
        length=length,
        **curves,
    )


def _ratio(sums: Floats, counts: Floats) -> Curve:
    """Mean per masked token of sums (T, J) over counts (T, J), and its standard error over blocks."""
    mean = sums.sum(axis=1) / counts.sum(axis=1)
    return Curve(mean, _error(_influence(sums, counts, mean)))


def _integral(sums: Floats, counts: Floats, scale: Floats) -> tuple[float, float]:
    """Mean over the times of scale·ratio, with its standard error: blocks are the same at all times."""
    mean = sums.sum(axis=1) / counts.sum(axis=1)
    influence = (scale[:, None] * _influence(sums, counts, mean)).mean(axis=0)
    return float(np.mean(scale * mean)), float(_error(influence[None])[0])


def _influence(sums: Floats, counts: Floats, mean: Floats) -> Floats:
    """What each block adds to the ratio's deviation, (T, J): its linearisation in the blocks."""
    return np.asarray((sums - mean[:, None] * counts) / counts.sum(axis=1, keepdims=True) * counts.shape[1])


def _error(influence: Floats) -> Floats:
    return np.asarray(influence.std(axis=1, ddof=1) / np.sqrt(influence.shape[1]))
