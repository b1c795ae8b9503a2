"""What lies between the matrix products of a folded DiT, as one kernel each: written in Triton, for NVIDIA GPUs.

Their twins in PyTorch's own operations, `fused.normed` and `fused.rotated`, say what they compute. Shapes: n rows,
D width, B batch, L length, M positions, H heads (of queries and keys together, where both are turned at once).
"""

import torch
import triton
import triton.language as tl

ROWS, WARPS = 2, 1  # rows of a norm that one program takes, and its warps: on an H200 the fastest of 16 pairs
FEW_ROWS = 4096  # below this, a row for each program: programs, not memory, are what is scarce


@triton.jit
def _norm_rows(
    x, out, offset, weight, shift, num_rows, eps, width: tl.constexpr, block: tl.constexpr, rows: tl.constexpr
):
    column = tl.arange(0, block)[None, :]
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    known = column < width
    inside = known & (row < num_rows)
    place = row * width + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(offset + column, mask=known, other=0.0)
    centred = tl.where(known, value - tl.sum(value, axis=1, keep_dims=True) / width, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1, keep_dims=True) / width + eps)
    result = centred * scale * tl.load(weight + column, mask=known, other=0.0)
    result += tl.load(shift + column, mask=known, other=0.0)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_row(
    x,
    out,
    cos,
    sin,
    positions,
    length,
    row_stride,
    heads: tl.constexpr,
    half: tl.constexpr,
    block_heads: tl.constexpr,
    block_half: tl.constexpr,
    is_placed: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row) if is_placed else row % length
    angle = tl.arange(0, block_half)
    head = tl.arange(0, block_heads)[:, None]
    inside = (head < heads) & (angle[None, :] < half)
    c = tl.load(cos + position * half + angle, mask=angle < half, other=0.0)[None, :]
    s = tl.load(sin + position * half + angle, mask=angle < half, other=0.0)[None, :]
    place = head * (2 * half) + angle[None, :]
    source = x + row * row_stride + place
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    target = out + row * (heads * 2 * half) + place
    tl.store(target, (first * c - second * s).to(out.dtype.element_ty), mask=inside)
    tl.store(target + half, (second * c + first * s).to(out.dtype.element_ty), mask=inside)


def normed(
    x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float
) -> torch.Tensor:
    """`fused.normed` for contiguous x (n, D)."""
    num_rows, width = x.shape
    out, block = torch.empty_like(x), triton.next_power_of_2(width)
    rows = 1 if num_rows < FEW_ROWS else ROWS
    grid = (triton.cdiv(num_rows, rows),)
    _norm_rows[grid](x, out, offset, weight, shift, num_rows, eps, width, block, rows, num_warps=WARPS)
    return out


def rotated(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """`fused.rotated` for x whose first two dimensions are one in memory; the answer is contiguous."""
    batch, length, heads, head_dim = x.shape
    half = head_dim // 2
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    blocks = triton.next_power_of_2(heads), triton.next_power_of_2(half)
    is_placed = positions is not None
    _rotate_row[(batch * length,)](x, out, cos, sin, positions, length, x.stride(1), heads, half, *blocks, is_placed)
    return out
