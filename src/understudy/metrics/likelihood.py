"""How likely a judge, an autoregressive model, finds samples. B windows in a pass, l tokens of each, V vocabulary."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from understudy.errors import DataError, ModelError, SettingError
from understudy.metrics.bootstrap import paired_arrays
from understudy.metrics.tokens import Tokens, sample_rows

# Logits made float64 at a time: as many as a CPU's cache holds, and enough to keep a GPU busy (64 MiB).
_CPU_CHUNK, _GPU_CHUNK = 2**17, 2**23


def context_length(judge: Any) -> int | None:
    """Give the most tokens that the judge reads at once (`max_position_embeddings`), None where it sets no limit."""
    length = getattr(judge.config, "max_position_embeddings", None)
    return None if length is None else int(length)


def token_nlls(
    judge: Any,
    tokens: Tokens,
    *,
    batch_size: int = 8,
    bos_id: int | None = None,
    scored: Sequence[NDArray[np.bool_]] | NDArray[np.bool_] | None = None,
) -> list[NDArray[np.float64]]:
    """Negative log-likelihoods, in nats, that a judge gives to the tokens of each sample: n arrays, in reading order.

    judge: a causal language model of transformers over the same token ids; ids are scored as they are, not decoded
        and encoded again, so this is for a judge that shares the tokenizer (`saved_samples.retokenize` for others).
    batch_size: most windows in one pass. bos_id: a token put before every window, itself unscored.
    scored: bools in the shape of the tokens, false where a token is read but not scored, because it was given.

    A sample longer than the judge's context is cut into windows of C tokens (C − 1 with `bos_id`) that do not overlap.
    Without `bos_id` the first token of each window has nothing before it and is not scored, as in the published
    protocol of Sahoo et al. 2024 (arXiv 2406.07524): a sample of L ≤ C tokens yields L − 1 values. Unlike there
    (`published_rows`), every end-of-text token counts. The softmax is taken in float64 over logits of the judge's own
    precision, some rows at a time, so that memory is that of the logits.

    DataError for a token outside the judge's vocabulary, SettingError for a batch size below 1, ModelError where the
    judge gives NaN, or no chance at all to a token that is there.
    """
    rows = sample_rows(tokens)
    if batch_size < 1:
        raise SettingError(f"the judge's batch_size is {batch_size}; it must be at least 1")
    _check_vocabulary(judge, rows, bos_id)
    wanted = [np.ones(len(row), dtype=bool) for row in rows] if scored is None else [row.copy() for row in scored]
    values = [np.zeros(len(row)) for row in rows]
    for places, ids in _window_groups(rows, judge, bos_id):
        scores = _group_nlls(judge, ids, batch_size, bos_id)
        for (sample, start), score in zip(places, scores, strict=True):
            end = start + ids.shape[1]
            values[sample][end - len(score) : end] = score
            wanted[sample][start : end - len(score)] = False
    found = [row[keep] for row, keep in zip(values, wanted, strict=True)]
    if not all(np.isfinite(row).all() for row in found):
        raise ModelError("the judge gives NaN, or no chance at all to a token that is there; is its checkpoint intact?")
    return found


def _check_vocabulary(judge: Any, rows: list[NDArray[np.int64]], bos_id: int | None) -> None:
    size = int(judge.config.vocab_size)
    for index, row in enumerate([*rows, np.array([bos_id or 0])]):
        bad = row[(row < 0) | (row >= size)]
        if len(bad):
            whose = f"sample {index}" if index < len(rows) else "bos_id"
            raise DataError(f"{whose} holds token {bad[0]}; the judge knows 0 … {size - 1}: it has another tokenizer")


def _window_groups(
    rows: list[NDArray[np.int64]], judge: Any, bos_id: int | None
) -> list[tuple[list[tuple[int, int]], NDArray[np.int64]]]:
    """Windows by length, each group as (sample and first place of each, ids (w, l)).

    Windows of one length share passes, so that nothing is padded and no score depends on a neighbour's length.
    """
    context = context_length(judge)
    groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for sample, row in enumerate(rows):
        size = len(row) if context is None else context - (bos_id is not None)
        for start in range(0, len(row), size):
            groups[min(size, len(row) - start)].append((sample, start))
    return [
        (places, np.stack([rows[sample][start : start + length] for sample, start in places]))
        for length, places in groups.items()
    ]


@torch.inference_mode()
def _group_nlls(judge: Any, windows: NDArray[np.int64], batch_size: int, bos_id: int | None) -> NDArray[np.float64]:
    """Scores of windows (w, l): (w, l − 1), or (w, l) behind a `bos_id`."""
    if bos_id is not None:
        windows = np.concatenate([np.full_like(windows[:, :1], bos_id), windows], axis=1)
    if windows.shape[1] == 1:  # nothing in it is scored
        return np.empty((len(windows), 0))
    ids = torch.from_numpy(windows).to(judge.device)
    scores = [_batch_nlls(judge, batch) for batch in torch.split(ids, batch_size)]
    # Waited for once: a look at every batch would keep a GPU idle in between.
    return np.asarray(torch.cat(scores).cpu().numpy(), dtype=np.float64)


def _batch_nlls(judge: Any, ids: torch.Tensor) -> torch.Tensor:
    """Scores (B, l − 1), float64, of ids (B, l)."""
    logits = judge(input_ids=ids, use_cache=False).logits
    # The last place is computed for nothing: without it the logits would have to be copied to be flat.
    targets = ids.roll(-1, dims=1).reshape(-1, 1)
    chunk = max(1, (_GPU_CHUNK if logits.is_cuda else _CPU_CHUNK) // logits.shape[-1])
    flat, parts = logits.reshape(len(targets), -1), []
    for some, wanted in zip(torch.split(flat, chunk), torch.split(targets, chunk), strict=True):
        wide = some.double()
        parts.append(wide.logsumexp(-1) - wide.gather(-1, wanted).squeeze(-1))
    return torch.cat(parts).reshape(ids.shape)[:, :-1]


def generative_perplexity(nll_sums: ArrayLike, counts: ArrayLike) -> float:
    """exp(Σ nll / Σ tokens), the mean over tokens of all samples, from per-sample sums (n,) and token counts (n,).

    At least 1; V for a judge that gives each of V tokens the same chance. Token-weighted as in arXiv 2406.07524: not
    the mean of the samples' own perplexities, which some codebases report and which a single odd sample dominates.
    It says nothing of diversity, and depends on judge, tokenizer and length. DataError where no sample has a scored
    token.
    """
    sums, sizes = paired_arrays(nll_sums, counts)
    return float(np.exp(sums.sum() / sizes.sum()))
