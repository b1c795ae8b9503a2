"""The published MDLM network stated on its own, at tiny size, and files as its authors publish them.

Written from the description of the network (arXiv 2406.07524 and its repository), not from ours: see `PublishedNet`.
"""

import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

CONFIG = {
    "architectures": ["MDLM"],
    "auto_map": {"AutoConfig": "configuration_mdlm.MDLMConfig", "AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
    "model_type": "mdlm",
    "cond_dim": 6,
    "dropout": 0.1,
    "hidden_dim": 16,
    "model_length": 24,
    "n_blocks": 2,
    "n_heads": 2,
    "return_dict": False,
    "time_conditioning": False,
    "torch_dtype": "float32",
    "transformers_version": "4.38.2",
    "vocab_size": 50258,
}


class Norm(nn.Module):
    """Layer norm with a weight and no bias, in float32."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.layer_norm(x.float(), [x.shape[-1]], eps=1e-5) * self.weight


class Embedding(nn.Module):
    def __init__(self, vocab_size, width):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self, tokens):
        return self.embedding[tokens]


class Sigma(nn.Module):
    """Cosines, then sines of sigma at 128 frequencies from 1 down to nearly 1/10000; two layers."""

    def __init__(self, cond):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, cond), nn.SiLU(), nn.Linear(cond, cond))

    def forward(self, sigma):
        angles = sigma[:, None] * torch.tensor([10_000 ** (-i / 128) for i in range(128)])
        return self.mlp(torch.cat([angles.cos(), angles.sin()], 1))


class Rotary(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.register_buffer("inv_freq", 1 / 10_000 ** (torch.arange(0, head, 2).float() / head))

    def forward(self, x):  # (B, L, H, head)
        angle = torch.arange(x.shape[1])[:, None] * self.inv_freq
        angle = torch.cat([angle, angle], 1)[:, None]
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * angle.cos() + turned * angle.sin()


class Block(nn.Module):
    def __init__(self, width, heads, cond):
        super().__init__()
        self.heads = heads
        self.norm1 = Norm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = Norm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.adaLN_modulation = nn.Linear(cond, 6 * width)

    def forward(self, x, rotary, c):
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=2)
        batch, length, width = x.shape
        qkv = self.attn_qkv(self.norm1(x) * (1 + scale) + shift)
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).unbind(2)
        q, k = rotary(q), rotary(k)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(width // self.heads)
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(batch, length, width)
        x = x + gate * self.attn_out(mixed)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class Final(nn.Module):
    def __init__(self, width, vocab_size, cond):
        super().__init__()
        self.norm_final = Norm(width)
        self.linear = nn.Linear(width, vocab_size)
        self.adaLN_modulation = nn.Linear(cond, 2 * width)

    def forward(self, x, c):
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class PublishedNet(nn.Module):
    """tokens (B, L), sigma (B,) → raw logits (B, L, V); every weight random, so that no path is dead."""

    def __init__(self, config, seed=0):
        super().__init__()
        width, heads, cond, vocab_size = (config[name] for name in ("hidden_dim", "n_heads", "cond_dim", "vocab_size"))
        self.conditioned = config["time_conditioning"]
        self.vocab_embed = Embedding(vocab_size, width)
        self.sigma_map = Sigma(cond)
        self.rotary_emb = Rotary(width // heads)
        self.blocks = nn.ModuleList(Block(width, heads, cond) for _ in range(config["n_blocks"]))
        self.output_layer = Final(width, vocab_size, cond)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.eval().requires_grad_(False)

    def forward(self, tokens, sigma):
        if not self.conditioned:
            sigma = torch.zeros_like(sigma)
        c = F.silu(self.sigma_map(sigma))
        x = self.vocab_embed(tokens)
        for block in self.blocks:
            x = block(x, self.rotary_emb, c)
        return self.output_layer(x, c)

    def at(self, tokens, t):
        """Logits at times t (B,) of log-linear noise."""
        return self(tokens, -torch.log1p(-(1 - 1e-3) * t))


def published(seed=0, **changes):
    """Give (network, its configuration)."""
    config = CONFIG | changes
    return PublishedNet(config, seed), config


def state_of(network, prefix="backbone."):
    return {prefix + name: tensor.clone() for name, tensor in network.state_dict().items()}


def save_published(folder, network, config, *, prefix="backbone."):
    """Write a folder as on the hub: no tokenizer, and code that must never be run."""
    folder.mkdir(exist_ok=True)
    save_file(state_of(network, prefix), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("configuration_mdlm.py", "modeling_mdlm.py"):
        (folder / name).write_text("raise SystemExit('remote code ran')")
    return folder
