"""Count the passes that the service makes under two rules for whose turn it is; no model runs.

So many clients ask again as soon as they have their sample. *oldest*: the group of the sequence that has waited
longest, which is the service's rule. *largest*: the largest group, unless someone has waited for `patience` passes.
Waits are in passes. The last line of standard output is one JSON document.

    python benchmarks/sharing.py --output results/sharing.json
"""

import argparse
from pathlib import Path

import numpy as np
from documents import deliver, document

from understudy import ModelSchedule
from understudy.noise import LogLinear
from understudy.reveal import RevealPlan
from understudy.server.batching import choose

SCHEDULE, LENGTH, BATCH_SIZE, SAMPLES = "L32,H192,L32", 256, 32, 400
CASES = [(clients, lengths) for clients in (8, 32, 128) for lengths in (1, 4)]
PATIENCE = 16


class Client:
    """Whoever has the sequence that waits since pass `since`; keys: of the models that it still needs."""

    def __init__(self, order, lengths, source):
        self.order, self.lengths, self.source, self.since = order, lengths, source, 0
        self.ask()
        self.keys = self.keys[: source.integers(1, len(self.keys) + 1)]  # not all begin at the same time

    def ask(self):
        """Begin another sequence, of one of the lengths."""
        self.length = LENGTH - int(self.source.integers(self.lengths))
        schedule, noise = ModelSchedule.parse(SCHEDULE), LogLinear()
        free, seed = np.ones((1, self.length), dtype=bool), int(self.source.integers(2**32))
        plan = RevealPlan.draw(free, noise.grid(schedule.num_steps), noise, seed=seed)
        self.keys = plan.event_keys(schedule).tolist()[::-1]

    @property
    def group(self):
        """Those that can share a pass."""
        return self.length, self.keys[-1]


def main():
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=None)
    output = parser.parse_args().output
    cases = [count(clients, lengths) for clients, lengths in CASES]
    what = "passes under two rules for whose turn it is"
    settings = {"schedule": SCHEDULE, "length": LENGTH, "batch_size": BATCH_SIZE, "samples": SAMPLES}
    deliver(document(what, settings={**settings, "patience": PATIENCE}, cases=cases), output)


def count(clients, lengths):
    """Both rules over the same clients."""
    found = {rule.__name__: run(rule, clients, lengths) for rule in (oldest, largest)}
    saved = 1 - found["largest"]["passes_per_sample"] / found["oldest"]["passes_per_sample"]
    return {"clients": clients, "lengths": lengths, **found, "passes_saved_by_largest": round(saved, 4)}


def run(rule, clients, lengths):
    """Passes until so many samples are done, and the longest wait."""
    source = np.random.default_rng(0)
    waiting = [Client(order, lengths, source) for order in range(clients)]
    passes = sequences = done = longest = 0
    while done < SAMPLES:
        batch = rule(waiting, passes)
        passes += 1
        sequences += len(batch)
        for client in batch:
            longest, client.since = max(longest, passes - client.since), passes
            client.keys.pop()
            if not client.keys:
                done += 1
                client.ask()
    return {
        "passes_per_sample": round(passes / done, 2),
        "sequences_in_a_pass": round(sequences / passes, 2),
        "longest_wait": longest,
    }


def oldest(waiting, _):
    """The rule of the service."""
    return choose([(client.group, client) for client in waiting], BATCH_SIZE)


def largest(waiting, passes):
    """The largest group first, within a bound on waiting."""
    if passes - min(client.since for client in waiting) >= PATIENCE:
        return oldest(waiting, passes)
    groups = {}
    for client in waiting:
        groups.setdefault(client.group, []).append(client)
    return sorted(max(groups.values(), key=len), key=lambda client: client.since)[:BATCH_SIZE]


if __name__ == "__main__":
    main()
