"""Which characters of a text come from which of its tokens.

A character can be spread over several tokens (byte-level pieces), which no single token decodes to. So a text is cut
where the decoded prefixes of its tokens agree with the whole, never decoded token by token.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


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
    groups = [(key, len(list(group))) for key, group in groupby(keys)]
    ends = accumulate(size for _, size in groups)
    runs, start = [], 0
    for (key, _), stop in zip(groups, _stops(tokenizer, token_ids, whole, ends), strict=True):
        runs.append(Run(whole[start : max(start, stop)], key))
        start = max(start, stop)
    return _merged(runs)


def _stops(tokenizer: Any, token_ids: Sequence[int], whole: str, ends: Iterable[int]) -> Iterator[int]:
    """Characters of `whole` that are those of the first tokens, for each number of tokens in `ends`, which ascend.

    That is where the decoded prefix and the whole part. A long text has a thousand ends, so a prefix is decoded from
    the last place but one where both agreed, and from the first token only where that does not go on as it began.
    """
    first, agreed, known, stop = 0, 0, "", 0  # tokens[first:agreed] decode to `known`, tokens[:agreed] to whole[:stop]
    for end in ends:
        if end == len(token_ids):
            yield len(whole)
            continue
        # An unfinished character decodes to a replacement character, which the whole does not have there.
        text = decode_ids(tokenizer, token_ids[first:end])
        tail = text[len(known) :]
        shared = _agreement(tail, whole[stop : stop + len(tail)])
        if not text.startswith(known) or tail[shared:].strip(REPLACEMENT):
            yield _agreement(decode_ids(tokenizer, token_ids[:end]), whole)
            continue
        yield stop + shared
        if shared == len(tail) and not tail.endswith(REPLACEMENT):
            first, agreed, stop = agreed, end, stop + shared
            known = decode_ids(tokenizer, token_ids[first:agreed])


def _agreement(first: str, second: str) -> int:
    """Characters that two texts share at their start."""
    differing = (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differing, min(len(first), len(second)))


def _merged(runs: Sequence[Run]) -> list[Run]:
    """Drop empty runs and join neighbours of one key."""
    groups = groupby((run for run in runs if run.text), key=lambda run: run.key)
    return [Run("".join(run.text for run in group), key) for key, group in groups]
