"""N-grams of token ids, told apart exactly, and how many of a sample's occur in other text.

N-grams are sorted and looked up by a 64-bit hash, and then compared token by token, so no figure hangs on chance.
Shapes: T tokens of all samples, N n-grams within them, U different ones, b blocks of L tokens.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from understudy.errors import SettingError
from understudy.metrics.tokens import Tokens, sample_rows

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, and with bits everywhere: 2^64 over the golden ratio
_MAX_FILTER_BITS = 27


@dataclass(frozen=True)
class Ngrams:
    """Every n-gram within a sample, in reading order.

    ids: int64 (T,), the samples after each other. starts: (N,), where in it each n-gram begins. owners: (N,), the
    sample that each is in.
    """

    ids: Ids
    starts: Ids
    owners: Ids
    n: int
    num_samples: int

    @classmethod
    def of(cls, tokens: Tokens, n: int) -> "Ngrams":
        """List those of samples; none in a sample of fewer than n tokens. SettingError if n is below 1."""
        if n < 1:
            raise SettingError(f"n is {n}; n-grams have at least 1 token")
        rows = sample_rows(tokens)
        owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        starts = np.flatnonzero(owners[: max(0, len(owners) - n + 1)] == owners[n - 1 :])
        return cls(np.concatenate(rows), starts, owners[starts], n, len(rows))

    def __len__(self) -> int:
        return len(self.starts)

    def totals(self) -> Ids:
        """N-grams of each sample."""
        return np.bincount(self.owners, minlength=self.num_samples)

    def hashes(self, multiplier: np.uint64) -> Hashes:
        """Hash (N,) of each."""
        if not len(self):
            return np.empty(0, dtype=np.uint64)
        return np.asarray(_hashed(self.ids[None], len(self.ids) - self.n + 1, multiplier)[0][self.starts])

    def all_equal(self, first: Ids, second: Ids) -> bool:
        """Whether the n-grams numbered `first` are those numbered `second`."""
        left, right = self.starts[first], self.starts[second]
        return all(np.array_equal(self.ids[left + k], self.ids[right + k]) for k in range(self.n))


def different_ngrams(grams: Ngrams, groups: Ids, num_groups: int) -> Ids:
    """How many different n-grams there are in each group (num_groups,), given the group (N,) of each."""
    for multiplier in _multipliers():
        hashes = grams.hashes(multiplier)
        order = np.lexsort((hashes, groups))
        hashes, sorted_groups = hashes[order], groups[order]
        repeats = np.flatnonzero((hashes[1:] == hashes[:-1]) & (sorted_groups[1:] == sorted_groups[:-1]))
        if grams.all_equal(order[repeats], order[repeats + 1]):  # else two meet in one hash, and another is needed
            break
    return np.bincount(groups, minlength=num_groups) - np.bincount(sorted_groups[repeats + 1], minlength=num_groups)


def ngram_overlap(tokens: Tokens, blocks: Iterable[Ids], *, n: int = 8) -> NDArray[np.float64]:
    """Share (n samples,) of each sample's n-grams of tokens that occur in reference text, in [0, 1].

    Near 1 a sample is copied, and its quality is that of the text it was copied from. blocks: the text, as integer
    arrays (b, L) of the same token ids, read once and one at a time; n-grams do not reach from block to block. The
    comparison is exact. Held-out text of the same kind has an overlap too, of set phrases: compare with it. A sample
    of fewer than n tokens has none and gets 0. SettingError if n is below 1.
    """
    search = OverlapSearch(tokens, n=n)
    for chunk in blocks:
        search.look_in(chunk)
    return search.shares()


class OverlapSearch:
    """`ngram_overlap` for a caller who drives: `look_in` each piece of the text, then ask for the `shares`."""

    def __init__(self, tokens: Tokens, *, n: int = 8) -> None:
        self._grams = Ngrams.of(tokens, n)
        for self._multiplier in _multipliers():
            hashes = self._grams.hashes(self._multiplier)
            self._hashes, first, self._numbers = np.unique(hashes, return_index=True, return_inverse=True)
            if self._grams.all_equal(np.arange(len(hashes)), first[self._numbers]):
                break
        self._starts = self._grams.starts[first]
        self._is_found = np.zeros(len(first), dtype=bool)
        # Most n-grams of the text are in no sample: a table of the highest bits says so without a search.
        self._shift = np.uint64(64 - min(_MAX_FILTER_BITS, len(first).bit_length() + 4))
        self._may_be_here = np.zeros(2 ** (64 - int(self._shift)), dtype=bool)
        self._may_be_here[self._hashes >> self._shift] = True

    def look_in(self, blocks: Ids) -> None:
        """Note which n-grams occur in blocks (b, L), or in one (L,)."""
        blocks, n = np.atleast_2d(blocks), self._grams.n
        windows = blocks.shape[1] - n + 1
        if windows < 1 or not len(self._hashes):
            return
        hashes = _hashed(blocks, windows, self._multiplier)
        rows, cols = np.nonzero(self._may_be_here[hashes >> self._shift])
        wanted = hashes[rows, cols]
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        equal = self._hashes[places] == wanted
        rows, cols, places = rows[equal], cols[equal], places[equal]
        is_here = np.ones(len(places), dtype=bool)
        for k in range(n):
            is_here &= blocks[rows, cols + k] == self._grams.ids[self._starts[places] + k]
        self._is_found[places[is_here]] = True

    def shares(self) -> NDArray[np.float64]:
        """Share (n samples,) of each sample's n-grams that were found so far; 0 for a sample without n-grams."""
        grams, is_found = self._grams, self._is_found[self._numbers]
        found = np.bincount(grams.owners, weights=is_found, minlength=grams.num_samples)
        return np.asarray(found / np.maximum(grams.totals(), 1))


def _multipliers() -> Iterator[np.uint64]:
    """Of hashes to try: the first one does, unless two n-grams meet in one."""
    for attempt in count():
        yield np.uint64(_MULTIPLIER * (2 * attempt + 1) % 2**64)


def _hashed(ids: Ids, windows: int, multiplier: np.uint64) -> Hashes:
    """Hash (b, windows) of the n-grams that start at the first `windows` places of each row (b, windows + n − 1)."""
    words = ids.astype(np.uint64)
    hashes = words[:, :windows] + np.uint64(1)
    for offset in range(1, words.shape[1] - windows + 1):
        hashes *= multiplier
        hashes += words[:, offset : offset + windows]
    hashes *= multiplier  # the last token, too, reaches the highest bits
    return hashes
