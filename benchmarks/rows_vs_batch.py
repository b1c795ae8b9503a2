"""Measure what passing a batch row by row costs on the CPU, and how far batched logits stray.

Runs the bundled heavy model's pruned pass over one batch, whole and row by row, by turns. The last line of standard
output is one JSON document.

    python benchmarks/rows_vs_batch.py --output results/rows-vs-batch-cpu.json
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from documents import deliver, document

from understudy.denoisers.dit import by_rows
from understudy.denoisers.model_set import bundled_models

BATCH, REVEALED, ROUNDS = 16, 2, 7


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=None)
    output = parser.parse_args().output
    network = bundled_models().denoisers["H"].network
    with torch.inference_mode():
        cases = [measure(network, length) for length in (64, 128, 256)]
    what = "milliseconds per sequence of a pruned heavy pass, float32, batch of 16 against single rows; medians"
    deliver(document(what, rounds=ROUNDS, cases=cases), output)


def measure(network, length):
    """Both ways on one random canvas."""
    generator = torch.Generator().manual_seed(length)
    canvas = torch.randint(3, network.config.vocab_size, (BATCH, length), generator=generator)
    columns = torch.randint(0, length, (BATCH, REVEALED), generator=generator)

    def whole():
        return network.hidden_at(canvas, columns)

    def rows():
        with by_rows():
            return network.hidden_at(canvas, columns)

    seconds = {"batch": [], "rows": []}
    for _ in range(ROUNDS):
        for name, run in (("batch", whole), ("rows", rows)):
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: 1000 * statistics.median(values) / BATCH for name, values in seconds.items()}
    return {
        "length": length,
        "milliseconds": medians,
        "rows_over_batch": medians["rows"] / medians["batch"],
        "largest_difference": float((whole() - rows()).abs().max()),
    }


if __name__ == "__main__":
    main()
