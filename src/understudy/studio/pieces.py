"""Which characters of a text belong to which of its tokens, one piece for each token.

Shapes: L length.
"""

from collections.abc import Sequence

from understudy.denoisers.model_set import ModelSet
from understudy.text_runs import decode_ids, written_runs

HALF = "\N{REPLACEMENT CHARACTER}"  # what a token of half a character decodes to


def token_pieces(models: ModelSet, tokens: Sequence[int]) -> list[str]:
    """Give the characters of each of `tokens` (L,); joined they are the text as the tokenizer decodes it whole.

    A character that several tokens share goes to the last of them; the others get an empty piece. Special tokens are
    pieces like all others, so that a page can say where they are.
    """
    alone = [decode_ids(models.tokenizer, [token]) for token in tokens]
    # Decoding every prefix is quadratic; where no token is half a character, and none writes a space of its own, the
    # tokens decode one by one.
    if not any(HALF in piece for piece in alone) and "".join(alone) == decode_ids(models.tokenizer, tokens):
        return alone
    runs = written_runs(models.tokenizer, tokens, [str(place) for place in range(len(tokens))])
    pieces = [""] * len(tokens)
    for run in runs:
        pieces[int(run.key)] = run.text
    return pieces


def template_pieces(models: ModelSet, tokens: Sequence[int], mask_id: int) -> list[str | None]:
    """Give the characters of each given token of a template (L,), None where a token is wanted."""
    pieces: list[str | None] = [None] * len(tokens)
    start = 0
    for place in range(len(tokens) + 1):
        if place == len(tokens) or tokens[place] == mask_id:
            pieces[start:place] = token_pieces(models, tokens[start:place])
            start = place + 1
    return pieces


def special_ids(models: ModelSet) -> list[int]:
    """Tokens that stand for no characters: ends of documents, padding, the mask."""
    return sorted({int(token) for token in models.tokenizer.all_special_ids})
