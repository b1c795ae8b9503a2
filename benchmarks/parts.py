"""Time parts of a pass on a GPU: the norm kernel by its launch settings, products by how they are asked for.

    python benchmarks/parts.py --output results/parts-h200.json

Width 768, batch 8 and 32 of 1024 tokens, bf16; medians of repeated launches. The last line of standard output is one
JSON document.
"""

import argparse
import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
import triton
from documents import deliver, document

from understudy.denoisers import triton_kernels

WIDTH, LENGTH = 768, 1024
PRODUCTS = {"qkv": (1, 3), "attn_out": (1, 1), "widen": (1, 4), "narrow": (4, 1)}  # inputs, outputs, in widths


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    content = document(
        "milliseconds of the norm kernel and of a block's matrix products",
        norm=[norm_time(batch, *pair) for batch in (1, 8, 32) for pair in itertools.product((1, 2, 4, 8), repeat=2)],
        products=[entry for batch in (8, 32) for name in PRODUCTS for entry in product_times(batch, name)],
    )
    deliver(content, output)


def norm_time(batch, rows, warps):
    """The norm of a batch, `rows` in each program of so many warps; checked against PyTorch's."""
    x = random(batch * LENGTH, WIDTH)
    offset, weight, shift = (torch.randn(WIDTH, device="cuda") for _ in range(3))
    kept = triton_kernels.ROWS, triton_kernels.WARPS
    triton_kernels.ROWS, triton_kernels.WARPS = rows, warps
    try:
        wanted = F.layer_norm(x.float() + offset, (WIDTH,), weight, shift, 1e-5)
        found = triton_kernels.normed(x, offset, weight, shift, 1e-5).float()
        assert (found - wanted).norm() < 5e-3 * wanted.norm()
        milliseconds = median(lambda: triton_kernels.normed(x, offset, weight, shift, 1e-5))
    finally:
        triton_kernels.ROWS, triton_kernels.WARPS = kept
    return {"batch_size": batch, "rows": rows, "warps": warps, "milliseconds": milliseconds}


def product_times(batch, name):
    """A product as the network asks for it, with its weight stored both ways, and the bare product."""
    rows, (inputs, outputs) = batch * LENGTH, PRODUCTS[name]
    x, y = random(rows, inputs * WIDTH), random(rows, outputs * WIDTH)
    weight, bias = random(outputs * WIDTH, inputs * WIDTH) * 0.02, random(outputs * WIDTH)
    stored = {"rows of outputs": weight.t(), "rows of inputs": weight.t().contiguous()}
    asked = {
        "qkv": lambda w: x @ w,
        "attn_out": lambda w: y.addmm_(x, w),
        "widen": lambda w: torch._addmm_activation(bias, x, w, use_gelu=True),
        "narrow": lambda w: y.addmm_(x, w),
    }[name]
    times = {how: median(lambda w=w: asked(w)) for how, w in stored.items()}
    times["bare product"] = median(lambda: x @ weight.t())
    tera = 2 * rows * inputs * outputs * WIDTH**2 / 1e12
    common = {"batch_size": batch, "product": name}
    return [{**common, "how": how, "milliseconds": ms, "tflops": 1000 * tera / ms} for how, ms in times.items()]


def random(*shape):
    """Normal numbers in bf16 on the GPU."""
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def median(run):
    """Milliseconds of `run`, the median of many."""
    return triton.testing.do_bench(run, warmup=20, rep=60, return_mode="median")


if __name__ == "__main__":
    main()
