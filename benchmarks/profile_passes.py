"""Where the time of a pass goes on a GPU: kernels by what they do, at the paper's scale, random weights.

Passes run as the sampler makes them, as CUDA graphs, in a steady state; torch's profiler gives every kernel's duration.
What the kernels do not cover of the wall time, measured without the profiler, is idle: launches and the host.

    python benchmarks/profile_passes.py --output results/profile-h200.json --picture docs/images/profile.png
"""

import argparse
import re
import time
from pathlib import Path

import torch
from documents import deliver, document
from sampling import PAPER, matrix_peak, random_model
from torch.profiler import ProfilerActivity, profile

from understudy import sample_steps
from understudy.flops import TransformerShape
from understudy.sampling import SamplingTask

STEPS, PASSES = 1000, 30
BATCH_SIZES = (1, 8, 32, 128)
# The first pattern that a kernel's name contains decides.
PARTS = {
    "attention": r"fmha|flash|sdpa|attention|cudnn_generated",
    "norm": r"_norm_rows",
    "rotation": r"_rotate_row",
    "draw": r"_sum_blocks|_find_tokens",
    "matrix products": r"gemm|nvjet|cutlass|cublas|splitK|xmma",
    "moving data": r"copy|index|gather|scatter|Memcpy|Memset|embedding|cat|fill",
    "other": r"",
}


def main():
    """Profile both models at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path)
    settings = parser.parse_args()
    peak, device = matrix_peak("cuda"), torch.device("cuda")
    cells = []
    for key, blocks in zip("HL", PAPER["blocks"], strict=True):
        shape = TransformerShape(PAPER["width"], blocks, PAPER["vocab_size"])
        model = random_model(shape, PAPER, device, torch.bfloat16)
        cells += [profile_passes(model, key, batch_size, peak) for batch_size in BATCH_SIZES]
    what = "milliseconds of a pass by what the kernels do, at the paper's scale, steady state"
    content = document(what, settings={**PAPER, "steps": STEPS}, matrix_peak_tflops=peak, cells=cells)
    if settings.picture:
        draw(cells, settings.picture)
    deliver(content, settings.output)


def profile_passes(model, key, batch_size, peak):
    """Time and profile passes of one model at one batch size."""
    options = {"length": PAPER["length"], "num_samples": 2 * batch_size, "batch_size": batch_size, "seed": 1}
    task = SamplingTask.create({key: model}, f"{key}{STEPS}", **options)
    records = sample_steps(task)
    revealed = [len(next(records).rows) for _ in range(4 * PASSES)]  # shapes are captured as they turn up
    milliseconds = 1000 * timed(records, PASSES) / PASSES
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        timed(records, PASSES)
    parts, names = dict.fromkeys(PARTS, 0.0), {}
    for event in profiler.key_averages():
        part = next(part for part, pattern in PARTS.items() if re.search(pattern, event.key))
        share = event.self_device_time_total / 1000 / PASSES
        parts[part] += share
        names[event.key[:100]] = {"part": part, "milliseconds": share, "calls": event.count / PASSES}
    busy = sum(parts.values())
    flops = batch_size * model.pass_flops(PAPER["length"], round(sum(revealed) / len(revealed) / batch_size)).total
    return {
        "model": key,
        "batch_size": batch_size,
        "milliseconds_per_pass": milliseconds,
        "milliseconds_by_part": parts,
        "idle_milliseconds": max(0.0, milliseconds - busy),
        "tflops": flops / milliseconds / 1e9,
        "share_of_matrix_peak": flops / milliseconds / 1e9 / peak,
        "kernels": dict(sorted(names.items(), key=lambda item: -item[1]["milliseconds"])[:20]),
    }


def timed(records, count):
    """Seconds that `count` passes take."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        next(records)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def draw(cells, path):
    """One bar for each model and batch size, of a pass's time, in parts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = ["#4477AA", "#66CCEE", "#228833", "#CCBB44", "#EE6677", "#AA3377", "#BBBBBB", "#E8E8E8"]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    labels = [f"{cell['model']}, batch {cell['batch_size']}" for cell in cells]
    left = [0.0] * len(cells)
    names = ["matrix products", *(name for name in PARTS if name != "matrix products"), "idle"]
    for name, colour in zip(names, colours, strict=True):
        widths = [
            100 * cell["milliseconds_by_part"].get(name, cell["idle_milliseconds"]) / cell["milliseconds_per_pass"]
            for cell in cells
        ]
        axes.barh(labels, widths, left=left, color=colour, label=name, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, cell in enumerate(cells):
        note = f"{cell['milliseconds_per_pass']:.2f} ms, {cell['share_of_matrix_peak']:.0%} of the matrix peak"
        axes.text(101, row, note, va="center", fontsize=9)
    axes.set(xlim=(0, 100), xlabel="share of a pass's time, per cent")
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=150)


if __name__ == "__main__":
    main()
