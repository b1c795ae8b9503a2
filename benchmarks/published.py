"""The published MDLM network, from a clone of its repository, as a denoiser for the plain sampler.

    git clone https://github.com/kuleshov-group/mdlm

Its file `models/dit.py` (Apache-2.0) is run as it is: float32 weights, bf16 by autocast, its own jit-fused pieces. Of
flash-attn, which it imports, two functions are stood in for by PyTorch's: attention by `scaled_dot_product_attention`
(flash attention inside), rotation by two products.
"""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F

from understudy.flops import TransformerShape


class Published:
    """Dense logits of the published network, with random weights; time does not matter to it here."""

    uses_time, noise, begin_id = False, None, None

    def __init__(self, clone, shape, heads, length, device):
        module = load_network(clone)
        model = SimpleNamespace(
            hidden_size=shape.width,
            n_heads=heads,
            cond_dim=128,
            n_blocks=shape.blocks,
            dropout=0.1,
            scale_by_sigma=True,
            length=length,
        )
        torch.manual_seed(shape.blocks)
        with torch.device(device):
            self.network = module.DIT(SimpleNamespace(model=model), vocab_size=shape.vocab_size)
        self.network.eval().requires_grad_(False)
        for name, parameter in self.network.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.02)
        self.shape, self.device = TransformerShape(shape.width, shape.blocks, shape.vocab_size), torch.device(device)
        self.vocab_size, self.mask_id, self.max_length = shape.vocab_size, shape.vocab_size - 1, length

    def logits(self, xt, t=None, where=None):
        """Logits (B, L, V) in float32, as its sampler asks for them."""
        assert where is None, "the published network answers at every position"
        return self.network(xt, torch.zeros(len(xt), device=xt.device)).float()

    def pass_flops(self, length, revealed=None):
        """Cost of a pass: always a full one."""
        return self.shape.pass_flops(length)


def load_network(clone):
    """The module models/dit.py of a clone."""
    stand_in("flash_attn")
    stand_in("flash_attn.layers")
    stand_in("flash_attn.layers.rotary", apply_rotary_emb_qkv_=rotate_in_place)
    stand_in("flash_attn.flash_attn_interface", flash_attn_varlen_qkvpacked_func=attend)
    if "omegaconf" not in sys.modules and importlib.util.find_spec("omegaconf") is None:
        stand_in("omegaconf")  # needed for configurations that are files
    spec = importlib.util.spec_from_file_location("published_dit", clone / "models" / "dit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in(name, **contents):
    """A module of that name, where there is none, with those contents."""
    module = ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def rotate_in_place(qkv, cos, sin):
    """Queries and keys of qkv (B, L, 3, H, d) turned by tables (L, d/2)."""
    half = qkv.shape[-1] // 2
    cos, sin = cos[:, None, None], sin[:, None, None]
    first, second = qkv[:, :, :2, :, :half], qkv[:, :, :2, :, half:]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    qkv[:, :, :2] = turned
    return qkv


def attend(qkv, cu_seqlens, max_seqlen, dropout, causal):
    """Full attention of sequences of one length, packed as (B·L, 3, H, d)."""
    q, k, v = qkv.view(-1, max_seqlen, *qkv.shape[1:]).unbind(2)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(0, 1)
