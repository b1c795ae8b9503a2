"""Prefixes from held-out text, one for each sample: what prefix-conditional evaluation is conditioned on.

n samples, P prefix tokens, L length of a sample.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.data import TokenBlocks
from understudy.data.token_blocks import spread
from understudy.errors import DataError, PromptError, SettingError
from understudy.evaluation.judging import Ids
from understudy.sampling import fill_template

_CHUNK_BLOCKS = 4096


def validation_prefixes(folder: str | Path, tokenizer: Any, *, count: int, length: int) -> list[list[int]]:
    """The first `length` tokens (a begin token counts) of `count` held-out blocks of a prepared folder.

    The blocks are spread evenly over the validation split, since neighbours may be of one document; blocks whose text
    is shorter than that are passed over. DataError where the folder has no validation split, another tokenizer than
    `tokenizer`, or too few blocks; SettingError where `length` leaves nothing of a block to go on with.
    """
    blocks = TokenBlocks.open(folder, "validation")
    blocks.check_tokenizer(tokenizer)
    if not 1 <= length < blocks.manifest.block_length:
        raise SettingError(f"prefix length is {length}; it must lie between 1 and {blocks.manifest.block_length - 1}")
    usable = np.arange(len(blocks)) if blocks.manifest.pad_id is None else _unpadded(blocks, length)
    _check_count(len(usable), count, f"the validation split of {str(folder)!r}")
    chosen = usable[spread(len(usable), count)]
    return [row.tolist() for row in blocks[chosen][:, :length]]


def _unpadded(blocks: TokenBlocks, length: int) -> Ids:
    """Blocks with text beyond the first `length` tokens."""
    ends = np.array([blocks.manifest.eos_id, blocks.manifest.pad_id])
    found = []
    for first in range(0, len(blocks), _CHUNK_BLOCKS):
        indices = np.arange(first, min(first + _CHUNK_BLOCKS, len(blocks)))
        found.append(indices[~np.isin(blocks[indices][:, 1 : length + 1], ends).any(axis=1)])
    return np.concatenate(found)


def text_prefixes(
    path: str | Path, encode: Callable[[str], Sequence[int]], *, count: int, length: int | None = None
) -> list[list[int]]:
    """The first `count` lines of a text file as prefixes; empty lines do not count.

    encode: such as `ModelSet.encode_prefix`. length: at most so many tokens of each, a begin token included; shorter
    lines stay whole. DataError for a file that cannot be read or holds too few lines, PromptError for a line that
    encodes to nothing, SettingError for a length below 1.
    """
    if length is not None and length < 1:
        raise SettingError(f"prefix length is {length}; it must be at least 1")
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(
            f"prefixes {str(path)!r} cannot be read ({reason}); give a prepared folder or a text"
        ) from error
    _check_count(len(lines), count, repr(str(path)))
    return [list(encode(line))[:length] for line in lines[:count]]


def _check_count(found: int, count: int, where: str) -> None:
    if found < count:
        raise DataError(f"{where} has {found} prefixes for {count} samples; ask for at most as many samples")


def prefix_template(prefixes: Sequence[Sequence[int]], length: int, mask_id: int) -> Ids:
    """Template (n, L) for `SamplingTask.create`. Raises PromptError for a prefix that leaves no room."""
    for index, prefix in enumerate(prefixes):
        if not 0 < len(prefix) < length:
            raise PromptError(
                f"prefix {index} holds {len(prefix)} tokens; at length {length} it may hold 1 to {length - 1}"
            )
    return np.stack([fill_template(length, mask_id, prefix) for prefix in prefixes])
