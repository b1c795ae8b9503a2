"""Does measuring pay? Blocks kept by importance against blocks kept by position, by KL(heavy || what is left).

Blocks are chosen on every other block of held-out text and all choices compared on the rest, under the same noise, so
that the choice by measurement is not judged on what it was made from. The last line of standard output is one JSON
document.

    python benchmarks/pruning.py --output results/make-light-pruning-cpu.json
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from documents import deliver, document

from understudy.denoisers.model_set import bundled_paths
from understudy.driving import run_to_end
from understudy.lightening import HeldOutText, Weighing, choose_blocks, held_out_text, measure
from understudy.record_journal import RecordJournal
from understudy.tokenizer_files import load_tokenizer
from understudy.training.networks import load_dit


def by_position(total, wanted):
    """Rules that look at nothing but the number of blocks."""
    steps = max(1, wanted - 1)
    return {
        "first": tuple(range(wanted)),
        "last": tuple(range(total - wanted, total)),
        "evenly spaced, both ends": tuple(round(place * (total - 1) / steps) for place in range(wanted)),
        "evenly spaced, from the first": tuple(place * total // wanted for place in range(wanted)),
        "both ends": (*range(-(-wanted // 2)), *range(total - wanted // 2, total)),
    }


def split(text, part):
    """Every other block."""
    return HeldOutText(text.ids[part::2], text.counts[part::2], text.source)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heavy", type=Path, default=bundled_paths()["heavy"])
    parser.add_argument("--data", default=None, help="held-out text; the bundled one unless given")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--text-blocks", type=int, default=64)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=None)
    settings = parser.parse_args()
    network, tokenizer = load_dit(settings.heavy).to(settings.device), load_tokenizer(settings.heavy)
    shape, total = network.config, len(network.blocks)
    text = held_out_text(settings.data, tokenizer, shape, count=settings.text_blocks)
    weighing = Weighing(num_blocks=settings.text_blocks, num_times=settings.times)
    choice = run_to_end(choose_blocks(network, settings.blocks, split(text, 0), weighing, RecordJournal(None, {})))
    alone = choice.rounds[0].kl
    ranked = tuple(sorted(sorted(alone, key=lambda block: -alone[block].mean)[: settings.blocks]))
    choices = {"greedy": choice.kept, "largest alone": ranked, **by_position(total, settings.blocks)}
    run = measure(
        network, network, list(choices.values()), split(text, 1), weighing, RecordJournal(None, {}), "compared"
    )
    found = run_to_end(run)
    rows = [
        {
            "choice": name,
            "kept": list(kept),
            "kl": asdict(found.estimate(number)),
            "worse_than_greedy_by": asdict(found.difference(number, 0)),
            "kl_over_time": found.over_time(number),
        }
        for number, (name, kept) in enumerate(choices.items())
    ]
    content = document(
        "KL(heavy || heavy with some of its blocks only), without healing, in nats per masked token, ± s.e. over "
        "blocks of text; chosen on one half of the text, compared on the other under the same noise, float32",
        device=settings.device,
        torch_threads=torch.get_num_threads(),
        heavy_blocks=total,
        text={"choosing": split(text, 0).to_dict(), "comparing": split(text, 1).to_dict()},
        times=weighing.times.tolist(),
        choices=rows,
        rounds=[entry.to_dict() for entry in choice.rounds],
    )
    deliver(content, settings.output)


if __name__ == "__main__":
    main()
