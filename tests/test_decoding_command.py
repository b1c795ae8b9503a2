"""`understudy sample --decoding`: the rule is named, its samples are read back, and what does not fit is refused."""

import json
import re
import sys

import pytest

from stage import make_tokenizer, save_stage
from understudy import cli
from understudy.cli.sample import Decoding
from understudy.sampling import DECODINGS


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return save_stage(tmp_path_factory.mktemp("stage"), make_tokenizer())


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in an empty folder; gives status, standard output and standard error."""
    for name, value in {"COLUMNS": "80", "TERM": "xterm", "TRANSFORMERS_VERBOSITY": "error"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        return leave.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def sample(call, stage):
    """`understudy sample` with the tiny pair, 16 tokens long."""
    pair = ("--heavy", stage["heavy"], "--light", stage["light"], "--length", 16)
    return lambda *arguments: call("sample", *pair, *arguments)


@pytest.fixture
def document(sample):
    """The JSON document of `sample`."""

    def read(*arguments):
        status, out, err = sample(*arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return read


@pytest.mark.parametrize("rule", DECODINGS)
def test_rule_is_named_and_samples_are_read_back(document, call, stage, tmp_path, rule):
    blocks = None if rule in ("ancestral", "first_hitting") else 8
    options = ("--decoding", rule, *(() if blocks is None else ("--block-length", blocks)), "--output", "out.jsonl")
    shown = document(*options, "--schedule", "L2,H4,L2", "--prefix", "the", "-n", 2)
    assert (shown["decoding"], shown["block_length"], shown["threshold"]) == (rule, blocks, None)
    assert sum(shown["nfe"].values()) >= 8
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in shown["samples"]]
    assert all(row["decoding"] == rule for row in rows)
    assert {letter for row in rows for letter in row["written_by"]} == {".", "H", "L"}
    status, out, _ = call("evaluate", "--samples", "out.jsonl", "--judge", stage["judge"], "--json")
    assert (status, json.loads(out)["num_samples"]) == (0, 2)


def test_ancestral_is_the_default(document):
    plain, named = (document("--steps", 8, *more) for more in ((), ("--decoding", "ancestral")))
    assert plain["samples"] == named["samples"]
    assert plain["decoding"] == "ancestral"


def test_a_threshold_is_held_against_one_token_a_pass(document, sample):
    options = ("--decoding", "low_confidence", "--threshold", 1e-9)  # one pass
    shown = document(*options)
    assert (shown["steps"], shown["nfe"]) == (16, {"H": 1})
    # A pass that reveals every position is a dense one; the lazy last block saves nothing then.
    assert shown["flops"]["executed_saved"] == pytest.approx(15 / 16)
    text = " ".join(sample(*options)[1].split())
    assert "saved against 16 dense heavy steps" in text
    assert "threshold 1e-09: passes are as many as the models' certainty takes, not the steps" in text


@pytest.mark.parametrize("rule", ["random", "low_confidence", "entropy"])
def test_default_is_no_more_steps_than_tokens(document, rule):
    assert document("--decoding", rule)["steps"] == 16
    shown = document("--decoding", rule, "--prefix", "the cat")
    assert shown["steps"] == shown["nfe"]["H"] < 16


def test_default_is_as_ever_where_steps_and_tokens_have_nothing_to_do_with_each_other(document):
    assert document("--decoding", "first_hitting")["steps"] == 256


def test_help_names_every_rule():
    (option,) = Decoding.__metadata__
    assert set(DECODINGS) <= set(re.findall(r"\w+", option.help))


def test_a_person_sees_the_rule(sample):
    status, out, err = sample("--decoding", "margin", "--threshold", 0.9, "--schedule", "L2,H4,L2")
    assert (status, err) == (0, "")
    assert re.search(r"decoding +margin", out)
    assert "decoding" not in sample("--steps", 8)[1]


WRONG = {
    "rule": ("--decoding best", "decoding is 'best'; it must be one of: ancestral, "),
    "threshold alone": ("--threshold 0.9", "threshold does not go with ancestral decoding; leave it out or choose low"),
    "threshold of entropy": ("--decoding entropy --threshold 0.9", "threshold goes with low_confidence or margin"),
    "block": ("--decoding entropy --block-length 17", "block_length is 17; it must be from 1 to the length, 16"),
    "steps": ("--decoding entropy --steps 17", "17 steps are too many for entropy decoding"),
    "prefix": ("--decoding entropy --prefix " + "a" * 40, "which leaves nothing to sample at length 16"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_option_is_one_line(sample, tmp_path, name):
    options, message = WRONG[name]
    status, out, err = sample(*options.split(), "--output", "out.jsonl")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())
