"""The published MDLM network as files hold it: names and shapes of its tensors, and how they become our DiT's.

Source: `models/dit.py` of kuleshov-group/mdlm (Sahoo et al. 2024, arXiv 2406.07524); that of s-sahoo/duo has the same
tensors. The arithmetic is that of `dit.py` here: only names differ, and where time does not enter, its constant part
is folded. Shapes: V vocabulary, D width, C width of the time embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from understudy.denoisers.dit import FREQUENCY_DIM, NUM_MODULATIONS, ROPE_BASE, sinusoid
from understudy.errors import ModelError

T = TypeVar("T")
Tensors = dict[str, torch.Tensor]

PREFIXES = ("backbone.", "", "model.")
EMBEDDING, ROTARY = "vocab_embed.embedding", "rotary_emb.inv_freq"
RENAMED = {
    EMBEDDING: "vocab_embed.weight",
    "output_layer.linear.weight": "output_layer.weight",
    "output_layer.linear.bias": "output_layer.bias",
}
MODULATION = ".adaLN_modulation."


@dataclass(frozen=True)
class PublishedShape:
    """Sizes of a published network. length: of the blocks it was trained on. cond_dim: C."""

    vocab_size: int
    hidden_size: int
    blocks: int
    heads: int
    length: int
    cond_dim: int
    time_conditioning: bool
    dropout: float = 0.1


def parameter_shapes(shape: PublishedShape) -> dict[str, tuple[int, ...]]:
    """Shape by name of every parameter, in the order of the network's `parameters()`: that of the averaged weights."""
    width, cond = shape.hidden_size, shape.cond_dim
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (shape.vocab_size, width),
        "sigma_map.mlp.0.weight": (cond, FREQUENCY_DIM),
        "sigma_map.mlp.0.bias": (cond,),
        "sigma_map.mlp.2.weight": (cond, cond),
        "sigma_map.mlp.2.bias": (cond,),
    }
    for block in range(shape.blocks):
        shapes |= {f"blocks.{block}.{name}": size for name, size in _block_shapes(width, cond).items()}
    return shapes | {
        "output_layer.norm_final.weight": (width,),
        "output_layer.linear.weight": (shape.vocab_size, width),
        "output_layer.linear.bias": (shape.vocab_size,),
        "output_layer.adaLN_modulation.weight": (2 * width, cond),
        "output_layer.adaLN_modulation.bias": (2 * width,),
    }


def _block_shapes(width: int, cond: int) -> dict[str, tuple[int, ...]]:
    return {
        "norm1.weight": (width,),
        "attn_qkv.weight": (3 * width, width),
        "attn_out.weight": (width, width),
        "norm2.weight": (width,),
        "mlp.0.weight": (4 * width, width),
        "mlp.0.bias": (4 * width,),
        "mlp.2.weight": (width, 4 * width),
        "mlp.2.bias": (width,),
        "adaLN_modulation.weight": (NUM_MODULATIONS * width, cond),
        "adaLN_modulation.bias": (NUM_MODULATIONS * width,),
    }


def without_prefix(tensors: Mapping[Any, T]) -> dict[str, T]:
    """Tensors by their names in the network: without `backbone.` or `model.` where the file writes that before them.

    Raises ModelError where there is no embedding under any of these names, or two tensors would share one.
    """
    prefix = next((prefix for prefix in PREFIXES if prefix + EMBEDDING in tensors), None)
    if prefix is None:
        raise ModelError(f"there is no tensor {PREFIXES[0]}{EMBEDDING}: this is no network of MDLM")
    stripped = {str(name).removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if len(stripped) < len(tensors):
        raise ModelError(f"some tensors are there both with and without {prefix!r} before their names")
    return stripped


def check_tensors(where: Path, shapes: Mapping[str, tuple[int, ...]], shape: PublishedShape) -> None:
    """Raise ModelError unless the tensors (shape by name, without prefix) are those of such a network.

    The rotary frequencies may be there or not.
    """
    expected = parameter_shapes(shape)
    rotary = {ROTARY: (shape.hidden_size // shape.heads // 2,)}
    missing = expected.keys() - shapes.keys()
    expected |= rotary
    differing = {name for name in expected.keys() & shapes.keys() if shapes[name] != expected[name]}
    found = {"missing": missing, "unknown": shapes.keys() - expected.keys(), "of another shape": differing}
    wrong = [f"{len(names)} {how} ({', '.join(sorted(names)[:2])})" for how, names in found.items() if names]
    if wrong:
        raise ModelError(
            f"the weights in {where} are not those of an MDLM of {shape.blocks} blocks of width {shape.hidden_size} "
            f"with {shape.heads} heads, vocabulary {shape.vocab_size} and cond_dim {shape.cond_dim}: {', '.join(wrong)}"
        )


def check_rotary(where: Path, frequencies: torch.Tensor) -> None:
    """Raise ModelError unless the stored rotary frequencies (head_dim / 2,) are the ones that our network computes."""
    half = len(frequencies)
    expected = ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
    # What a half-precision copy rounds away; another base is far beyond it.
    tolerance = 1e-5 if frequencies.dtype in (torch.float32, torch.float64) else 1e-2
    if not torch.allclose(frequencies.double(), expected, rtol=tolerance, atol=0):
        raise ModelError(
            f"the rotary frequencies in {where} are not those of base {ROPE_BASE:.0f} over the whole head; "
            "such a network is not known here"
        )


def to_dit(weights: Tensors, shape: PublishedShape) -> Tensors:
    """Weights of `DiTForMaskedLM` from those of the published network (without prefix, checked).

    Without time conditioning the published code feeds sigma = 0, so that each modulation W·c + b is one vector: it
    becomes the bias, worked out in float64, and W and the time embedding go. With it, all is kept.
    """
    condition = None if shape.time_conditioning else _condition_at_zero(weights)
    renamed: Tensors = {}
    for name, weight in weights.items():
        if name == ROTARY or (condition is not None and name.startswith("sigma_map.")):
            continue
        if MODULATION not in name:
            renamed[RENAMED.get(name, name)] = weight
        elif condition is None:
            renamed[name.replace(MODULATION, ".modulation.")] = weight
        elif name.endswith(".bias"):
            matrix = weights[name.removesuffix("bias") + "weight"].double()
            folded = torch.addmv(weight.double(), matrix, condition)
            renamed[name.replace(MODULATION, ".modulation.")] = folded.float()
    return renamed


def _condition_at_zero(weights: Tensors) -> torch.Tensor:
    """What the network's time embedding gives at sigma = 0, (C,) in float64."""
    embedding = sinusoid(torch.zeros(1))[0].double()  # ones, then zeros
    first, second = (
        (weights[f"sigma_map.mlp.{layer}.weight"].double(), weights[f"sigma_map.mlp.{layer}.bias"].double())
        for layer in (0, 2)
    )
    hidden = F.silu(torch.addmv(first[1], first[0], embedding))
    return F.silu(torch.addmv(second[1], second[0], hidden))
