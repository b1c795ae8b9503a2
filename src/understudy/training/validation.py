"""How good a model is on held-out text: the bound of a masked denoiser, the perplexity of a left-to-right model.

With CE(t) the mean cross-entropy of masked positions at time t, in nats, the negative ELBO of masked diffusion per
token is (arXiv 2406.07524, 2406.04329)

    bound = ∫ w(t) (1 - alpha(t)) CE(t) dt over [0, 1],  w(t) = -alpha'(t) / (1 - alpha(t)),

which is ∫ CE(t) dt with log-linear noise. The integral is a sum over the midpoints of equal strata of time. The noise
is a function of (seed, time, place of the block), the same for every model: compare `per_block` of two models in pairs.

Shapes: J blocks, K times, L length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from understudy.data.token_blocks import spread
from understudy.errors import ModelError, SettingError
from understudy.noise import NoiseSchedule
from understudy.training.batches import VALIDATION, Blocks, Floats, Ints, predicted_positions, sigma_of, stream
from understudy.training.losses import TokenLoss

Reduce = Callable[[Floats], Floats]


def validation_bound(
    model: PreTrainedModel | TokenLoss,
    blocks: Blocks,
    *,
    noise: NoiseSchedule,
    num_times: int = 16,
    num_blocks: int = 256,
    seed: int = 0,
    batch_size: int = 32,
    part: tuple[int, int] = (0, 1),
    reduce: Reduce | None = None,
) -> dict[str, Any]:
    """Bound of a masked denoiser on `num_blocks` blocks spread evenly over `blocks` (all, if there are fewer).

    model: `DiTForMaskedLM` or the like (`hidden`, `head`, `config.mask_token_id`), in the state it is in (call
    `.eval()`). num_times K: strata of time. With several processes `part` is (rank, processes) and `reduce` sums an
    array over them; every process then makes the same number of passes, as FSDP needs.

    Gives `times` (K), `cross_entropy` (K, nats), `bound` (nats per token), `bound_se` (standard error over blocks),
    `perplexity` = exp(bound), `per_block` (J values whose mean is the bound: its linearisation in the blocks, as CE(t)
    is a ratio of sums), `num_blocks`. Padding is noised but not counted. SettingError when the blocks are so few that
    a time masks nothing; ModelError when the result is not finite.
    """
    loss = model if isinstance(model, TokenLoss) else TokenLoss(model, model.config.mask_token_id)
    times = (np.arange(num_times) + 0.5) / num_times
    chosen = spread(len(blocks), num_blocks)
    sums, counts = np.zeros((2, len(chosen), num_times))
    for k, t in enumerate(times):
        mask_prob, sigma = noise.mask_prob(float(t)), sigma_of(noise, np.array([t]))
        uniform = stream(seed, VALIDATION, k).random((len(chosen), blocks.manifest.block_length))
        for rows, is_counted in _chunks(len(chosen), batch_size, part):
            ids = blocks[chosen[rows]]
            masked = uniform[rows] < mask_prob
            entropy, counted = _block_sums(loss, blocks.manifest, ids, masked, sigma)
            sums[rows[is_counted], k], counts[rows[is_counted], k] = entropy[is_counted], counted[is_counted]
    if reduce is not None:
        sums, counts = reduce(sums), reduce(counts)
    scale = noise.loss_weight(times) * noise.mask_prob(times)
    return {"times": times.tolist(), **_integrate(sums, counts, scale)}


def validation_likelihood(
    model: PreTrainedModel | TokenLoss,
    blocks: Blocks,
    *,
    num_blocks: int = 256,
    batch_size: int = 32,
    part: tuple[int, int] = (0, 1),
    reduce: Reduce | None = None,
) -> dict[str, Any]:
    """Mean negative log-likelihood of a left-to-right model in nats per predicted token; same keys as the bound.

    Every token but a block's first is predicted, padding is not. `bound` is the likelihood itself here.
    """
    loss = model if isinstance(model, TokenLoss) else TokenLoss(model, None)
    chosen = spread(len(blocks), num_blocks)
    sums, counts = np.zeros((2, len(chosen), 1))
    for rows, is_counted in _chunks(len(chosen), batch_size, part):
        entropy, counted = _block_sums(loss, blocks.manifest, blocks[chosen[rows]], None, np.zeros(1, np.float32))
        sums[rows[is_counted], 0], counts[rows[is_counted], 0] = entropy[is_counted], counted[is_counted]
    if reduce is not None:
        sums, counts = reduce(sums), reduce(counts)
    return _integrate(sums, counts, np.ones(1))


def _chunks(total: int, batch_size: int, part: tuple[int, int]) -> Iterator[tuple[Ints, NDArray[np.bool_]]]:
    """Rows of this process, chunk by chunk, and which of them count; the others fill up, so all have equally many."""
    rank, world = part
    mine = np.arange(rank, -(-total // world) * world, world)
    for start in range(0, len(mine), batch_size):
        rows = mine[start : start + batch_size]
        yield np.minimum(rows, total - 1), rows < total


def _block_sums(
    loss: TokenLoss, manifest: Any, ids: Ints, masked: NDArray[np.bool_] | None, sigma: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """Cross-entropy summed over the predicted positions of each block, and their number: two arrays (b,)."""
    chosen = ids != manifest.pad_id if manifest.layout == "padded" else np.ones(ids.shape, dtype=np.bool_)
    if masked is None:
        inputs, targets = ids, np.roll(ids, -1, axis=1)
        chosen = np.roll(chosen, -1, axis=1)
        chosen[:, -1] = False
    else:
        inputs, targets = np.where(masked, manifest.mask_id, ids), ids
        chosen = chosen & masked
    positions, wanted, values = predicted_positions(chosen, targets, np.ones(len(ids)), manifest.mask_id)
    entropy = _cross_entropy(loss, inputs, positions, wanted, np.repeat(sigma, len(ids)))
    owners = positions // ids.shape[1]
    summed: Floats = np.bincount(owners, weights=entropy * values, minlength=len(ids)).astype(np.float64)
    return summed, np.bincount(owners, weights=values, minlength=len(ids)).astype(np.float64)


@torch.no_grad()
def _cross_entropy(loss: TokenLoss, inputs: Ints, positions: Ints, targets: Ints, sigma: Any) -> Floats:
    device = next(loss.parameters()).device
    tensors = (torch.from_numpy(array).to(device) for array in (inputs, positions, targets, sigma))
    return np.asarray(loss(*tensors).double().cpu().numpy())


def _integrate(sums: Floats, counts: Floats, scale: Floats) -> dict[str, Any]:
    """From cross-entropy sums and counts (J, K) and the integrand's scale (K,) to the bound and its error."""
    totals = counts.sum(axis=0)
    if not totals.all():
        raise SettingError(f"{len(sums)} validation blocks are too few: at one time nothing is masked; take more")
    entropy = sums.sum(axis=0) / totals  # (K,)
    bound = float(np.mean(scale * entropy))
    if not np.isfinite(bound):
        raise ModelError("the validation loss is not finite: the model's logits hold NaN or infinity")
    influence = (scale * (sums - entropy * counts) / totals * len(sums)).mean(axis=1)  # (J,), mean 0
    error = float(np.std(influence, ddof=1) / np.sqrt(len(sums))) if len(sums) > 1 else float("nan")
    return {
        "cross_entropy": entropy.tolist(),
        "bound": bound,
        "bound_se": error,
        "perplexity": float(np.exp(bound)),
        "num_blocks": len(sums),
        "per_block": (bound + influence).tolist(),
    }
