"""The draw from logits as two kernels, written in Triton, for NVIDIA GPUs: the law of `draw.inverse_cdf`.

Its steps in PyTorch would be some fifty kernels, and in float64 several copies of R × V numbers. Here the logits are
read once in their own type; sums are float64. Shapes: R rows, V vocabulary, K blocks of it.
"""

import torch
import triton
import triton.language as tl

BLOCK = 1024  # tokens of the vocabulary that one program adds up


@triton.jit
def _sum_blocks(logits, tops, sums, row_stride, vocab_size, mask_id, temperature: tl.constexpr, block: tl.constexpr):
    """Maximum and sum of the weights relative to it, of one row's block."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = part * block + tl.arange(0, block)
    wanted = (token < vocab_size) & (token != mask_id)
    value = tl.load(logits + row * row_stride + token, mask=wanted, other=-float("inf")).to(tl.float64)
    is_nan = tl.max((value != value).to(tl.int32), axis=0)
    top = tl.max(value, axis=0)
    # A block of nothing but −∞ weighs 0.
    weight = tl.where(value == -float("inf"), 0.0, tl.exp((value - top) / temperature))
    place = row * tl.num_programs(1) + part
    nan = float("nan")
    tl.store(tops + place, tl.where(is_nan > 0, nan, top))
    tl.store(sums + place, tl.where(is_nan > 0, nan, tl.sum(weight, axis=0)))


@triton.jit
def _find_tokens(
    logits,
    tops,
    sums,
    uniforms,
    tokens,
    is_finite,
    row_stride,
    vocab_size,
    mask_id,
    num_blocks,
    temperature: tl.constexpr,
    block: tl.constexpr,
    parts: tl.constexpr,
):
    """Which block the uniform falls into, then which token of it."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, parts)
    known = part < num_blocks
    top = tl.load(tops + row * num_blocks + part, mask=known, other=-float("inf"))
    total = tl.load(sums + row * num_blocks + part, mask=known, other=0.0)
    highest = tl.max(top, axis=0)
    mass = tl.where(total > 0, total * tl.exp((top - highest) / temperature), total)
    whole = tl.sum(mass, axis=0)
    tl.store(is_finite + row, (whole == whole) & (whole > 0) & (whole < float("inf")))

    # Among those with any mass, since a parallel sum need not stand still where nothing is added; the last of them
    # where rounding puts the target past the end.
    cdf = tl.cumsum(mass, axis=0)
    target = tl.load(uniforms + row) * whole
    last = tl.max(tl.where(mass > 0, part, 0), axis=0)
    chosen = tl.min(tl.where((mass > 0) & (cdf > target), part, last), axis=0)
    below = tl.sum(tl.where(part == chosen - 1, cdf, 0.0), axis=0)

    token = chosen * block + tl.arange(0, block)
    wanted = (token < vocab_size) & (token != mask_id)
    value = tl.load(logits + row * row_stride + token, mask=wanted, other=-float("inf")).to(tl.float64)
    weight = tl.where(value == -float("inf"), 0.0, tl.exp((value - highest) / temperature))
    inner, place = tl.cumsum(weight, axis=0), tl.arange(0, block)
    last = tl.max(tl.where(weight > 0, place, 0), axis=0)
    within = tl.min(tl.where((weight > 0) & (inner > target - below), place, last), axis=0)
    tl.store(tokens + row, tl.minimum(chosen * block + within, vocab_size - 1).to(tl.int64))


def draw(
    logits: torch.Tensor, uniforms: torch.Tensor, mask_id: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (R,) of logits (R, V), whose rows may lie apart, and whether all probabilities were finite: bool ()."""
    num_rows, vocab_size = logits.shape
    num_blocks = triton.cdiv(vocab_size, BLOCK)
    tops, sums = torch.empty(2, num_rows, num_blocks, dtype=torch.float64, device=logits.device)
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    is_finite = torch.empty(num_rows, dtype=torch.bool, device=logits.device)
    shape = logits.stride(0), vocab_size, mask_id
    _sum_blocks[num_rows, num_blocks](logits, tops, sums, *shape, temperature, BLOCK)
    parts = triton.next_power_of_2(num_blocks)
    _find_tokens[(num_rows,)](
        logits, tops, sums, uniforms, tokens, is_finite, *shape, num_blocks, temperature, BLOCK, parts
    )
    return tokens, is_finite.all()
