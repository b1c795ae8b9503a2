"""Compare the bounds of two masked denoisers on the same held-out blocks under the same noise.

The last line of standard output is one JSON document.

    python benchmarks/paired_bound.py --data runs/demo/blocks --output results/bundled-gap.json
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from documents import deliver, document

from understudy import load_denoiser
from understudy.data import TokenBlocks
from understudy.denoisers.model_set import bundled_paths
from understudy.noise import LogLinear
from understudy.training import validation_bound


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that `understudy prepare` wrote")
    parser.add_argument("--heavy", type=Path, default=bundled_paths()["heavy"])
    parser.add_argument("--light", type=Path, default=bundled_paths()["light"])
    parser.add_argument("--blocks", type=int, default=2811)
    parser.add_argument("--times", type=int, default=16)
    parser.add_argument("--output", type=Path, default=None)
    settings = parser.parse_args()
    blocks = TokenBlocks.open(settings.data, "validation")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bounds = {}
    for name in ("heavy", "light"):
        network = load_denoiser(getattr(settings, name), device=device).network
        options = {"num_times": settings.times, "num_blocks": settings.blocks, "batch_size": 256}
        with torch.inference_mode():
            bounds[name] = validation_bound(network, blocks, noise=LogLinear(), **options)
    gaps = np.array(bounds["light"]["per_block"]) - np.array(bounds["heavy"]["per_block"])
    content = document(
        "bounds in nats per token on the same blocks and noise, float32; the gap is light minus heavy, paired by block",
        num_blocks=len(gaps),
        num_times=settings.times,
        gap=float(gaps.mean()),
        gap_se=float(gaps.std(ddof=1) / len(gaps) ** 0.5),
        **{name: {key: value for key, value in bound.items() if key != "per_block"} for name, bound in bounds.items()},
    )
    deliver(content, settings.output)


if __name__ == "__main__":
    main()
