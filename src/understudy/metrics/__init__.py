"""How good and how varied samples are: functions on tokens, log-probabilities and texts.

- generative perplexity (gen-PPL): how unsurprising a judge, an autoregressive model, finds the samples. Lower is
  better only at equal diversity: a sampler that repeats itself scores well. So it is never reported without token
  entropy, the number of samples, the judge, its context length and an interval.
- token entropy, distinct-n, repetition and self-BLEU: how varied the samples are, whatever they say.
- n-gram overlap and MAUVE: how they stand to reference text, copied from it or distributed like it.

Logarithms are natural (nats). n samples, L length of one, C context length of the judge. Samples may differ in length.
"""

from understudy.metrics.bootstrap import (
    CONFIDENCE,
    FEW_SAMPLES,
    RESAMPLES,
    WIDENED_BELOW,
    PairedDifference,
    bootstrap_interval,
    mean_and_error,
    paired_bootstrap_difference,
    percentiles,
    ratio,
    resampled_means,
)
from understudy.metrics.diversity import distinct_n, repetition, token_entropy
from understudy.metrics.likelihood import context_length, generative_perplexity, token_nlls
from understudy.metrics.ngrams import OverlapSearch, ngram_overlap
from understudy.metrics.published import published_rows
from understudy.metrics.reference import MIN_TEXTS, last_token_features, mauve
from understudy.metrics.self_bleu import self_bleu
from understudy.metrics.tokens import Tokens, sample_rows

__all__ = [
    "CONFIDENCE",
    "FEW_SAMPLES",
    "MIN_TEXTS",
    "RESAMPLES",
    "WIDENED_BELOW",
    "OverlapSearch",
    "PairedDifference",
    "Tokens",
    "bootstrap_interval",
    "context_length",
    "distinct_n",
    "generative_perplexity",
    "last_token_features",
    "mauve",
    "mean_and_error",
    "ngram_overlap",
    "paired_bootstrap_difference",
    "percentiles",
    "published_rows",
    "ratio",
    "repetition",
    "resampled_means",
    "sample_rows",
    "self_bleu",
    "token_entropy",
    "token_nlls",
]
