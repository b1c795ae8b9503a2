"""Any `AutoModelForMaskedLM` of transformers: BERT, RoBERTa, DistilBERT, ModernBERT and the like.

Such a model was trained to fill gaps, which is what a denoiser does (Wang and Cho 2019, arXiv 1902.04094).
"""

from itertools import islice
from typing import Any

from understudy.denoisers.families.family import ModelSource
from understudy.denoisers.framed import FramedDenoiser, Framing
from understudy.denoisers.pretrained import pretrained
from understudy.errors import ModelError
from understudy.tokenizer_files import load_tokenizer

UNLIMITED = 10**6  # what tokenizers say where there is no limit is far above


class MaskedLM:
    """Masked language models that transformers knows without code of their own."""

    title = "masked language model of transformers"

    def recognises(self, source: ModelSource) -> bool:
        """By whether transformers has a masked language model of this `model_type`."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        return source.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and "auto_map" not in source.config

    def stated(self, source: ModelSource) -> dict[str, int | None]:
        """Nothing: the tokenizer has the last word on all of it."""
        return {}

    def load(self, source: ModelSource) -> FramedDenoiser:
        """Load network and tokenizer, and work out the frame, the mask and the tokens that are never drawn."""
        tokenizer = load_tokenizer(source.folder)
        if tokenizer.mask_token_id is None:
            raise ModelError(f"the tokenizer of {source.name} has no mask token; a masked language model needs one")
        network = _network(source)
        before, after = frame_of(tokenizer)
        most = _max_length(network, tokenizer)
        vocab_size = min(network.config.vocab_size, len(tokenizer))
        framing = Framing(
            mask_id=tokenizer.mask_token_id,
            vocab_size=vocab_size,
            max_length=None if most is None else most - len(before) - len(after),
            end_id=_end(tokenizer),
            barred=barred_ids(tokenizer),
            before=before,
            after=after,
        )
        trunk = getattr(network, network.base_model_prefix, None)
        words = [tokenizer.convert_ids_to_tokens(part) for part in (before, after)]
        room = framing.max_length or "any number of"
        description = (
            f"{type(network).__name__}: vocabulary {vocab_size} of {network.config.vocab_size}, mask "
            f"{framing.mask_id} ({tokenizer.mask_token}), at most {room} tokens between "
            f"{' '.join(words[0]) or 'nothing'} and {' '.join(words[1]) or 'nothing'}, special tokens never drawn"
        )
        return FramedDenoiser(network, framing, trunk=trunk, description=description)


def frame_of(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens that the tokenizer puts before and after a text: those of [CLS] and [SEP], or none.

    Raises ModelError where it knows no text to tell by, or does not leave it in one piece.
    """
    for text in ("a", "A", *(token for token in islice(tokenizer.get_vocab(), 1000) if token.isalnum())):
        if plain := tokenizer.encode(text, add_special_tokens=False):
            framed = tokenizer.encode(text, add_special_tokens=True)
            for start in range(len(framed) - len(plain) + 1):
                if framed[start : start + len(plain)] == plain:
                    return framed[:start], framed[start + len(plain) :]
    raise ModelError("the tokenizer encodes no text that would tell its begin and end tokens")


def barred_ids(tokenizer: Any) -> list[int]:
    """Special tokens, none of which belongs into a text; but the end token of a model that chats."""
    end = _end(tokenizer)
    return [token for token in tokenizer.all_special_ids if token != end]


def _end(tokenizer: Any) -> int | None:
    """Token that ends an answer, of a model that chats; one that does not never draws it."""
    if not tokenizer.chat_template:
        return None
    end: int | None = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return end


def _network(source: ModelSource) -> Any:
    """Weights of a masked language model; what one has no use for (a pooler, a second head) may be there."""
    from transformers import AutoModelForMaskedLM

    refusal = f"{source.name} cannot be loaded as {source.model_type!r} ({{reason}})"
    network = pretrained(AutoModelForMaskedLM, source.folder, source.dtype, refusal=refusal, may_have_more=True)
    return network.to(source.device)


def _max_length(network: Any, tokenizer: Any) -> int | None:
    """Most tokens, frame included: what positions there are, less those that RoBERTa and its kin keep for padding."""
    limit = min(
        int(getattr(network.config, "max_position_embeddings", 0) or UNLIMITED), int(tokenizer.model_max_length)
    )
    for name, layer in network.named_modules():
        if name.endswith("position_embeddings") and getattr(layer, "padding_idx", None) is not None:
            limit = min(limit, layer.num_embeddings - layer.padding_idx - 1)
    return None if limit >= UNLIMITED else limit
