"""Samples in a file: what `understudy sample --output` writes, one JSON object a line."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataError
from understudy.text_runs import decode_ids

GIVEN = "."  # stands in `written_by` for a token that was given, by a prefix or suffix, and not sampled


@dataclass(frozen=True)
class SavedSamples:
    """Token ids and text of each sample of a file, in its order.

    free: for each sample a bool per token, false where it was given; all true where the file does not say.
    """

    tokens: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    free: tuple[NDArray[np.bool_], ...]

    @property
    def has_given(self) -> bool:
        """Whether any token was given."""
        return not all(row.all() for row in self.free)


def written_by(keys: Iterable[str]) -> str:
    """One letter for each token: the key of the model that wrote it, and `GIVEN` for an empty key."""
    return "".join(key or GIVEN for key in keys)


def documents(tokenizer: Any, token_ids: Sequence[int]) -> list[list[int]]:
    """Places, in `token_ids`, of the tokens of each document: they end where a begin or end token stands.

    Special tokens have no place, and documents without a token are left out.
    """
    ends, special = {tokenizer.bos_token_id, tokenizer.eos_token_id}, set(tokenizer.all_special_ids)
    found: list[list[int]] = [[]]
    for place, token in enumerate(token_ids):
        if token in ends:
            found.append([])
        elif token not in special:
            found[-1].append(place)
    return [places for places in found if places]


def sample_text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Text of a sample without its special tokens, an empty line between documents; white space aside, as decoded."""
    whole = decode_ids(tokenizer, token_ids, special=False)
    runs = documents(tokenizer, token_ids)
    parts = [decode_ids(tokenizer, [token_ids[place] for place in places], special=False) for places in runs]
    apart = "\n\n".join(parts)
    # Some decoders write the first token of a text otherwise than one within it.
    is_same = "".join(apart.split()) == "".join(whole.split())
    return apart if len(parts) > 1 and is_same else whole


def read_samples(path: str | Path) -> SavedSamples:
    """Read a JSON lines file with the keys `text` and `token_ids`, and `written_by` where it is there.

    Other keys and empty lines do not count. DataError, with the line's number, for a line that is no such object; and
    for a file that is missing or empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(
            f"samples {str(path)!r} cannot be read ({reason}); give a file of `understudy sample`"
        ) from error
    found = [_read_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{str(path)!r} holds no samples; write some with `understudy sample --output`")
    tokens, texts, free = zip(*found, strict=True)
    return SavedSamples(tokens, texts, free)


def _read_line(line: str, where: str) -> tuple[tuple[int, ...], str, NDArray[np.bool_]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); one object with text and token_ids is expected") from error
    ids, text = (row.get("token_ids"), row.get("text")) if isinstance(row, dict) else (None, None)
    if not isinstance(text, str):
        raise DataError(f"{where}: there is no string under 'text'; one object with text and token_ids is expected")
    is_ids = isinstance(ids, list) and all(type(token) is int and token >= 0 for token in ids)
    if not is_ids or not ids:
        raise DataError(f"{where}: 'token_ids' is no list of one or more whole numbers from 0")
    return tuple(ids), text, _free(row.get("written_by"), len(ids), where)


def _free(writers: Any, length: int, where: str) -> NDArray[np.bool_]:
    if writers is None:
        return np.ones(length, dtype=bool)
    if not isinstance(writers, str) or len(writers) != length:
        raise DataError(f"{where}: 'written_by' is no string of {length} letters, one for each token; correct it")
    free = np.array([letter != GIVEN for letter in writers])
    if not free.any():
        raise DataError(f"{where}: 'written_by' says that every token was given, so nothing is to be scored")
    return free


def check_texts(samples: SavedSamples, tokenizer: Any, *, whose: str = "the judge's tokenizer") -> None:
    """Raise DataError unless `tokenizer` reads the ids of every sample as its text, white space aside.

    A judge that reads other words than were written gives numbers that look right; this is what notices.
    """
    for index, (ids, text) in enumerate(zip(samples.tokens, samples.texts, strict=True)):
        readings = (tokenizer.decode(list(ids), skip_special_tokens=skip) for skip in (True, False))
        if "".join(text.split()) not in {"".join(reading.split()) for reading in readings}:
            raise DataError(
                f"sample {index}: {whose} does not read token_ids as the sample's text; give a judge that shares the "
                "tokenizer, have the text encoded anew (--retokenize), or name the samples' own (--tokenizer)"
            )


def retokenize(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Encode texts with a judge's own tokenizer, as published gen-PPL does, for judges of another vocabulary.

    No special tokens are added. Decoding loses what text cannot show, so numbers differ from those on the ids drawn.
    DataError for a text that encodes to nothing.
    """
    rows = [list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) for text in texts]
    for index, row in enumerate(rows):
        if not row:
            raise DataError(f"sample {index} has no text to encode; leave it out of the file")
    return rows
