"""Tokenized corpora back to running text, as it would have been written.

LM1B (Chelba et al. 2013, arXiv 1312.3005) was published with spaces around its punctuation, before contractions and
inside its quotes. The published MDLM code undoes that before its own tokenizer sees the text (`lm1b_detokenizer` in
dataloader.py of kuleshov-group/mdlm, taken from SEDD, arXiv 2310.16834); numbers on LM1B are for text without those
spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Detokenize = Literal["lm1b"]

# Each removes spaces and nothing else. In this order: quotes are paired once contractions have taken their apostrophes.
LM1B_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b(https?) : / / ", r"\1://"),
        (r" '(?=[^\W\d])", "'"),  # he 's, don 't, O 'Brien; not the '90s
        (r" n't\b", "n't"),
        (r" ([.,;:!?])(?= |$)", r"\1"),
        (r" / ", "/"),
        (r'(?<!\w)" ([^"]+) "(?!\w)', r'"\1"'),
        (r"(?<!\w)' ([^']+) '(?!\w)", r"'\1'"),
        (r"\( ([^()]+) \)", r"(\1)"),
        (r"\[ ([^\[\]]+) \]", r"[\1]"),
        (r"(?<=[$£]) (?=\d)", ""),
    )
)


def detokenize_lm1b(text: str) -> str:
    """Undo the spacing of LM1B's tokenizer in one sentence; spaces are removed, and nothing else changes.

    Joined are contractions and possessives (`he 's`, `don 't`, `do n't`), the marks . , ; : ! ? to the word before,
    pairs of quotes and brackets to what they hold, $ and £ to their number, / to both sides, `http : / / ` to one word.
    A quote or bracket without its other half stays as it is; which apostrophe ends a quote and which is a possessive
    (`the parents ' house`) is not told apart. So does the published code, but where its rules go by the letter:

    - a decade keeps its space (`the '90s`, published `the'90s`), and $ and £ theirs unless a number follows;
    - a full stop is joined to whatever it follows: a quote, a bracket, a hyphenated word (published: to a word that
      stands between spaces);
    - other marks are joined at the end of the text and in a row too (published: some of them);
    - a quote that stands against a letter outside is no half of a pair.

    >>> print(detokenize_lm1b('He paid $ 5 , " no more " ( so they say ) .'))
    He paid $5, "no more" (so they say).
    """
    for pattern, replacement in LM1B_RULES:
        text = pattern.sub(replacement, text)
    return text


DETOKENIZERS: dict[str, Callable[[str], str]] = {"lm1b": detokenize_lm1b}
