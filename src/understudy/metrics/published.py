"""Generative perplexity as the published masked diffusion models report it, so that numbers can be set side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataError, SettingError


def published_rows(
    texts: Sequence[str], tokenizer: Any, *, max_length: int, context: int | None
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.bool_]]]:
    """What the judge reads, and which tokens count, by the protocol of Sahoo et al. 2024 (arXiv 2406.07524).

    texts: samples decoded with their special tokens kept. tokenizer: the judge's (gpt2-large there); it encodes them
    anew, with the special tokens that it adds of itself. max_length: most tokens kept of a text, the length of the
    samples there. context: of the judge, C; None where it has no limit.

    Texts are cut into chunks of C tokens that do not overlap. Counted are all tokens but end-of-text, and the first
    end-of-text of each chunk; the first token of a chunk has nothing before it and is never scored (`token_nlls` sees
    to that). The published code pads with end-of-text to the longest of a batch, so a shorter text is followed by one
    that counts where its chunk has none before. Here one is appended to every text shorter than max_length, as in a
    batch whose longest fills it, and padding is not needed: what counts of a text depends on no other. It differs from
    there for batches in which no text fills max_length; their longest texts get an end that counts. Perplexity is over
    the tokens of all samples. Unlike there, no sample is dropped for not filling a batch, and the softmax is in
    float64.

    Gives ids and bools of each text, for `token_nlls(judge, rows, scored=…)`. DataError for a tokenizer without an
    end-of-text token, SettingError for a max_length below 2.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise DataError("the judge's tokenizer has no end-of-text token, which the published protocol pads with")
    if max_length < 2:
        raise SettingError(f"max_length is {max_length}; nothing is scored below 2 tokens")
    encoded = [np.array(tokenizer(text, verbose=False).input_ids[:max_length], dtype=np.int64) for text in texts]
    rows = [row if len(row) == max_length else np.append(row, eos) for row in encoded]
    return rows, [_counted(row, eos, context or len(row)) for row in rows]


def _counted(row: NDArray[np.int64], eos: int, context: int) -> NDArray[np.bool_]:
    is_end = row == eos
    chunks = [is_end[start : start + context] for start in range(0, len(row), context)]
    is_first = np.concatenate([np.cumsum(chunk) == 1 for chunk in chunks]) & is_end
    return np.asarray(~is_end | is_first)
