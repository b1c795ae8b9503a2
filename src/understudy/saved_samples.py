"""Samples in a file: what `understudy sample --output` writes, one JSON object a line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import DataError


@dataclass(frozen=True)
class SavedSamples:
    """Token ids and text of each sample of a file, in its order."""

    tokens: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]


def read_samples(path: str | Path) -> SavedSamples:
    """Read a JSON lines file with the keys `text` and `token_ids`; other keys and empty lines do not count.

    DataError, with the line's number, for a line that is no such object; and for a file that is missing or empty.
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
    return SavedSamples(tuple(ids for ids, _ in found), tuple(text for _, text in found))


def _read_line(line: str, where: str) -> tuple[tuple[int, ...], str]:
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
    return tuple(ids), text


def check_texts(samples: SavedSamples, tokenizer: Any) -> None:
    """Raise DataError unless `tokenizer` reads the ids of every sample as its text, white space aside.

    A judge that reads other words than were written gives numbers that look right; this is what notices.
    """
    for index, (ids, text) in enumerate(zip(samples.tokens, samples.texts, strict=True)):
        readings = (tokenizer.decode(list(ids), skip_special_tokens=skip) for skip in (True, False))
        if "".join(text.split()) not in {"".join(reading.split()) for reading in readings}:
            raise DataError(
                f"sample {index}: the judge's tokenizer does not read token_ids as the sample's text; give a judge "
                "that shares the tokenizer, or have the text encoded anew (--retokenize)"
            )


def retokenize(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Encode texts with a judge's own tokenizer, as published gen-PPL does, for judges of another vocabulary.

    No special tokens are added. Decoding loses what text cannot show, so numbers differ from those on the ids drawn;
    entropy and distinct-n then count the judge's tokens. DataError for a text that encodes to nothing.
    """
    rows = [list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) for text in texts]
    for index, row in enumerate(rows):
        if not row:
            raise DataError(f"sample {index} has no text to encode; leave it out of the file")
    return rows
