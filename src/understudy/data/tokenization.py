"""Tokenization: which ids mean mask, beginning, end and padding, text to ids, and training a tokenizer.

A vocabulary of size V holds every id the model can see, the mask included. Tokenizers without a mask token (GPT-2) get
one row more: mask_id = len(tokenizer), V = len(tokenizer) + 1, as the published MDLM checkpoints do (50257 of 50258).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.errors import DataError, SettingError
from understudy.tokenizer_files import fast_core

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_TOKEN, MASK_TOKEN, PAD_TOKEN = "<|endoftext|>", "<|mask|>", "<|pad|>"
SPECIAL_TOKENS = (END_TOKEN, MASK_TOKEN, PAD_TOKEN)
BYTES = 256  # a byte-level alphabet: every text can be written, nothing is unknown


@dataclass(frozen=True)
class Vocabulary:
    """The ids a model and its data agree on; all lie in [0, size), and the mask is none of the others.

    `bos_id` and `eos_id` may be equal (GPT-2). `pad_id` is None when the tokenizer has no padding token of its own.
    """

    size: int
    mask_id: int
    bos_id: int
    eos_id: int
    pad_id: int | None = None

    def __post_init__(self) -> None:
        named = {"mask_id": self.mask_id, "bos_id": self.bos_id, "eos_id": self.eos_id}
        if self.pad_id is not None:
            named["pad_id"] = self.pad_id
        for name, value in named.items():
            if not 0 <= value < self.size:
                raise DataError(f"{name} is {value}, allowed are 0 to {self.size - 1}: the vocabulary's size is wrong")
            if name != "mask_id" and value == self.mask_id:
                raise DataError(f"{name} and mask_id are both {value}: give the tokenizer a mask token of its own")


def resolve_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Size and special ids of the model that goes with `tokenizer`.

    The mask is the tokenizer's own or one new id after its last (then the size grows by one). Beginning and end are
    the first of bos, cls, eos, sep and of eos, sep, bos, cls that exist, so that BERT gives [CLS] and [SEP]. A padding
    token that is the mask token counts as none: excluding padding from the loss would exclude every masked position.
    DataError when there is neither a beginning nor an end, or when one of them is the mask.
    """
    # Ids may have gaps: the largest id counts, not only the number of entries.
    size = max(len(tokenizer), max(tokenizer.get_vocab().values(), default=-1) + 1)
    mask_id, pad_id = tokenizer.mask_token_id, tokenizer.pad_token_id
    bos_id, cls_id = tokenizer.bos_token_id, tokenizer.cls_token_id
    eos_id, sep_id = tokenizer.eos_token_id, tokenizer.sep_token_id
    begin = _first(bos_id, cls_id, eos_id, sep_id)
    end = _first(eos_id, sep_id, bos_id, cls_id)
    if begin is None or end is None:
        raise DataError("the tokenizer has none of the tokens bos, cls, eos, sep: set one, documents end with it")
    if mask_id is None:
        mask_id, size = size, size + 1
    return Vocabulary(size, mask_id, begin, end, None if pad_id == mask_id else pad_id)


def _first(*ids: int | None) -> int | None:
    return next((value for value in ids if value is not None), None)


class TextEncoder:
    """Text to ids for whole batches, in parallel over documents, without special tokens.

    Works on a copy of the tokenizer, so the caller's stays as it is. A special token spelled out in a text (a page
    about `[MASK]`) is encoded as ordinary text: a clean token must never look like the mask.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        core = fast_core(tokenizer)
        self._tokenizer = type(core).from_str(core.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, in order. DataError for what cannot be written in UTF-8 (lone surrogates)."""
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            message = "a document is no text: sources must give str that can be written in UTF-8 (no lone surrogates)"
            raise DataError(message) from error
        return [encoding.ids for encoding in encodings]


@dataclass(frozen=True)
class BpeRecipe:
    """A tokenizer yet to be trained: byte-level BPE of exactly `vocab_size` ids, from the first `max_characters`.

    SettingError when `vocab_size` cannot hold the 256 bytes and the 3 special tokens, or a number is not positive.
    """

    vocab_size: int
    max_characters: int = 200_000_000

    def __post_init__(self) -> None:
        smallest = BYTES + len(SPECIAL_TOKENS)
        if self.vocab_size < smallest:
            raise SettingError(f"a vocabulary of {self.vocab_size} is too small: at least {smallest} (bytes, specials)")
        if self.max_characters < 1:
            raise SettingError(f"max_characters is {self.max_characters}, it must be at least 1")


def train_bpe(texts: Iterable[str], vocab_size: int, *, max_characters: int = 200_000_000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of exactly `vocab_size` ids on a stream of texts.

    Ids 0, 1, 2 are `<|endoftext|>` (beginning and end), `<|mask|>` and `<|pad|>`. Reading stops after `max_characters`;
    only word counts are kept in memory. The same texts give the same tokenizer. decode(encode(text)) == text for
    any text. DataError when the texts have too few distinct words for `vocab_size`; SettingError as `BpeRecipe`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    recipe = BpeRecipe(vocab_size, max_characters)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_first_characters(texts, recipe.max_characters), trainer)
    size = core.get_vocab_size()
    if size != vocab_size:
        raise DataError(f"the text yields {size} tokens, {vocab_size} were asked for: give more text or ask for fewer")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END_TOKEN,
        eos_token=END_TOKEN,
        mask_token=MASK_TOKEN,
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],  # transformers 4 would add token_type_ids
    )


def _first_characters(texts: Iterable[str], limit: int) -> Iterator[str]:
    for text in texts:
        yield text[:limit]
        limit -= len(text)
        if limit <= 0:
            return
