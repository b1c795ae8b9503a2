"""Time every way to sample, side by side: the plain sampler, heavy only, a sandwich, light only.

Random weights, since time does not depend on them, as long as predictions are about as peaked as a trained model's: the
published noise, drawn in float32, reveals too few tokens where they are flat, and its cache would look better than it
is. Each variant is warmed up, then repeated; medians count. The plain sampler, whose steps all cost the same, is timed
over `--plain-steps` of its steps (for its whole-batch cache, on which chance has a say, over ten times as many) and
scaled to all of them; everything else runs whole. The cache is timed at batch 1 only: at length 1024 and 1000 steps,
999.7 of them change something in a batch of 8. `--output` is written after every cell; the last line of standard output
is one JSON document.

    python benchmarks/sampling.py --output results/sampling-h200.json          # needs a GPU
    python benchmarks/sampling.py --small                                      # seconds, on any machine
"""

import argparse
import gc
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch
from documents import deliver, document, write
from published import HEAD_SCALE, Published

from understudy import sample_plain, sample_steps
from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.denoisers.network import DiTDenoiser
from understudy.driving import run_to_end
from understudy.flops import TransformerShape
from understudy.sampling import SamplingTask

PAPER = {"width": 768, "heads": 12, "blocks": (12, 4), "vocab_size": 50258, "length": 1024}
SMALL = {"width": 64, "heads": 4, "blocks": (3, 1), "vocab_size": 500, "length": 64}
PAPER_CELLS = [(1000, 1), (1000, 8), (1000, 32), (1000, 128), (256, 32), (128, 32)]
SMALL_CELLS = [(64, 1), (64, 8)]
BATCHES = {1: 4, 8: 2, 32: 2, 128: 1}  # whole batches of samples for each run
REPEATS, MAX_SECONDS = 3, 30  # of a variant: so many, or until it has taken so long


def main():
    """Measure cell by cell, and print."""
    settings = parse_arguments()
    device = torch.device(settings.device)
    sizes = SMALL if settings.small else PAPER
    shapes = {
        key: TransformerShape(sizes["width"], blocks, sizes["vocab_size"])
        for key, blocks in zip("HL", sizes["blocks"], strict=True)
    }
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    models = {key: random_model(shape, sizes, device, dtype) for key, shape in shapes.items()}
    published = None
    if settings.published:
        published = {
            key: Published(settings.published, shape, sizes["heads"], sizes["length"], device)
            for key, shape in shapes.items()
        }
    cells = []
    content = document(
        "seconds for samples from models of random weights: the plain sampler, heavy only, a sandwich, light only",
        settings={**sizes, "dtype": str(dtype), "schedule": "25 % light, half first and half last"},
        cells=cells,
    )
    for steps, batch_size in settings.cells or (SMALL_CELLS if settings.small else PAPER_CELLS):
        cells.append(measure_cell(settings, models, published, sizes, steps, batch_size))
        write(content, settings.output)
    deliver(content, settings.output)


def parse_arguments():
    """The paper's scale on a GPU, unless told to stay small."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny models and few samples")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cell", dest="cells", action="append", type=read_cell, metavar="STEPSxBATCH")
    parser.add_argument("--plain-steps", type=int, default=20)
    parser.add_argument("--published", type=Path, metavar="CLONE", help="clone of the published network, to time too")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def read_cell(text):
    """1000x32 → (1000, 32)."""
    steps, batch_size = text.split("x")
    return int(steps), int(batch_size)


def random_model(shape, sizes, device, dtype):
    """A DiT in which no weight is zero, and whose predictions are about as peaked as a language model's."""
    torch.manual_seed(shape.blocks)
    config = DiTConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.blocks,
        num_attention_heads=sizes["heads"],
        max_position_embeddings=sizes["length"],
    )
    with torch.device(device):
        network = DiTForMaskedLM(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(float("norm" in name), HEAD_SCALE if name == "output_layer.weight" else 0.02)
    return DiTDenoiser(network.to(dtype))


def measure_cell(settings, models, published, sizes, steps, batch_size):
    """All variants at one number of steps and one batch size."""
    print(f"{steps} steps, batch {batch_size}", file=sys.stderr)
    light = steps // 8
    schedules = {
        "heavy_only": f"H{steps}",
        "sandwich": f"L{light},H{steps - 2 * light},L{light}",
        "light_only": f"L{steps}",
    }
    num_samples = batch_size * (1 if settings.small else BATCHES.get(batch_size, 1))
    options = {"length": sizes["length"], "batch_size": batch_size, "seed": 1}
    cell = {"steps": steps, "batch_size": batch_size, "matrix_peak_tflops": matrix_peak(settings.device)}
    variants = cell["variants"] = {}
    for name, schedule in schedules.items():
        task = SamplingTask.create(models, schedule, num_samples=num_samples, **options)
        variants[name] = report(cell, whole_runs(task), task)
    plain_models = {"plain": models} | ({"published_network": published} if published else {})
    for (name, denoisers), reuse in itertools.product(
        plain_models.items(), (False, True) if batch_size == 1 else (False,)
    ):
        for key in "HL":
            task = SamplingTask.create(denoisers, f"{key}{steps}", num_samples=batch_size, t_end=1e-5, **options)
            label = f"{name}{'_cached' if reuse else ''}{'' if key == 'H' else '_light'}"
            variants[label] = report(cell, plain_steps(task, settings.plain_steps, reuse), task)
    cell["comparison"] = compare(variants)
    print(cell["comparison"], file=sys.stderr)
    return cell


def whole_runs(task):
    """Warm up, then run to the end, again and again."""
    reset_memory()
    first = run_to_end(sample_steps(task))  # compiles kernels, and captures the graphs of all shapes that come up
    seconds, started = [], time.perf_counter()
    while len(seconds) < REPEATS and (not seconds or time.perf_counter() - started < MAX_SECONDS):
        result = run_to_end(sample_steps(task))
        seconds.append(result.seconds / task.plan.num_samples)
    passes = sum(result.nfe.values()) / task.plan.num_samples
    return {
        "seconds_per_sample": seconds,
        "start_up_seconds": first.seconds - statistics.median(seconds) * task.plan.num_samples,
        "passes_per_sample": passes,
        "executed_flops_per_sample": result.flops.executed / task.plan.num_samples,
        "schedule_saved": result.flops.schedule_saved,
    }


def plain_steps(task, num_steps, reuse):
    """Time some steps of the plain sampler in float32, as it was published; None where they do not fit in memory."""
    reset_memory()
    num_steps = min(num_steps * (10 if reuse else 1), task.plan.num_steps // 4)
    seconds, passes = [], []
    try:
        records = sample_plain(task, noise_dtype=torch.float32, reuse_unchanged=reuse)
        made = count_passes(records, reuse)
        for _ in range(3):
            next(made)
        for _ in range(REPEATS):
            wait()
            started = time.perf_counter()
            passes.append(sum(itertools.islice(made, num_steps)) / num_steps)
            wait()
            seconds.append((time.perf_counter() - started) / num_steps)
    except torch.OutOfMemoryError:
        return None
    steps, heavy = task.plan.num_steps, next(iter(task.schedule.keys))
    per_pass = task.denoisers[heavy].pass_flops(task.plan.length).total
    return {
        "seconds_per_sample": [entry * steps / task.batch_size for entry in seconds],
        "passes_per_sample": steps * statistics.mean(passes),
        "executed_flops_per_sample": steps * statistics.mean(passes) * per_pass,
        "steps_timed": num_steps * REPEATS,
    }


def count_passes(records, reuse):
    """For each step 1 if its model was asked, 0 if the cache answered: it does while nothing was revealed."""
    changed = True
    for record in records:
        yield int(changed or not reuse)
        changed = len(record.rows) > 0


def report(cell, measured, task):
    """What a table wants, from what was measured."""
    if measured is None:
        return None
    seconds = statistics.median(measured["seconds_per_sample"])
    flops = measured["executed_flops_per_sample"]
    return {
        **measured,
        "median_seconds_per_sample": seconds,
        "tokens_per_second": task.plan.length / seconds,
        "milliseconds_per_pass": 1000 * seconds * task.batch_size / measured["passes_per_sample"],
        "share_of_matrix_peak": flops / seconds / 1e12 / cell["matrix_peak_tflops"],
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
    }


def compare(variants):
    """The figures that the aims speak of; a plain variant without its cache counts every step."""
    seconds = {name: entry["median_seconds_per_sample"] for name, entry in variants.items() if entry}
    heavy = seconds["heavy_only"]
    saved_time = 1 - seconds["sandwich"] / heavy
    saved_flops = variants["sandwich"]["schedule_saved"]
    plain = [name for name in seconds if name.startswith(("plain", "published")) and not name.endswith("_light")]
    # What a quarter of light steps saves the plain sampler: the head and the noise cost the same for both.
    saved_plain = {
        name: (1 - seconds[f"{name}_light"] / seconds[name]) / 4 for name in plain if f"{name}_light" in seconds
    }
    return {
        "heavy_only_times_faster_than": {name: seconds[name] / heavy for name in plain},
        "sandwich_saved_time": saved_time,
        "sandwich_saved_executed_flops": saved_flops,
        "sandwich_saved_time_over_saved_flops": saved_time / saved_flops,
        "quarter_of_light_steps_saves_plain": saved_plain,
    }


def matrix_peak(device, size=None):
    """TFLOP/s of a large matrix product in bf16 on a GPU, float32 elsewhere: the median of repeats."""
    is_cuda = torch.device(device).type == "cuda"
    size = size or (8192 if is_cuda else 1024)
    dtype = torch.bfloat16 if is_cuda else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rates = []
    for _ in range(7):
        wait()
        started = time.perf_counter()
        for _ in range(10):
            a @ b
        wait()
        rates.append(10 * 2 * size**3 / (time.perf_counter() - started) / 1e12)
    return statistics.median(rates)


def reset_memory():
    """Forget earlier peaks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def wait():
    """For the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
