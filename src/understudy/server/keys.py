"""Who may use a service: keys from a file, compared in constant time."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from understudy.errors import DataError

REMARK = re.compile(r"(?:^|\s)#")


class Keys:
    """Keys that a service accepts; without any, everyone may use it. Only their digests are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    @property
    def are_needed(self) -> bool:
        """Whether a caller needs a key."""
        return bool(self._digests)

    def accept(self, authorization: str | None) -> bool:
        """Say whether an `Authorization` header, None where there is none, lets its sender in.

        The time that it takes tells nothing about how much of a key is right, nor which one it resembles.
        """
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, whichever matches
        return not self._digests or (scheme.lower() == "bearer" and any(matches))


def read_keys(path: str | Path) -> Keys:
    """Read keys from a file: one on each line. A # at the beginning of a line or behind a space begins a remark.

    Raises DataError for a file that cannot be read or holds none, and for a key with spaces in it, with its line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(f"keys {str(path)!r} cannot be read ({reason})") from error
    found = [REMARK.split(line, maxsplit=1)[0].strip() for line in lines]
    for number, key in enumerate(found, start=1):
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise DataError(
                f"line {number} of {str(path)!r} has spaces or letters outside ASCII in its key; one key goes on each "
                "line, and behind it nothing but a remark after a space and #"
            )
    keys = [key for key in found if key]
    if not keys:
        raise DataError(f"{str(path)!r} holds no key; write one on each line")
    return Keys(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
