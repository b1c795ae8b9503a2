"""Self-BLEU: how alike samples are to each other."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataError, SettingError

MAX_SAMPLES = 256
MAX_REFERENCES = 64
ORDER = 4


def self_bleu(
    texts: Sequence[str], *, max_samples: int = MAX_SAMPLES, max_references: int = MAX_REFERENCES
) -> NDArray[np.float64]:
    """BLEU of samples against other samples, 0 to 100: 100 where they are the same text, near 0 where they share none.

    Zhu et al. 2018 (arXiv 1802.01886), with sacrebleu's words (13a) and sentence BLEU-4: exponential smoothing, orders
    longer than the text left out. It grows with the number of references, so that is bounded and part of the
    convention: `max_samples` of the samples, evenly spaced (all, where there are fewer), each against the
    `max_references` that follow it, round in a circle. No chance is involved. Compare runs of equal numbers.

    Gives one value for each sample that was chosen (m,); their mean is what is reported. DataError for fewer than two
    texts; SettingError for bounds below 2 and 1, or where sacrebleu, the extra `eval`, is not installed.
    """
    if max_samples < 2 or max_references < 1:
        raise SettingError(
            f"self-BLEU of {max_samples} samples with {max_references} references; take at least 2 and 1"
        )
    if len(texts) < 2:
        raise DataError(f"self-BLEU compares samples, and {len(texts)} is given; give two or more")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    except ImportError as error:
        raise SettingError("self-BLEU needs sacrebleu: pip install 'understudy[eval]'") from error
    size = min(len(texts), max_samples)
    split = Tokenizer13a()
    words = [split(texts[i * len(texts) // size]).split() for i in range(size)]
    # Counted once for each text: sacrebleu would count anew for every pair.
    counts = [_ngram_counts(sentence) for sentence in words]
    values = np.empty(size)
    for index, own in enumerate(counts):
        others = [(index + step) % size for step in range(1, min(max_references, size - 1) + 1)]
        correct, total = _clipped(own, [counts[other] for other in others])
        length = len(words[index])
        closest = min((len(words[other]) for other in others), key=lambda other: (abs(other - length), other))
        values[index] = BLEU.compute_bleu(
            correct, total, length, closest, smooth_method="exp", effective_order=True
        ).score
    return np.minimum(values, 100.0)  # the formula can exceed it by rounding


def _ngram_counts(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1))


def _clipped(
    own: Counter[tuple[str, ...]], references: Sequence[Counter[tuple[str, ...]]]
) -> tuple[list[int], list[int]]:
    """N-grams of each order that some reference holds as often, and all of them."""
    most: dict[tuple[str, ...], int] = {}
    for reference in references:
        for gram in own.keys() & reference.keys():
            most[gram] = max(most.get(gram, 0), min(own[gram], reference[gram]))
    correct, total = [0] * ORDER, [0] * ORDER
    for gram, times in own.items():
        correct[len(gram) - 1] += most.get(gram, 0)
        total[len(gram) - 1] += times
    return correct, total
