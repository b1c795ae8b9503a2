"""How many sequences share a pass where all their masked positions are asked for: logits are what fills the memory."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def logit_chunks(counts: NDArray[np.int64], batch_size: int, vocab_size: int, max_logits: int) -> Iterator[slice]:
    """Slices of sequences that make one pass: at most `batch_size`, and no more than `max_logits` entries of logits.

    counts: positions asked for of each sequence (n,). One sequence goes alone, however many it has.
    """
    start = 0
    while start < len(counts):
        total = np.cumsum(counts[start : start + batch_size]) * vocab_size
        size = max(1, int(np.searchsorted(total, max_logits, side="right")))
        yield slice(start, start + size)
        start += size
