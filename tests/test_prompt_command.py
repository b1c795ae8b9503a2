"""`understudy sample` with prompts: gaps, files, unequal lengths without cross-talk, bad input."""

import json

import pytest
from typer.testing import CliRunner

from masked_lms import LETTERS, letter_tokenizer, save_masked_lm
from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.saved_samples import read_samples

MASK = 4


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    save_masked_lm(folder / "heavy", layers=2)
    save_masked_lm(folder / "light", layers=1, seed=1)
    return ("--heavy", str(folder / "heavy"), "--light", str(folder / "light"))


def call(*arguments):
    return CliRunner().invoke(app, ["sample", *map(str, arguments)])


def document(*arguments):
    outcome = call(*arguments, "--json")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_given_tokens_stay_and_gaps_are_filled(pair):
    found = document(*pair, "--infill", "a [MASK] b [MASK*2] c", "-n", 3, "--schedule", "L2,H2")
    a, b, c = letter_tokenizer().encode("a b c", add_special_tokens=False)
    for sample in found["samples"]:
        ids = sample["token_ids"]
        assert (ids[0], ids[2], ids[5]) == (a, b, c)
        assert len(ids) == 6
        assert all(letter in LETTERS for letter in sample["text"].split())


@pytest.mark.parametrize("decoding", ["ancestral", "low_confidence"])
def test_prompts_of_unequal_lengths_do_not_see_each_other(tmp_path, pair, decoding):
    lines = ["a b c", "d", "e f", "g h i"]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    options = (*pair, "--new-tokens", 5, "--schedule", "L2,H3", "--decoding", decoding)
    together = call(*options, "--prompts", tmp_path / "all.txt", "--output", tmp_path / "all.jsonl")
    assert together.exit_code == 0, together.output
    saved = read_samples(tmp_path / "all.jsonl")
    assert [len(row) for row in saved.tokens] == [8, 6, 7, 8]
    assert [int(free.sum()) for free in saved.free] == [5] * 4
    # The second is what it is after a prompt of another length, or of its own.
    (tmp_path / "two.txt").write_text("x\nd\n")
    call(*options, "--prompts", tmp_path / "two.txt", "--output", tmp_path / "two.jsonl")
    assert read_samples(tmp_path / "two.jsonl").tokens[1] == saved.tokens[1]


def test_several_lengths_are_summed_up_one_by_one(tmp_path, pair):
    (tmp_path / "p.jsonl").write_text('{"prefix": "a"}\n{"prefix": "a b", "suffix": "c"}\n')
    found = document(*pair, "--prompts", tmp_path / "p.jsonl", "--new-tokens", 4, "--steps", 6)
    assert [part["length"] for part in found["by_length"]] == [5, 7]
    assert [sample["text"].split()[0] for sample in found["samples"]] == ["a", "a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--infill", "a b"), r"no \[MASK\]"),
        (("--infill", "a [MASK]", "--prefix", "a"), "leave out prefix"),
        (("--prompts", "nowhere.txt"), "cannot be read"),
        (("--prompts", "nowhere.txt", "--suffix", "a"), "leave out --suffix"),
        (("--prefix", "a", "--new-tokens", "3", "--length", "9"), "give one of them"),
        (("--prefix", "a", "--new-tokens", "-2"), "new_tokens is -2"),
        (("--num-samples", "0"), "num_samples is 0"),
    ],
)
def test_prompts_that_make_no_sense_are_one_line(pair, arguments, message):
    outcome = call(*pair, *arguments, "--steps", "4")
    assert isinstance(outcome.exception, UnderstudyError)
    with pytest.raises(UnderstudyError, match=message):
        raise outcome.exception
