"""Text, a tokenizer and a driver that the tests of the data path share."""

import functools

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from driving import finish
from understudy.data import PrepareSettings, TokenBlocks, prepare, train_bpe

WORDS = (
    *("the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", "softly", "upon"),
    *("Größe", "naïve", "日本語", "and", "3.14", "dogs", "barked"),
)
DOCUMENTS = [
    " ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(5 + i % 37)) + (".\n\nNext  line\t" * (i % 3))
    for i in range(120)
]


class Texts:
    """A source from memory that counts what was asked of it."""

    def __init__(self, texts, name="texts"):
        self.texts, self.name, self.read = texts, name, 0

    def documents(self):
        for text in self.texts:
            self.read += 1
            yield text

    def description(self):
        return {"name": self.name}


@functools.cache
def small_bpe():
    return train_bpe(DOCUMENTS, 320)


def run(*args, **options):
    """Drive to the end: (records, manifest)."""
    return finish(prepare(*args, **options))


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def all_blocks(folder, split="train"):
    blocks = TokenBlocks.open(folder, split)
    return blocks[np.arange(len(blocks))]


def small(**changes):
    return PrepareSettings(**{"block_length": 16, "shard_blocks": 20, **changes})


def make_tokenizer(tokens, **special):
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token=tokens[0], **special)
