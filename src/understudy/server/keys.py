"""Who may use a service: keys from a file, compared in constant time."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from understudy.errors import DataError


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
    """Read keys from a file: one on each line; empty lines and those that begin with # do not count.

    Raises DataError for a file that cannot be read or holds none, and for a key with spaces in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(f"keys {str(path)!r} cannot be read ({reason})") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise DataError(f"{str(path)!r} holds no key; write one on each line")
    for key in keys:
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise DataError(f"a key in {str(path)!r} has spaces or letters outside ASCII; one key goes on each line")
    return Keys(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
