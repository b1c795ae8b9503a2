"""Tiny networks with random weights, and a denoiser that counts what it is asked."""

import numpy as np
import torch

from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.denoisers.network import DiTDenoiser

VOCAB, MASK = 23, 22


def tiny_network(blocks=3, *, seed=0, scale=0.3, **overrides):
    """A DiT whose every weight is random, so that no path is dead (at initialisation the gates are 0)."""
    settings = {"hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 32, "cond_dim": 8, **overrides}
    network = DiTForMaskedLM(DiTConfig(vocab_size=VOCAB, num_hidden_layers=blocks, **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return network.eval()


def tiny_denoiser(blocks=3, *, seed=0, **overrides):
    return DiTDenoiser(tiny_network(blocks, seed=seed, **overrides))


def tiny_pair():
    return {"H": tiny_denoiser(3, seed=1), "L": tiny_denoiser(1, seed=2)}


def random_canvas(batch, length, *, seed=0, masked=0.5):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, MASK, (batch, length))
    return torch.from_numpy(np.where(rng.random((batch, length)) < masked, MASK, tokens))


class CountingDenoiser:
    """Passes everything on and counts sequences and positions asked for."""

    def __init__(self, inner):
        self.inner, self.sequences, self.positions = inner, 0, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def logits(self, xt, t=None, where=None):
        self.sequences += len(xt)
        self.positions += xt.numel() if where is None else len(where.rows)
        return self.inner.logits(xt, t, where)
