"""How varied samples are, from their token ids alone."""

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataError
from understudy.metrics.ngrams import Ngrams, different_ngrams
from understudy.metrics.tokens import Tokens, sample_rows


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
    grams = Ngrams.of(tokens, n)
    if not len(grams):
        raise DataError(f"no sample has {n} tokens, so there is no {n}-gram to count")
    return int(different_ngrams(grams, np.zeros_like(grams.owners), 1)[0]) / len(grams)


def repetition(tokens: Tokens, n: int = 4) -> NDArray[np.float64]:
    """Share (n samples,) of each sample's n-grams of tokens that occurred in it before, in [0, 1).

    1 − (different n-grams) / (n-grams), the rep-n of Welleck et al. 2020 (arXiv 1908.04319): 0 where nothing comes
    twice, near 1 in a loop. It grows with length. A sample of fewer than n tokens repeats nothing: 0. SettingError if
    n is below 1.
    """
    grams = Ngrams.of(tokens, n)
    totals = grams.totals()
    different = different_ngrams(grams, grams.owners, grams.num_samples)
    return np.asarray((totals - different) / np.maximum(totals, 1))
