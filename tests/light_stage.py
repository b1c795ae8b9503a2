"""What the tests of light models share: a heavy model with random weights, and prepared text in its tokens."""

import numpy as np
import torch

from driving import finish
from stage import make_network, make_tokenizer
from understudy.data import PrepareSettings, TextSource, prepare

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "café", "über"]
LENGTH = 16


def make_blocks(folder, tokenizer, **changes):
    """A prepared folder of short blocks: words in a fixed order, from anywhere in it, so that one can learn much."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(WORDS), 300)
    texts = "\n\n".join(" ".join(WORDS[(start + step) % len(WORDS)] for step in range(12)) for start in starts)
    (folder / "text.txt").write_text(texts, encoding="utf-8")
    source = TextSource(str(folder / "text.txt"), sample_by="paragraph")
    options = {"block_length": LENGTH, "frame": "none", "validation_fraction": 0.1, **changes}
    finish(prepare([source], folder / "blocks", tokenizer=tokenizer, settings=PrepareSettings(**options)))
    return folder / "blocks"


def silence(network, block):
    """Close a block's output gates: it adds nothing to the stream."""
    width = network.config.hidden_size
    with torch.no_grad():
        gates = network.blocks[block].modulation.bias.view(6, width)
        gates[2], gates[5] = 0, 0


def save_heavy(folder, tokenizer, blocks=4):
    network = make_network(blocks, 3, tokenizer)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


__all__ = ["LENGTH", "make_blocks", "make_network", "make_tokenizer", "save_heavy", "silence"]
