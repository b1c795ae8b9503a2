"""What tokens look like as text: one by one as they are revealed.

Shapes: V vocabulary.
"""

from typing import Any

from understudy.text_runs import decode_ids


class TokenTexts:
    """Text of single tokens as they read after another word: with the space that they begin with, or without.

    A token that is part of a character reads as U+FFFD.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # The first call sets how the tokenizer cuts and pads, which no thread may do while another one decodes.
        words = tokenizer.encode("a the of", add_special_tokens=False, verbose=False)
        self._before = words[:1]
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        """Text of a token id."""
        if token not in self._known:
            self._known[token] = self._text(token)
        return self._known[token]

    def _text(self, token: int) -> str:
        before, both = (decode_ids(self._tokenizer, ids) for ids in (self._before, [*self._before, token]))
        return both[len(before) :] if both.startswith(before) else decode_ids(self._tokenizer, [token])
