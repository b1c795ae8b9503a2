"""Text to token blocks, and the blocks to train on.

    corpus (documents) ─tokenization─► ids ─packing─► shards + manifest ─token_blocks─► training

`prepare` drives it; `TokenBlocks` reads what it has written. Light on import: tokenizers and datasets are loaded when
something is read with them.
"""

from understudy.data.corpus import DocumentSource, TextSource
from understudy.data.detokenization import detokenize_lm1b
from understudy.data.held_out import held_out_blocks
from understudy.data.packing import PrepareSettings
from understudy.data.preparation import PrepareProgress, prepare
from understudy.data.token_blocks import Manifest, Shard, SplitSummary, TokenBlocks, load_blocks_tokenizer
from understudy.data.tokenization import BpeRecipe, Vocabulary, resolve_vocabulary, train_bpe
from understudy.tokenizer_files import load_tokenizer, tokenizer_sha256

__all__ = [
    "BpeRecipe",
    "DocumentSource",
    "Manifest",
    "PrepareProgress",
    "PrepareSettings",
    "Shard",
    "SplitSummary",
    "TextSource",
    "TokenBlocks",
    "Vocabulary",
    "detokenize_lm1b",
    "held_out_blocks",
    "load_blocks_tokenizer",
    "load_tokenizer",
    "prepare",
    "resolve_vocabulary",
    "tokenizer_sha256",
    "train_bpe",
]
