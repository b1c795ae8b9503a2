"""Held-out text as blocks of one length, in memory: what models are analysed on. J blocks, L length."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.data.corpus import TextSource
from understudy.data.token_blocks import MANIFEST_FILE, TokenBlocks, spread
from understudy.data.tokenization import TextEncoder
from understudy.errors import DataError, SettingError

BATCH_DOCUMENTS = 256


def held_out_blocks(
    source: str | Path,
    tokenizer: Any,
    *,
    length: int,
    count: int,
    begin_id: int | None = None,
    end_id: int | None = None,
) -> NDArray[np.int64]:
    """Give up to `count` blocks (J, length) of token ids.

    source: a folder of `understudy prepare`, whose validation split is taken, spread evenly; or text: a `.txt` file,
    its documents set apart by empty lines, or what `TextSource` reads. Documents of a text are joined, each followed by
    `end_id`, and cut into blocks that begin with `begin_id`, where the models know such tokens.

    DataError for text or a folder that cannot be read, was made with another tokenizer or fills not one block;
    SettingError where the folder's blocks are shorter than `length` or padded.
    """
    if length < 2 or count < 1:
        raise SettingError(f"{count} blocks of {length} tokens are asked for; at least 1 of 2 are needed")
    if (Path(source) / MANIFEST_FILE).is_file():
        return _prepared(Path(source), tokenizer, length, count)
    blocks = _packed(_documents(source), tokenizer, length, begin_id, end_id)
    found = list(islice(blocks, count))
    if not found:
        raise DataError(f"{str(source)!r} fills not one block of {length} tokens; give more text or a shorter length")
    return np.array(found, dtype=np.int64)


def _prepared(folder: Path, tokenizer: Any, length: int, count: int) -> NDArray[np.int64]:
    blocks = TokenBlocks.open(folder, "validation")
    blocks.check_tokenizer(tokenizer)
    manifest = blocks.manifest
    if manifest.layout == "padded" or manifest.block_length < length:
        raise SettingError(
            f"{str(folder)!r} holds {manifest.layout} blocks of {manifest.block_length} tokens; packed ones of at "
            f"least {length} are needed: prepare the text anew, or give the text itself"
        )
    return blocks[spread(len(blocks), count)][:, :length]


def _documents(source: str | Path) -> Iterator[str]:
    path = Path(source)
    if path.suffix.lower() != ".txt" or not path.is_file():
        yield from TextSource(str(source)).documents()
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(f"cannot read {str(source)!r} ({reason}); give a text file") from error
    yield from (part.strip("\n") for part in text.split("\n\n") if part.strip())


def _packed(
    documents: Iterable[str], tokenizer: Any, length: int, begin_id: int | None, end_id: int | None
) -> Iterator[list[int]]:
    encoder = TextEncoder(tokenizer)
    begin, end = ([] if token is None else [token] for token in (begin_id, end_id))
    size, waiting, texts = length - len(begin), list[int](), iter(documents)
    while batch := list(islice(texts, BATCH_DOCUMENTS)):
        for ids in encoder.encode(batch):
            waiting += [*ids, *end] if ids else []
        while len(waiting) >= size:
            yield begin + waiting[:size]
            del waiting[:size]
