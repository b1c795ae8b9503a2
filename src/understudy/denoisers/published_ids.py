"""Which token of a published MDLM is the mask, and which ones framed its training blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy.errors import ModelError


@dataclass(frozen=True)
class SpecialIds:
    """Token ids. origin: what decided the mask, for people."""

    mask: int
    begin: int | None
    end: int | None
    pad: int | None
    origin: str


# By vocabulary size, as the published data code has them: GPT-2 has no mask, so an id is added after its last; blocks
# stand between two of its end tokens. BERT's [MASK] lies among its first ids; sentences stand between [CLS] and [SEP].
KNOWN = {
    50258: SpecialIds(50257, 50256, 50256, None, "the id after GPT-2's last"),
    30522: SpecialIds(103, 101, 102, 0, "[MASK] of BERT"),
}


def special_ids(
    where: Path, vocab_size: int, *, tokenizer: Any | None, config: Mapping[str, Any], mask_id: int | None = None
) -> SpecialIds:
    """Decide by what is stated (mask_id, or `mask_token_id` of the config), the tokenizer, or a known vocabulary.

    The padding token is never taken for the mask: published tokenizers give it the mask's id.
    Raises ModelError where none of them decides, or the answer lies outside the vocabulary.
    """
    stated = config.get("mask_token_id") if mask_id is None else mask_id
    if tokenizer is not None:
        ids = _of_tokenizer(where, vocab_size, tokenizer, stated)
    elif vocab_size in KNOWN:
        ids = KNOWN[vocab_size]
    elif stated is not None:
        ids = SpecialIds(stated, None, None, None, "")
    else:
        raise ModelError(
            f"{where} does not say which of its {vocab_size} tokens is the mask, and the vocabulary is neither GPT-2's "
            "(50258 with the mask) nor BERT's (30522): give the tokenizer (`understudy convert --tokenizer`), or "
            "mask_token_id (in config.json, --mask-id)"
        )
    if stated is not None:
        ids = replace(ids, mask=stated, origin="as stated")
    if not isinstance(ids.mask, int) or not 0 <= ids.mask < vocab_size:
        raise ModelError(f"the mask of {where} is {ids.mask!r}; it must lie in 0 to {vocab_size - 1}")
    known = KNOWN.get(vocab_size)
    if known is not None and ids.mask == known.mask and ids.begin is None:
        ids = replace(ids, begin=known.begin, end=known.end)  # files of GPT-2's tokenizer may not name its end token
    begin = config.get("bos_token_id", ids.begin)
    return replace(
        ids, begin=begin, end=config.get("eos_token_id", ids.end), pad=None if ids.pad == ids.mask else ids.pad
    )


def _of_tokenizer(where: Path, vocab_size: int, tokenizer: Any, stated: Any) -> SpecialIds:
    size = max(tokenizer.get_vocab().values()) + 1
    if size > vocab_size:
        raise ModelError(f"the tokenizer knows {size} tokens, the model in {where} only {vocab_size}; give its own")
    frame = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id)
    begin, end = _first(*frame), _first(*frame[2:], *frame[:2])
    if tokenizer.mask_token_id is not None:
        return SpecialIds(tokenizer.mask_token_id, begin, end, tokenizer.pad_token_id, "the tokenizer's mask token")
    # A tokenizer that fills the vocabulary has the mask among its own tokens only if it is GPT-2's with "[PAD]" added.
    is_unclear = size < vocab_size - 1 or (size == vocab_size and tokenizer.pad_token_id != vocab_size - 1)
    if is_unclear and stated is None:
        raise ModelError(
            f"the tokenizer has no mask token and {size} tokens, the model in {where} has {vocab_size}: the mask "
            "cannot be told; state mask_token_id (in config.json, --mask-id)"
        )
    return SpecialIds(vocab_size - 1, begin, end, tokenizer.pad_token_id, "the id after the tokenizer's last")


def _first(*ids: int | None) -> int | None:
    return next((token for token in ids if token is not None), None)
