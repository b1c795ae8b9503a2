"""A prepared folder: what it holds (`Manifest`) and how to read it (`TokenBlocks`).

    manifest.json         what was prepared, from what, with which tokenizer; written last
    tokenizer/            the tokenizer, in the Hugging Face layout
    train-00000.npy …     blocks of token ids, (blocks, L), uint16 or, above 65536 ids, uint32

L is the block length. Shards are memory-mapped; nothing is ever unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from understudy.data.tokenization import Vocabulary
from understudy.errors import DataError
from understudy.tokenizer_files import load_tokenizer, tokenizer_sha256
from understudy.whole_files import file_sha256, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT_VERSION = 1
MANIFEST_FILE, TOKENIZER_FOLDER = "manifest.json", "tokenizer"
SHARD_NAME = re.compile(r"(train|validation)-\d{5,}\.npy")
SHA256 = re.compile(r"[0-9a-f]{64}")

Layout = Literal["packed", "padded"]
Frame = Literal["both", "bos", "none"]


@dataclass(frozen=True)
class Shard:
    """One file of `blocks` blocks (at least 1), beside the manifest."""

    file: str
    blocks: int
    sha256: str

    def __post_init__(self) -> None:
        if not SHARD_NAME.fullmatch(self.file) or self.blocks < 1 or not SHA256.fullmatch(self.sha256):
            raise DataError(f"{self!r} is no shard: the manifest is damaged, prepare the data again")


@dataclass(frozen=True)
class SplitSummary:
    """What one split holds.

    `documents` counts those with at least one token, `characters` their text, `tokens` their tokens with one end each
    (after truncation; frames and padding not counted), `truncated` the sentences cut to fit a block, and
    `dropped_tokens` the last ones that did not fill a block.
    """

    shards: tuple[Shard, ...]
    documents: int
    characters: int
    tokens: int
    truncated: int = 0
    dropped_tokens: int = 0

    @property
    def blocks(self) -> int:
        """Blocks of all shards together."""
        return sum(shard.blocks for shard in self.shards)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SplitSummary:
        """Inverse of `to_json`; DataError when the stated number of blocks is not that of the shards."""
        fields = {key: value for key, value in content.items() if key not in ("shards", "blocks")}
        summary = cls(shards=tuple(Shard(**shard) for shard in content["shards"]), **fields)
        if content["blocks"] != summary.blocks:
            raise DataError(f"the manifest says {content['blocks']} blocks, its shards have {summary.blocks}")
        return summary

    def to_json(self) -> dict[str, Any]:
        """Fields and `blocks`, in JSON's types."""
        return {**asdict(self), "blocks": self.blocks}


@dataclass(frozen=True)
class Manifest:
    """Everything that a prepared folder is, so that data of another tokenizer or length is an error, not a surprise.

    `vocab_size` is the model's V, the mask included. `layout` "packed" joins documents, each followed by `eos_id`;
    "padded" holds one sentence a block, filled up with `pad_id` (then never None, and distinct from every other id).
    `frame` says what surrounds the text of a block: "both" `bos_id` and `eos_id`, "bos" only the first, or "none".
    `settings` is what was asked for, with the sources under `sources` and `validation_sources`.
    DataError for values that contradict each other.
    """

    tokenizer_sha256: str
    vocab_size: int
    mask_id: int
    bos_id: int
    eos_id: int
    pad_id: int | None
    block_length: int
    layout: Layout
    frame: Frame
    splits: Mapping[str, SplitSummary]
    settings: Mapping[str, Any] = field(default_factory=dict)
    understudy_version: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            found = f"the prepared data has format {self.format_version}, this version reads {FORMAT_VERSION}"
            raise DataError(f"{found}: prepare it again")
        if self.layout not in get_args(Layout) or self.frame not in get_args(Frame):
            raise DataError(f"layout {self.layout!r} with frame {self.frame!r} is unknown: the manifest is damaged")
        if self.block_length < 1 or "train" not in self.splits or not SHA256.fullmatch(self.tokenizer_sha256):
            raise DataError("block length, splits or tokenizer hash are wrong: the manifest is damaged, prepare again")
        vocabulary = self.vocabulary  # checks the ids
        if self.layout == "padded" and vocabulary.pad_id in (None, self.bos_id, self.eos_id):
            raise DataError(f"pad_id {self.pad_id} of padded blocks is not distinct: the manifest is damaged")

    @property
    def vocabulary(self) -> Vocabulary:
        """Size and special ids."""
        return Vocabulary(self.vocab_size, self.mask_id, self.bos_id, self.eos_id, self.pad_id)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Descriptions of the training text."""
        return list(self.settings.get("sources", []))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the ids on disk."""
        return shard_dtype(self.vocab_size)

    def to_json(self) -> dict[str, Any]:
        """All fields in JSON's types."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "splits": {name: split.to_json() for name, split in self.splits.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        """Inverse of `to_json`; DataError when fields are missing, unknown or wrong."""
        if content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            found = f"the prepared data has format {content['format_version']}, this version reads {FORMAT_VERSION}"
            raise DataError(f"{found}: prepare it again")
        try:
            splits = {name: SplitSummary.from_json(split) for name, split in content["splits"].items()}
            return cls(**{**content, "splits": splits})
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"the manifest is damaged ({error}): prepare the data again") from error

    def write(self, folder: Path) -> None:
        """Write `folder`/manifest.json, whole or not at all."""
        write_json(folder / MANIFEST_FILE, self.to_json())

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read `folder`/manifest.json. DataError when it is missing (or preparing is unfinished) or damaged."""
        path = Path(folder) / MANIFEST_FILE
        if not path.is_file():
            message = f"{str(folder)!r} holds no {MANIFEST_FILE}: give a folder that `understudy prepare` has finished"
            raise DataError(message)
        return cls.from_json(read_json(path, mend="prepare again with overwrite"))


def spread(available: int, wanted: int) -> NDArray[np.int64]:
    """Indices (n,) of at most `wanted` of `available` blocks, evenly spaced: neighbours may be of one document."""
    count = min(available, wanted)
    return np.arange(count, dtype=np.int64) * available // count


class TokenBlocks:
    """The blocks of one split, on disk: `len(blocks)`, and `blocks[indices]` for int64 ids (n, L).

    Opened with `TokenBlocks.open(folder, split)`. `manifest` says what the ids mean.
    """

    def __init__(self, manifest: Manifest, shards: list[NDArray[Any]], folder: Path, split: str) -> None:
        self.manifest = manifest
        self.split = split
        self._folder = folder
        self._shards = shards
        self._ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)

    @classmethod
    def open(cls, folder: str | Path, split: str = "train") -> TokenBlocks:
        """Map the shards of `split`. DataError when the folder is unfinished or a shard is missing or truncated."""
        folder = Path(folder)
        manifest = Manifest.read(folder)
        if split not in manifest.splits:
            raise DataError(f"{str(folder)!r} has no split {split!r}, only {', '.join(manifest.splits)}")
        shards = [_map_shard(folder / shard.file, shard.blocks, manifest) for shard in manifest.splits[split].shards]
        return cls(manifest, shards, folder, split)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Blocks (n, L) at `indices` (n,), each in [0, len); in that order, repeats allowed. Else IndexError."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.ndim != 1:
            raise IndexError(f"indices have shape {indices.shape}, allowed is one dimension: blocks[np.array([3])]")
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices from {indices.min()} to {indices.max()}, allowed are 0 to {len(self) - 1}")
        blocks = np.empty((len(indices), self.manifest.block_length), dtype=np.int64)
        owners = np.searchsorted(self._ends, indices, side="right")
        for owner in np.unique(owners):
            mine = owners == owner
            start = self._ends[owner] - len(self._shards[owner])
            blocks[mine] = self._shards[owner][indices[mine] - start]
        return blocks

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """DataError unless `tokenizer` is the one these blocks were made with."""
        _check_hash(tokenizer, self.manifest, self._folder)

    def verify(self) -> None:
        """Read every shard and compare its SHA-256 with the manifest; DataError names the first that differs."""
        for shard in self.manifest.splits[self.split].shards:
            if file_sha256(self._folder / shard.file) != shard.sha256:
                raise DataError(f"{shard.file} in {str(self._folder)!r} has changed: prepare again with overwrite")


def load_blocks_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a prepared folder. DataError when it is missing or not the one the blocks were made with."""
    manifest = Manifest.read(folder)
    tokenizer = load_tokenizer(Path(folder) / TOKENIZER_FOLDER)
    _check_hash(tokenizer, manifest, Path(folder))
    return tokenizer


def _check_hash(tokenizer: PreTrainedTokenizerFast, manifest: Manifest, folder: Path) -> None:
    found = tokenizer_sha256(tokenizer)
    if found != manifest.tokenizer_sha256:
        made = f"{str(folder)!r} was made with tokenizer {manifest.tokenizer_sha256[:12]}…"
        raise DataError(f"{made}, this one is {found[:12]}…: use the one in its {TOKENIZER_FOLDER}/ or prepare again")


def _map_shard(path: Path, blocks: int, manifest: Manifest) -> NDArray[Any]:
    mend = "prepare again with overwrite"
    if not path.is_file():
        raise DataError(f"shard {str(path)!r} is missing: {mend}")
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"shard {str(path)!r} is truncated or damaged: {mend}") from error
    expected = (blocks, manifest.block_length)
    if not isinstance(shard, np.memmap) or shard.shape != expected or shard.dtype != manifest.dtype:
        found = f"{getattr(shard, 'shape', None)} {getattr(shard, 'dtype', None)}"
        raise DataError(f"shard {str(path)!r} holds {found}, the manifest says {expected} {manifest.dtype}: {mend}")
    if path.stat().st_size != shard.offset + shard.nbytes:
        raise DataError(f"shard {str(path)!r} has bytes after its end: {mend}")
    return shard


def shard_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smaller of uint16 and uint32 that holds every id below `vocab_size`."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
