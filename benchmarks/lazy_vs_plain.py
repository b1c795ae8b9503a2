"""Time the lazy sampler against the plain one on this machine.

Both draw the same number of samples from the bundled heavy model, in one process, after a warm-up, by turns:
`--rounds` times the plain sampler as published (every position, every step, noise over the whole vocabulary in
float64), then the lazy one. Medians are compared. The last line of standard
output is one JSON document.

    python benchmarks/lazy_vs_plain.py --output results/lazy-vs-plain-cpu.json
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

from documents import deliver, document

from understudy import sample_plain, sample_steps
from understudy.denoisers.model_set import bundled_models
from understudy.driving import run_to_end
from understudy.sampling import SamplingTask


def main():
    """Measure and print."""
    settings = parse_arguments()
    models = bundled_models()
    task = SamplingTask.create(
        models.denoisers,
        settings.schedule,
        steps=settings.steps,
        length=settings.length,
        num_samples=settings.batch_size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        t_end=1e-5,  # where the published grid stops; what is left then takes one more pass
    )
    samplers = {
        "plain": lambda: sample_plain(task),
        "lazy": lambda: sample_steps(task),
    }
    if settings.with_cache:
        samplers["plain_with_cache"] = lambda: sample_plain(task, reuse_unchanged=True)
    warm_up(samplers)
    runs = {name: [] for name in samplers}
    for round_number in range(settings.rounds):
        for name, sampler in samplers.items():
            runs[name].append(measure(sampler()))
            print(f"round {round_number + 1}: {name} {runs[name][-1]['seconds']:.1f} s", file=sys.stderr)
    medians = {name: statistics.median(run["seconds"] for run in rounds) for name, rounds in runs.items()}
    content = document(
        "seconds for one batch of samples from the bundled models: lazy against plain ancestral sampling, float32",
        settings={name: value for name, value in vars(settings).items() if name != "output"},
        runs=runs,
        median_seconds=medians,
        times_faster_than={name: median / medians["lazy"] for name, median in medians.items() if name != "lazy"},
    )
    deliver(content, settings.output)


def parse_arguments():
    """Defaults are the setting that the project promises a factor of four for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schedule", default="H256")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--with-cache", action="store_true", help="also the plain sampler with its whole-batch cache")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def warm_up(samplers):
    """Touch every code path once: two records each."""
    for sampler in samplers.values():
        steps = sampler()
        next(steps)
        next(steps)


def measure(steps):
    """Seconds, passes and FLOPs of one run."""
    started = time.perf_counter()
    result = run_to_end(steps)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "passes": sum(result.nfe.values()), "flops": result.flops.executed}


if __name__ == "__main__":
    main()
