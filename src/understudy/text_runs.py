"""Which characters of a text come from which of its tokens.

A character can be spread over several tokens (byte-level pieces), which no single token decodes to. So a text is cut
where the decoded prefixes of its tokens agree with the whole, never decoded token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Run:
    """Neighbouring characters written by one model; `key` is empty where they were given."""

    text: str
    key: str


def decode_ids(tokenizer: Any, token_ids: Sequence[int], *, special: bool = True) -> str:
    """Text of token ids (L,), spaces as they were given or sampled; special tokens are in it unless told otherwise."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False))


def written_runs(tokenizer: Any, token_ids: Sequence[int], keys: Sequence[str]) -> list[Run]:
    """Cut the text of `token_ids` (L,) into runs by the key (L,) of the model that wrote each token.

    The runs joined are the text as the tokenizer decodes it whole, special tokens included. A character that two models
    wrote together belongs to the one that wrote its last token.
    """
    whole = decode_ids(tokenizer, token_ids)
    runs, end, start = [], 0, 0
    for key, group in groupby(keys):
        end += len(list(group))
        # An unfinished character decodes to a replacement character, which the whole does not have there.
        prefix = whole if end == len(token_ids) else decode_ids(tokenizer, token_ids[:end])
        stop = max(start, _agreement(prefix, whole))
        runs.append(Run(whole[start:stop], key))
        start = stop
    return _merged(runs)


def _agreement(first: str, second: str) -> int:
    """Characters that two texts share at their start."""
    differing = (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differing, min(len(first), len(second)))


def _merged(runs: Sequence[Run]) -> list[Run]:
    """Drop empty runs and join neighbours of one key."""
    groups = groupby((run for run in runs if run.text), key=lambda run: run.key)
    return [Run("".join(run.text for run in group), key) for key, group in groups]
