"""The DiT as a GPU wants it: the same function in fewer, larger operations.

What is constant once training is over is folded away: the gates into the products behind them, the biases of the MLPs
into the next norm, scale and shift into the norm itself. Every residual sum is then the accumulator of a matrix
product, and between two products one kernel is left. Shapes: B batch, L length, M positions wanted per sequence, R
positions wanted in all, D width, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import cast

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from understudy.denoisers.dit import DiTBlock, DiTForMaskedLM, Linear, ModulatedNorm, rotary_table, rotate

NORM_EPS = 1e-5
HAS_TRITON = find_spec("triton") is not None  # it comes with PyTorch for CUDA
HEAD_MULTIPLE = 64  # rows of the head, filled up: products of odd sizes take slower kernels
# The first that takes the shapes. At length 1024 on an H200, cuDNN's takes two thirds of flash attention's time.
BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


Norm = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
Rotation = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class FusedNorm:
    """norm(x + offset)·weight + shift, all (D,) in float32."""

    offset: torch.Tensor
    weight: torch.Tensor
    shift: torch.Tensor


@dataclass(frozen=True)
class FusedBlock:
    """A block without gates and without a bias at its end; weights (D_in, D_out)."""

    norm1: FusedNorm
    qkv: torch.Tensor
    attn_out: torch.Tensor
    norm2: FusedNorm
    widen: torch.Tensor
    widen_bias: torch.Tensor
    narrow: torch.Tensor


class FusedDiT:
    """A DiT without time conditioning, folded for inference from a network that must not change any more.

    kernels: take one kernel of ours each for the norm and the rotation, on a GPU and where Triton is installed, as it
    is with PyTorch for CUDA. Otherwise they are put together from PyTorch's own.
    """

    @torch.inference_mode()
    def __init__(self, network: DiTForMaskedLM, *, kernels: bool = True) -> None:
        config = network.config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.embedding = network.vocab_embed.weight
        self.blocks: list[FusedBlock] = []
        # A residual stream that lacks the biases of all MLPs so far; the norms add them.
        offset = torch.zeros(config.hidden_size, device=network.device)
        for module in network.blocks:
            block, offset = _fold(cast(DiTBlock, module), offset)
            self.blocks.append(block)
        layer = network.output_layer
        self.norm_final = _fold_norm(layer.norm_final, offset, *layer.modulation(None))
        self.cos, self.sin = rotary_table(config.max_position_embeddings, self.head_dim, network.device)
        self._normed: Norm = normed
        self._rotated: Rotation = rotated
        if kernels and HAS_TRITON and network.device.type == "cuda":
            from understudy.denoisers import triton_kernels  # here, because it needs Triton

            self._normed, self._rotated = triton_kernels.normed, triton_kernels.rotated
        self.vocab_size = config.vocab_size
        head = network.vocab_embed.weight if config.tie_word_embeddings else layer.weight
        spare = -config.vocab_size % HEAD_MULTIPLE
        self.head = (F.pad(head, (0, 0, 0, spare)), F.pad(layer.bias, (0, spare))) if spare else (head, layer.bias)

    @torch.inference_mode()
    def logits_at(self, xt: torch.Tensor, columns: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
        """Raw logits at the wanted positions (R, V); arguments as in `hidden_at`."""
        return F.linear(self.hidden_at(xt, columns, flat), *self.head)[:, : self.vocab_size]

    @torch.inference_mode()
    def hidden_at(self, xt: torch.Tensor, columns: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
        """What the head reads at the wanted positions (R, D).

        xt: int64 (B, L). columns: int64 (B, M). flat: int64 (R,), which of the B·M positions are wanted.
        """
        batch, length = xt.shape
        x = F.embedding(xt, self.embedding).flatten(0, 1)  # (B·L, D); every block adds to it in place
        for block in self.blocks[:-1]:
            qkv = self._split(self._norm(x, block.norm1) @ block.qkv, batch)  # (B, L, 3·H, head_dim)
            heads = self.num_heads
            qk = self._rotated(qkv[:, :, : 2 * heads], self.cos, self.sin)
            x.addmm_(_attend(qk[:, :, :heads], qk[:, :, heads:], qkv[:, :, 2 * heads :]), block.attn_out)
            self._feed_forward(x, block)
        x = self._last_block(x, columns, flat, length)
        return self._norm(x, self.norm_final)

    def _last_block(self, x: torch.Tensor, columns: torch.Tensor, flat: torch.Tensor, length: int) -> torch.Tensor:
        """(B·L, D) → (R, D): keys and values everywhere, the rest where it is wanted."""
        block, batch = self.blocks[-1], len(columns)
        q_weight, kv_weight = block.qkv.tensor_split([x.shape[-1]], dim=1)
        h = self._norm(x, block.norm1)
        k, v = self._split(h @ kv_weight, batch).tensor_split(2, dim=2)
        k = self._rotated(k, self.cos, self.sin)
        first = torch.arange(batch, device=x.device)[:, None] * length
        places = (columns + first).flatten()
        q = self._rotated(self._split(h[places] @ q_weight, batch), self.cos, self.sin, columns)
        x = x[places[flat]]
        x.addmm_(_attend(q, k, v)[flat], block.attn_out)
        self._feed_forward(x, block)
        return x

    def _feed_forward(self, x: torch.Tensor, block: FusedBlock) -> None:
        """Add the MLP branch to x (·, D) in place; bias and GELU ride on the first product."""
        h = self._norm(x, block.norm2)
        if x.is_cuda:  # elsewhere this is the other GELU
            h = torch._addmm_activation(block.widen_bias, h, block.widen, use_gelu=True)
        else:
            h = F.gelu(torch.addmm(block.widen_bias, h, block.widen), approximate="tanh")
        x.addmm_(h, block.narrow)

    def _norm(self, x: torch.Tensor, norm: FusedNorm) -> torch.Tensor:
        return self._normed(x, norm.offset, norm.weight, norm.shift, NORM_EPS)

    def _split(self, x: torch.Tensor, batch: int) -> torch.Tensor:
        """(B·n, parts·D) → (B, n, parts·H, head_dim)."""
        return x.view(batch, len(x) // batch, x.shape[-1] // self.head_dim, self.head_dim)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Full attention (B·n, D) of q (B, n, H, ·) over k and v (B, L, H, ·)."""
    with sdpa_kernel(BACKENDS, set_priority=True):
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def normed(
    x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float
) -> torch.Tensor:
    """Layer norm of x (n, D) + offset (D,), times weight, plus shift: in float32, given back in the type of x."""
    return F.layer_norm(x.float() + offset, weight.shape, weight, shift, eps).to(x.dtype)


def rotated(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Turn x (B, n, ·, head_dim) as `dit.rotate` does, in float32.

    cos, sin: tables (L, head_dim / 2). positions: int64 (B, n), of each entry; 0 … n − 1 unless given.
    """
    cos, sin = (table[: x.shape[1]] if positions is None else table[positions] for table in (cos, sin))
    return rotate(x.float(), cos[..., None, :], sin[..., None, :]).to(x.dtype)


def _fold(block: DiTBlock, offset: torch.Tensor) -> tuple[FusedBlock, torch.Tensor]:
    """Fold one block; give it with the offset that its successor reads at."""
    shift1, scale1, gate1, shift2, scale2, gate2 = (vector.float() for vector in block.modulation(None))
    inner, outer = (cast(Linear, block.mlp[i]) for i in (0, 2))
    dtype = inner.weight.dtype
    folded = FusedBlock(
        norm1=_fold_norm(block.norm1, offset, shift1, scale1),
        qkv=block.attn_qkv.weight.t(),
        attn_out=(gate1[:, None] * block.attn_out.weight.float()).to(dtype).t(),
        norm2=_fold_norm(block.norm2, offset, shift2, scale2),
        widen=inner.weight.t(),
        widen_bias=inner.bias,
        narrow=(gate2[:, None] * outer.weight.float()).to(dtype).t(),
    )
    return folded, offset + gate2 * outer.bias.float()


def _fold_norm(norm: ModulatedNorm, offset: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> FusedNorm:
    return FusedNorm(offset, norm.weight.float() * (1 + scale.float()), shift.float().contiguous())
