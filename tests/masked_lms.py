"""Tiny masked language models of transformers with random weights, and a tokenizer of letters that frames its texts."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from understudy.quiet import quiet

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_POSITIONS, TAIL = 40, 5  # the networks' vocabularies are wider than the tokenizer's


def letter_tokenizer(words=LETTERS):
    """<s> a b c </s>, as RoBERTa frames a text; as many tokens as there are letters and special ones."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_POSITIONS,
    )


def masked_lm(kind, *, layers=2, seed=0):
    """One of KINDS, in evaluation mode. Weights are large enough for predictions to differ."""
    vocab_size = len(SPECIAL) + len(LETTERS) + TAIL
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": MAX_POSITIONS,
    }
    configs = {
        "roberta": lambda: RobertaForMaskedLM(RobertaConfig(vocab_size=vocab_size, **sizes, **ids)),
        "bert": lambda: BertForMaskedLM(BertConfig(vocab_size=vocab_size, pad_token_id=1, **sizes)),
        "modernbert": lambda: ModernBertForMaskedLM(
            ModernBertConfig(vocab_size=vocab_size, global_attn_every_n_layers=2, local_attention=4, **sizes, **ids)
        ),
        "albert": lambda: AlbertForMaskedLM(AlbertConfig(vocab_size=vocab_size, embedding_size=8, **sizes, **ids)),
        "distilbert": lambda: DistilBertForMaskedLM(
            DistilBertConfig(
                vocab_size=vocab_size,
                dim=16,
                n_layers=layers,
                n_heads=2,
                hidden_dim=32,
                max_position_embeddings=MAX_POSITIONS,
                pad_token_id=1,
            )
        ),
    }
    torch.manual_seed(seed)
    network = configs[kind]().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "norm" not in name.lower():
                parameter.normal_(0, 0.3)
    return network


KINDS = ("roberta", "bert", "modernbert", "distilbert", "albert")


def save_masked_lm(folder, kind="roberta", *, layers=2, seed=0, tokenizer=None):
    """Write one with its tokenizer, in the Hugging Face layout, and give its network."""
    network = masked_lm(kind, layers=layers, seed=seed)
    with quiet():
        network.save_pretrained(folder)
        (tokenizer or letter_tokenizer()).save_pretrained(folder)
    return network
