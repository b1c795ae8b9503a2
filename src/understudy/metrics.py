"""How good and how varied samples are: functions on tokens and log-probabilities.

- generative perplexity (gen-PPL): how unsurprising a judge, an autoregressive model, finds the samples. Lower is
  better only at equal diversity: a sampler that repeats itself scores well. So it is never reported without token
  entropy, the number of samples, the judge, its context length and an interval.
- token entropy and distinct-n: how varied the samples are, whatever they say.

Logarithms are natural (nats). n samples, L length of one, C context length of the judge. Samples may differ in length.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from understudy.errors import DataError, SettingError

Tokens: TypeAlias = torch.Tensor | NDArray[np.integer[Any]] | Sequence[Sequence[int]] | Sequence[NDArray[np.int64]]
"""Token ids of n samples: an integer (n, L) tensor or array, or n sequences of any lengths."""

RESAMPLES = 2000
CONFIDENCE = 0.95
_CHUNK = 2**20  # bootstrap draws held in memory at a time


def sample_rows(tokens: Tokens) -> list[NDArray[np.int64]]:
    """Give the ids of each sample as an int64 array of its own. DataError if there are none, or one is not a list."""
    values = tokens.cpu().numpy() if isinstance(tokens, torch.Tensor) else tokens
    rows = [np.asarray(row, dtype=np.int64) for row in values]
    if not rows or any(row.ndim != 1 or not len(row) for row in rows):
        raise DataError("there is nothing to score; give at least one sample, each a list of one or more token ids")
    return rows


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
    protocol of Sahoo et al. 2024 (arXiv 2406.07524): a sample of L ≤ C tokens yields L − 1 values. Unlike there, every
    end-of-text token counts. The softmax is taken in float64 over logits of the judge's own precision.

    DataError for a token outside the judge's vocabulary, SettingError for a batch size below 1.
    """
    rows = sample_rows(tokens)
    if batch_size < 1:
        raise SettingError(f"the judge's batch_size is {batch_size}; it must be at least 1")
    _check_vocabulary(judge, rows, bos_id)
    values = [np.full(len(row), np.nan) for row in rows]
    for batch in _window_batches(rows, context_length(judge), batch_size, bos_id):
        scores = _window_nlls(judge, batch, bos_id)
        for window, score in zip(batch, scores, strict=True):
            values[window.sample][window.start + window.length - len(score) : window.start + window.length] = score
    wanted = scored if scored is not None else [np.ones(len(row), dtype=bool) for row in rows]
    return [row[~np.isnan(row) & keep] for row, keep in zip(values, wanted, strict=True)]


@dataclass(frozen=True)
class _Window:
    """`length` tokens of one sample from `start` on, which the judge reads at once."""

    sample: int
    start: int
    ids: NDArray[np.int64]

    @property
    def length(self) -> int:
        return len(self.ids)


def _check_vocabulary(judge: Any, rows: list[NDArray[np.int64]], bos_id: int | None) -> None:
    size = int(judge.config.vocab_size)
    for index, row in enumerate([*rows, np.array([bos_id or 0])]):
        bad = row[(row < 0) | (row >= size)]
        if len(bad):
            whose = f"sample {index}" if index < len(rows) else "bos_id"
            raise DataError(f"{whose} holds token {bad[0]}; the judge knows 0 … {size - 1}: it has another tokenizer")


def _window_batches(
    rows: list[NDArray[np.int64]], context: int | None, batch_size: int, bos_id: int | None
) -> Iterator[list[_Window]]:
    """Group windows of equal length, so that nothing is padded and no score depends on a neighbour's length."""
    groups: dict[int, list[_Window]] = defaultdict(list)
    for sample, row in enumerate(rows):
        size = len(row) if context is None else context - (bos_id is not None)
        for start in range(0, len(row), size):
            window = _Window(sample, start, row[start : start + size])
            groups[window.length].append(window)
    for length, group in groups.items():
        if length == 1 and bos_id is None:  # nothing in it is scored
            continue
        for first in range(0, len(group), batch_size):
            yield group[first : first + batch_size]


@torch.inference_mode()
def _window_nlls(judge: Any, batch: list[_Window], bos_id: int | None) -> NDArray[np.float64]:
    ids = torch.from_numpy(np.stack([window.ids for window in batch])).to(judge.device)
    if bos_id is not None:
        ids = torch.cat([torch.full_like(ids[:, :1], bos_id), ids], dim=1)
    logits = judge(input_ids=ids, use_cache=False).logits[:, :-1].double()
    nlls = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return np.asarray(nlls.cpu().numpy(), dtype=np.float64)


def generative_perplexity(nll_sums: ArrayLike, counts: ArrayLike) -> float:
    """exp(Σ nll / Σ tokens), the mean over tokens of all samples, from per-sample sums (n,) and token counts (n,).

    At least 1; V for a judge that gives each of V tokens the same chance. Token-weighted as in arXiv 2406.07524: not
    the mean of the samples' own perplexities, which some codebases report and which a single odd sample dominates.
    It says nothing of diversity, and depends on judge, tokenizer and length. DataError where a sample has no scored
    token.
    """
    sums, sizes = _paired_arrays(nll_sums, counts)
    return float(np.exp(sums.sum() / sizes.sum()))


def bootstrap_interval(
    nll_sums: ArrayLike,
    counts: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of generative perplexity, resampling whole samples (Efron 1979).

    Tokens of one sample depend on each other, so samples are the unit. The interval speaks of other samples from the
    same models, not of other judges or training runs. With few samples it is too narrow: for normal data at 95 % it
    holds the truth about 90 % of the time at n = 10, and 94 % at n = 50.
    SettingError for fewer than two samples or resamples, or a confidence outside (0, 1).
    """
    sums, sizes = _paired_arrays(nll_sums, counts)
    means = _resampled_means(np.stack([sums, sizes]), resamples, confidence, seed)
    low, high = _percentiles(means[0] / means[1], confidence)
    return float(np.exp(low)), float(np.exp(high))


@dataclass(frozen=True)
class PairedDifference:
    """Difference of mean NLL in nats per token with its interval; above 0 where the second is worse."""

    difference: float
    low: float
    high: float

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0, so that these samples do not tell the two apart."""
        return self.low <= 0 <= self.high


def paired_bootstrap_difference(
    reference: tuple[ArrayLike, ArrayLike],
    other: tuple[ArrayLike, ArrayLike],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedDifference:
    """Mean NLL per token of `other` minus that of `reference`, each (per-sample sums (n,), token counts (n,)).

    Sample i of both must have been drawn under the same noise; the pairs are resampled together, so what the noise
    does to both cancels. exp(difference) is the ratio of the two perplexities. Each interval stands for itself: of
    twenty harmless changes one is expected to fall outside its 95 %. "Within noise" is not proof of equality.
    SettingError as `bootstrap_interval`, DataError where the numbers of samples differ.
    """
    first, second = _paired_arrays(*reference), _paired_arrays(*other)
    if len(first[0]) != len(second[0]):
        raise DataError(f"{len(first[0])} and {len(second[0])} samples cannot be paired; score as many of each")
    means = _resampled_means(np.stack([*first, *second]), resamples, confidence, seed)
    low, high = _percentiles(means[2] / means[3] - means[0] / means[1], confidence)
    difference = second[0].sum() / second[1].sum() - first[0].sum() / first[1].sum()
    return PairedDifference(float(difference), low, high)


def _paired_arrays(nll_sums: ArrayLike, counts: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sums, sizes = np.asarray(nll_sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if sums.ndim != 1 or sums.shape != sizes.shape:
        raise DataError(f"sums have shape {sums.shape} and counts {sizes.shape}; both must be (n,), one per sample")
    if not (sizes > 0).all():
        raise DataError("a sample has no scored token; each needs two tokens, or one behind a prefix or bos_id")
    return sums, sizes


def _resampled_means(columns: NDArray[np.float64], resamples: int, confidence: float, seed: int) -> NDArray[np.float64]:
    """Means (columns, resamples) over samples drawn with replacement from the columns' (columns, n) entries."""
    n = columns.shape[1]
    if n < 2 or resamples < 2 or not 0 < confidence < 1:
        raise SettingError(
            f"an interval needs two samples and resamples, and a confidence between 0 and 1; "
            f"given are {n}, {resamples} and {confidence}"
        )
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    sizes = [min(rows, resamples - first) for first in range(0, resamples, rows)]
    return np.concatenate([columns[:, generator.integers(n, size=(size, n))].mean(-1) for size in sizes], axis=1)


def _percentiles(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def token_entropy(tokens: Tokens) -> NDArray[np.float64]:
    """Unigram entropy of each sample in nats (n,): −Σ_v c_v/L·log(c_v/L), c_v the times id v occurs in its L tokens.

    The convention of Zheng et al. 2024 (arXiv 2409.02908). Between 0 (one token repeated) and log L (all different),
    so it compares samples of one length only. Blind to order, and to samples that equal each other.
    """
    return np.array([_entropy(np.unique(row, return_counts=True)[1]) for row in sample_rows(tokens)])


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts / counts.sum()
    return max(0.0, float(-(shares * np.log(shares)).sum()))  # −1·log 1 is −0.0


def distinct_n(tokens: Tokens, n: int) -> float:
    """Share of distinct n-grams among all n-grams of all samples together, in (0, 1].

    After Li et al. 2016 (arXiv 1510.03055); n-grams of token ids, within samples only. The share falls as more or
    longer samples are pooled, so compare equal numbers of equal length. SettingError if n is below 1, DataError where
    no sample has n tokens.
    """
    if n < 1:
        raise SettingError(f"n is {n}; n-grams have at least 1 token")
    grams = [gram for row in sample_rows(tokens) for gram in zip(*(row[i:].tolist() for i in range(n)), strict=False)]
    if not grams:
        raise DataError(f"no sample has {n} tokens, so there is no {n}-gram to count")
    return len(set(grams)) / len(grams)


def mean_and_error(values: ArrayLike) -> tuple[float, float | None]:
    """Give the mean of values (n,) and its standard error, None for a single value."""
    numbers = np.asarray(values, dtype=np.float64)
    error = float(numbers.std(ddof=1) / np.sqrt(len(numbers))) if len(numbers) > 1 else None
    return float(numbers.mean()), error
