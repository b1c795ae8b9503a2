"""Heavy, light and judge with random weights over one tiny byte-level tokenizer, and folders of them."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from understudy.data.tokenization import train_bpe
from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.denoisers.network import DiTDenoiser
from understudy.evaluation import Judge

VOCAB = 275
TEXTS = ["the cat sat on the mat, the dog sat on the cat; a café, über 猫 and 犬. " * 3]


def make_tokenizer():
    return train_bpe(TEXTS, VOCAB)


def make_network(blocks, seed, tokenizer):
    config = DiTConfig(
        vocab_size=VOCAB,
        num_hidden_layers=blocks,
        hidden_size=16,
        num_attention_heads=2,
        max_position_embeddings=32,
        cond_dim=8,
        mask_token_id=tokenizer.mask_token_id,
    )
    network = DiTForMaskedLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.eval()


def make_pair(tokenizer):
    return {key: DiTDenoiser(make_network(blocks, blocks, tokenizer)) for key, blocks in {"H": 3, "L": 1}.items()}


def make_llama(*, vocab=VOCAB, context=32, seed=0, scale=0.3, **overrides):
    """A judge; scale 0 makes it uniform."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=context,
        **overrides,
    )
    judge = LlamaForCausalLM(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in judge.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return judge


def make_judge(tokenizer, **settings):
    return Judge(make_llama(**settings), tokenizer, "tiny")


def save_stage(folder, tokenizer):
    """Write heavy, light and judge, each with the tokenizer; gives their paths."""
    networks = {
        "heavy": make_network(3, 3, tokenizer),
        "light": make_network(1, 1, tokenizer),
        "judge": make_llama(),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: folder / name for name in networks}
