"""The published MDLM network, from a clone of its repository, as a denoiser for the plain sampler.

    git clone https://github.com/kuleshov-group/mdlm
    pip install einops

Its file `models/dit.py` (Apache-2.0) is run as it is: float32 weights, bf16 by autocast, its own jit-fused pieces. Of
flash-attn, which it imports, two functions are stood in for by PyTorch's: attention by `scaled_dot_product_attention`
(flash attention inside), rotation by two products.
"""

import functools
import importlib.util
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F

from understudy.flops import TransformerShape

HEAD_SCALE = 0.12  # of the head's random weights: at width 768 logits vary by 3.3, an entropy of about 5 nats


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
                parameter.normal_(0, HEAD_SCALE if name == "output_layer.linear.weight" else 0.02)
        self.shape, self.device = TransformerShape(shape.width, shape.blocks, shape.vocab_size), torch.device(device)
        self.vocab_size, self.mask_id, self.max_length = shape.vocab_size, shape.vocab_size - 1, length

    def logits(self, xt, t=None, where=None):
        """Logits (B, L, V) in float32, as its sampler asks for them."""
        assert where is None, "the published network answers at every position"
        return self.network(xt, torch.zeros(len(xt), device=xt.device)).float()

    def pass_flops(self, length, revealed=None):
        """Cost of a pass: always a full one."""
        return self.shape.pass_flops(length)


@functools.cache
def load_network(clone):
    """The module models/dit.py of a clone; leaves with one line where that is not there or lacks a package."""
    path = Path(clone) / "models" / "dit.py"
    if not path.is_file():
        sys.exit(f"there is no {path}: give a clone of https://github.com/kuleshov-group/mdlm")
    stand_ins = {
        "flash_attn": {},
        "flash_attn.layers": {},
        "flash_attn.layers.rotary": {"apply_rotary_emb_qkv_": rotate_in_place},
        "flash_attn.flash_attn_interface": {"flash_attn_varlen_qkvpacked_func": attend},
    }
    if importlib.util.find_spec("omegaconf") is None:
        stand_ins["omegaconf"] = {}  # needed for configurations that are files
    # Autocast was spelt otherwise then, and is off without a GPU: PyTorch would say both at every pass.
    warnings.filterwarnings("ignore", message=".*autocast.*")
    spec = importlib.util.spec_from_file_location("published_dit", path)
    module = importlib.util.module_from_spec(spec)
    try:
        with standing_in(stand_ins):
            spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        sys.exit(f"the published network needs the package {error.name}: pip install {error.name}")
    return module


@contextmanager
def standing_in(contents):
    """Modules of those names and contents; gone afterwards, so that nobody else takes them for the real ones."""
    before = {name: sys.modules.get(name) for name in contents}
    for name, content in contents.items():
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(content)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


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
