"""Text that samples are set beside: the prepared folder of the models' training text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy import metrics
from understudy.data import TokenBlocks, load_blocks_tokenizer
from understudy.data.token_blocks import spread
from understudy.errors import DataError, SettingError
from understudy.evaluation.judging import Ids, Judge, Protocol, reading_of
from understudy.tokenizer_files import tokenizer_sha256

_CHUNK_TOKENS = 2**20


@dataclass(frozen=True)
class ReferenceText:
    """Blocks of a prepared folder, for n-gram overlap (its train split) and MAUVE (its validation split)."""

    folder: Path
    tokenizer: Any
    training: TokenBlocks

    @classmethod
    def open(cls, folder: str | Path) -> "ReferenceText":
        """Open a folder of `understudy prepare`. DataError where it is none."""
        return cls(Path(folder), load_blocks_tokenizer(folder), TokenBlocks.open(folder, "train"))

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise DataError unless `tokenizer`, which reads the samples, is that of the blocks."""
        if tokenizer_sha256(tokenizer) != tokenizer_sha256(self.tokenizer):
            raise DataError(
                f"the blocks of {str(self.folder)!r} have another tokenizer than the samples; give the folder that the "
                "models were trained on"
            )

    @property
    def num_chunks(self) -> int:
        """How many arrays `training_chunks` gives."""
        return -(-len(self.training) // self._chunk_blocks)

    @property
    def _chunk_blocks(self) -> int:
        return max(1, _CHUNK_TOKENS // self.training.manifest.block_length)

    def training_chunks(self) -> Iterator[Ids]:
        """All training blocks in order, about a million tokens at a time."""
        for first in range(0, len(self.training), self._chunk_blocks):
            yield self.training[np.arange(first, min(first + self._chunk_blocks, len(self.training)))]

    def held_out(self, count: int, length: int) -> list[Ids]:
        """At most `count` blocks of the validation split, evenly spaced and cut to `length` tokens.

        DataError where the folder has none; SettingError for blocks shorter than that: MAUVE compares texts of one
        length.
        """
        blocks = TokenBlocks.open(self.folder, "validation")
        size = blocks.manifest.block_length
        if size < length:
            raise SettingError(f"samples have {length} tokens, blocks {size}; for MAUVE sample --length {size} or less")
        return list(blocks[spread(len(blocks), count)][:, :length])

    def features(
        self, judge: Judge, *, count: int, length: int, protocol: Protocol, batch_size: int
    ) -> NDArray[np.float64]:
        """Features for MAUVE (at most `count`, D) of `held_out` blocks, as the judge reads them."""
        rows = self.held_out(count, length)
        free = [np.ones(length, dtype=bool)] * len(rows)
        reading = reading_of(judge, rows, free, protocol=protocol, tokenizer=self.tokenizer)
        return metrics.last_token_features(judge.model, list(reading.rows), batch_size=batch_size)
