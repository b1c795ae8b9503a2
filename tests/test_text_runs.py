"""Runs of a text are cut where decoded prefixes part from the whole, without decoding each of them anew."""

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from stage import VOCAB, make_tokenizer
from understudy.text_runs import written_runs

BYTES = make_tokenizer()


def with_decoder(words, decoder):
    core = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    core.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=core)


PIECES = with_decoder(["[UNK]", "re", "##ad", "##ing", "un", "!", "##s"], decoders.WordPiece(cleanup=False))
SPACES = with_decoder(["<unk>", "▁a", "b", "▁", "cd", "▁e", "é"], decoders.Metaspace())
FALLBACK = with_decoder(
    ["<unk>", "▁a", "b", "▁", "é", *(f"<0x{byte:02X}>" for byte in "é猫🦊".encode())],
    decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    ),
)


def by_definition(tokenizer, ids, keys):
    """Every prefix decoded from the first token, and compared with the whole."""
    whole = tokenizer.decode(ids)
    found, end, start = [], 0, 0
    for key, group in groupby(keys):
        end += len(list(group))
        prefix = whole if end == len(ids) else tokenizer.decode(ids[:end])
        shared = next((n for n, (a, b) in enumerate(zip(prefix, whole, strict=False)) if a != b), len(prefix))
        stop = max(start, min(shared, len(whole)))
        found += [(char, key) for char in whole[start:stop]]
        start = stop
    return found


@pytest.mark.parametrize(("tokenizer", "size"), [(BYTES, VOCAB), (PIECES, 7), (SPACES, 7), (FALLBACK, 14)])
@settings(max_examples=150)
@given(data=st.data())
def test_runs_are_those_of_their_definition(tokenizer, size, data):
    token = st.tuples(st.integers(0, size - 1), st.sampled_from(["H", "L", ""]))
    ids, keys = map(list, zip(*data.draw(st.lists(token, min_size=1, max_size=40)), strict=True))
    found = [(char, run.key) for run in written_runs(tokenizer, ids, keys) for char in run.text]
    assert found == by_definition(tokenizer, ids, keys)


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded = tokenizer, 0

    def decode(self, ids, **options):
        self.decoded += len(ids)
        return self.tokenizer.decode(ids, **options)


def test_a_long_text_takes_as_many_decoded_tokens_as_it_is_long():
    ids = BYTES("the cat sat on the mat. " * 60).input_ids
    counting = Counting(BYTES)
    written_runs(counting, ids, ["H", "L"] * (len(ids) // 2) + ["H"] * (len(ids) % 2))
    assert counting.decoded < 10 * len(ids)
