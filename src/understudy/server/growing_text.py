"""Text that grows from the left, of which only what can no longer change is given away.

A token does not always decode to whole characters, so the text of a few tokens may read otherwise once more follow.
What can still change is held back: unfinished characters at the end, tokens that stand for single bytes, and whatever
may be the beginning of a stop text. All pieces joined are the text of all tokens at once.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from understudy.text_runs import decode_ids

UNFINISHED = "\ufffd"
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")

FinishReason = Literal["stop", "length"]


class GrowingText:
    """A completion as its tokens become final, from left to right.

    given: token ids before it, which its text continues. stops: texts before which it ends, and that are not in it; of
    several it is the one that is whole first. ends: tokens before which it ends.
    """

    def __init__(
        self, tokenizer: Any, given: Sequence[int] = (), *, stops: Sequence[str] = (), ends: Iterable[int] = ()
    ) -> None:
        self._tokenizer, self._stops, self._special = tokenizer, stops, set(tokenizer.all_special_ids)
        special = set(stops).intersection(tokenizer.all_special_tokens)  # never in a text: they are tokens or nothing
        self._ends = {*ends, *(tokenizer.convert_tokens_to_ids(text) for text in special)}
        self._ids, self._start = list(given), 0
        self._start = len(self._stable())
        self._sent = 0
        self.finish_reason: FinishReason | None = None

    def push(self, tokens: Iterable[int]) -> str:
        """Add the tokens that are final next; give the text that is final thereby."""
        for token in tokens:
            if self.finish_reason is not None:
                return ""
            if token in self._ends:
                return self._finish("stop")
            self._ids.append(token)
        return "" if self.finish_reason is not None else self._grow()

    def close(self) -> str:
        """Say that no token follows; give the rest of the text."""
        return "" if self.finish_reason is not None else self._finish("length")

    def _grow(self) -> str:
        text = self._stable()[self._start :]
        cut = self._cut(text)
        if cut is not None:
            return self._finish("stop")
        return self._send(text[: _held_back(text, self._stops)])

    def _finish(self, reason: FinishReason) -> str:
        text = decode_ids(self._tokenizer, self._ids, special=False)[self._start :]
        cut = self._cut(text)
        self.finish_reason = reason if cut is None else "stop"
        return self._send(text[:cut])

    def _send(self, text: str) -> str:
        piece, self._sent = text[self._sent :], max(self._sent, len(text))
        return piece

    def _cut(self, text: str) -> int | None:
        """Where the stop text begins that is whole first."""
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _stable(self) -> str:
        """The text that stays, whatever tokens follow."""
        end = len(self._ids)
        while end and self._is_open(self._ids[end - 1]):
            end -= 1
        return decode_ids(self._tokenizer, self._ids[:end], special=False).rstrip(UNFINISHED)

    def _is_open(self, token: int) -> bool:
        """Whether a token may belong to a character that goes on: a single byte, or what is left out of a text."""
        return token in self._special or bool(BYTE_TOKEN.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token))))


def _held_back(text: str, stops: Iterable[str]) -> int:
    """Where the longest end of a text begins that a stop text may begin with."""
    longest = 0
    for stop in stops:
        sizes = range(min(len(stop) - 1, len(text)), longest, -1)
        longest = next((size for size in sizes if text.endswith(stop[:size])), longest)
    return len(text) - longest
