"""Count how full the batches are that the queue forms, against one whose waves always take the largest group.

Counts passes from plans alone; no model runs. 1 means that every pass is a full batch. The last line of standard
output is one JSON document.

    python benchmarks/grouping.py --output results/grouping.json
"""

import argparse
from pathlib import Path

import numpy as np
from documents import deliver, document

from understudy import ModelSchedule
from understudy.noise import LogLinear
from understudy.reveal import RevealPlan
from understudy.sampling.queue import PassQueue

CASES = [  # samples, length, schedule, batch size
    (8, 1024, "L125,H750,L125", 8),
    (32, 1024, "L125,H750,L125", 32),
    (64, 1024, "L125,H750,L125", 32),
    (256, 1024, "L125,H750,L125", 32),
    (256, 1024, "L16,H96,L16", 32),
    (128, 256, "L32,H192,L32", 32),
]


class LargestFirst(PassQueue):
    """The rule that was tried first."""

    def _choose(self, heaps):
        return max(heaps, key=len)


def main():
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=None)
    output = parser.parse_args().output
    cases = [measure(*case) for case in CASES]
    deliver(document("passes made, relative to passes if every batch were full", cases=cases), output)


def measure(num_samples, length, text, batch_size):
    """Both rules on one plan."""
    schedule, noise = ModelSchedule.parse(text), LogLinear()
    free = np.ones((num_samples, length), dtype=bool)
    plan = RevealPlan.draw(free, noise.grid(schedule.num_steps), noise, seed=0)
    ideal = len(plan.events) / batch_size
    made = {rule.__name__: sum(1 for _ in rule(plan, schedule, batch_size)) for rule in (PassQueue, LargestFirst)}
    return {
        "num_samples": num_samples,
        "length": length,
        "schedule": text,
        "batch_size": batch_size,
        "segment_by_segment": made["PassQueue"] / ideal,
        "largest_first": made["LargestFirst"] / ideal,
    }


if __name__ == "__main__":
    main()
