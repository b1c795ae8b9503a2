"""Ids of documents to shards of blocks.

L block length, P payload: the tokens of a block that come from the text (packed) or the whole block (padded).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from understudy.data.detokenization import DETOKENIZERS, Detokenize
from understudy.data.token_blocks import Frame, Layout, Shard, SplitSummary, shard_dtype
from understudy.data.tokenization import Vocabulary
from understudy.errors import DataError, SettingError
from understudy.whole_files import write_array

SHARD_TOKENS = 64 * 2**20


@dataclass(frozen=True)
class PrepareSettings:
    """How text becomes blocks of `block_length` tokens; SettingError for what cannot be.

    `frame` "both" (published): beginning + L−2 tokens + end; "bos": beginning + L−1; "none": L. Padded blocks are
    always framed on both sides. `validation_fraction` f in (0, 0.5] sends every round(1/f)-th document to the split
    `validation`. `shard_blocks` is the size of a shard in blocks, by default about 64 million tokens.
    `limit_documents` reads only the first ones of the training sources. `detokenize` "lm1b" makes running text of
    LM1B's spaced tokens first (`detokenize_lm1b`); characters are counted after it.
    """

    block_length: int = 1024
    layout: Layout = "packed"
    frame: Frame = "both"
    validation_fraction: float | None = None
    shard_blocks: int | None = None
    limit_documents: int | None = None
    detokenize: Detokenize | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("layout", get_args(Layout)), ("frame", get_args(Frame))):
            if getattr(self, name) not in allowed:
                raise SettingError(f"{name} is {getattr(self, name)!r}, allowed are {', '.join(allowed)}")
        if self.detokenize is not None and self.detokenize not in DETOKENIZERS:
            raise SettingError(f"detokenize is {self.detokenize!r}, allowed are {', '.join(DETOKENIZERS)} or nothing")
        if self.layout == "padded" and self.frame != "both":
            raise SettingError(f"padded blocks are framed on both sides, not {self.frame!r}: leave frame out")
        if self.block_length <= self.frame_tokens:
            raise SettingError(f"block_length is {self.block_length}, it must be at least {self.frame_tokens + 1}")
        fraction = self.validation_fraction
        if fraction is not None and not 0 < fraction <= 0.5:
            raise SettingError(f"validation_fraction is {fraction}, it must be above 0 and at most 0.5")
        for name in ("shard_blocks", "limit_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name} is {value}, it must be at least 1")

    @property
    def frame_tokens(self) -> int:
        """Tokens of a block that frame it."""
        return {"both": 2, "bos": 1, "none": 0}[self.frame]

    @property
    def blocks_per_shard(self) -> int:
        """`shard_blocks` or its default."""
        return self.shard_blocks or max(1, SHARD_TOKENS // self.block_length)

    @property
    def validation_stride(self) -> int | None:
        """Every how many-th document goes to the validation split."""
        return None if self.validation_fraction is None else round(1 / self.validation_fraction)


@dataclass
class SplitState:
    """What a split holds after the first `position` documents of its stream; JSON's types throughout.

    `carry` are the ids that wait for their block.
    """

    position: int = 0
    documents: int = 0
    characters: int = 0
    tokens: int = 0
    truncated: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    carry: list[int] = field(default_factory=list)
    is_complete: bool = False


class SplitWriter:
    """Turns the ids of one split into shards in `folder`, from the state that an earlier run has left.

    After `add` and `finish`, `has_news` says whether a shard was written; then `state()` is worth keeping: continued
    from there with the documents that follow `position`, the same bytes come out.
    """

    def __init__(
        self, name: str, folder: Path, settings: PrepareSettings, vocabulary: Vocabulary, state: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.has_news = False
        self._folder = folder
        self._settings = settings
        self._vocabulary = vocabulary
        self._dtype = shard_dtype(vocabulary.size)
        self._payload = settings.block_length - (settings.frame_tokens if settings.layout == "packed" else 0)
        try:
            self._state = SplitState(**state)
            # A flat array of machine integers: a shard of Python ints would take ten times the memory.
            self._waiting = array(self._dtype.char, self._state.carry)
            written = [Shard(**shard).file for shard in self._state.shards]
        except (TypeError, OverflowError) as error:
            raise DataError(
                f"the progress noted in {str(folder)!r} is damaged: prepare again with overwrite"
            ) from error
        for file in written:
            if not (folder / file).is_file():
                raise DataError(f"shard {str(folder / file)!r} of the earlier run is gone: overwrite the folder")
        self.resume_at = self._state.position

    @property
    def is_complete(self) -> bool:
        """Whether `finish` was called, perhaps by an earlier run."""
        return self._state.is_complete

    def add(self, position: int, characters: int, ids: list[int]) -> None:
        """Take the document at `position` of the stream; one without a token leaves no trace."""
        self._state.position = position + 1
        if not ids:
            return
        self._state.documents += 1
        self._state.characters += characters
        if self._settings.layout == "padded":
            self._add_sentence(ids)
        else:
            self._waiting.fromlist(ids)
            self._waiting.append(self._vocabulary.eos_id)
            self._state.tokens += len(ids) + 1
        while len(self._waiting) >= self._settings.blocks_per_shard * self._payload:
            self._write(self._settings.blocks_per_shard)

    def _add_sentence(self, ids: list[int]) -> None:
        room = self._settings.block_length - 2
        self._state.truncated += len(ids) > room
        ids = ids[:room]
        bos, eos, pad = self._vocabulary.bos_id, self._vocabulary.eos_id, self._vocabulary.pad_id
        assert pad is not None, "padded blocks are refused without a padding token"
        self._waiting.fromlist([bos, *ids, eos] + [pad] * (room - len(ids)))
        self._state.tokens += len(ids) + 1

    def finish(self) -> None:
        """Write the whole blocks that are left. DataError when the split has none at all."""
        whole = len(self._waiting) // self._payload
        if whole:
            self._write(whole)
        if not self._state.documents:
            raise DataError(f"the {self.name} split got no text: its sources (or its share of them) are empty")
        if not self._state.shards:
            found = f"the {self.name} split has {self._state.tokens} tokens, a block takes {self._payload}"
            raise DataError(f"{found}: give more text or a smaller block length")
        self._state.is_complete = self.has_news = True

    def _write(self, blocks: int) -> None:
        """Cut `blocks` blocks off what waits and write them as the next shard."""
        path = self._folder / f"{self.name}-{len(self._state.shards):05d}.npy"
        taken = np.frombuffer(self._waiting, dtype=self._dtype, count=blocks * self._payload)
        framed = self._frame(taken.reshape(blocks, self._payload))
        del taken  # an array cannot shrink while numpy looks at it
        del self._waiting[: blocks * self._payload]
        shard = Shard(path.name, blocks, write_array(path, framed))
        self._state.shards.append(asdict(shard))
        self.has_news = True

    def _frame(self, text: NDArray[Any]) -> NDArray[Any]:
        """(n, P) to (n, L)."""
        if self._payload == self._settings.block_length:
            return text.copy()
        framed = np.empty((len(text), self._settings.block_length), dtype=self._dtype)
        framed[:, 0] = self._vocabulary.bos_id
        framed[:, 1 : 1 + self._payload] = text
        framed[:, 1 + self._payload :] = self._vocabulary.eos_id
        return framed

    def state(self) -> dict[str, Any]:
        """The state to continue from, in JSON's types."""
        self.has_news = False
        return {**vars(self._state), "shards": list(self._state.shards), "carry": self._waiting.tolist()}

    def summary(self) -> SplitSummary:
        """Counts so far, for the manifest once complete."""
        state = self._state
        shards = tuple(Shard(**shard) for shard in state.shards)
        counts = (state.documents, state.characters, state.tokens, state.truncated)
        return SplitSummary(shards, *counts, dropped_tokens=len(self._waiting))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Documents, characters, tokens and whole blocks so far, written or waiting."""
        state = self._state
        blocks = sum(shard["blocks"] for shard in state.shards) + len(self._waiting) // self._payload
        return state.documents, state.characters, state.tokens, blocks
