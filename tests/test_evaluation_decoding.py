"""Schedules compared under every decoding rule: what is scored is what `decode` samples, and costs what it cost."""

import json

import pytest
import torch
from typer.testing import CliRunner

from driving import finish
from stage import make_judge, make_pair, make_tokenizer, save_stage
from understudy.cli import app
from understudy.cluster import compare_on_cluster
from understudy.errors import SettingError
from understudy.evaluation import ComparisonTask, Scoring, compare_schedules, run_comparison
from understudy.sampling import decode
from understudy.work import OneAfterAnother, Tools

RULES = {
    "first hitting": {"decoding": "first_hitting"},
    "random": {"decoding": "random", "block_length": 6},
    "low confidence": {"decoding": "low_confidence"},
    "threshold": {"decoding": "low_confidence", "threshold": 0.005},
    "entropy in blocks": {"decoding": "entropy", "block_length": 5, "temperature": 0.7, "prefix": [9, 8]},
}
SCHEDULES = ["H8", "L2,H4,L2", "L8"]
OPTIONS = {"length": 12, "num_samples": 5, "seed": 3, "batch_size": 2}
TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def tools():
    return Tools(make_pair(TOKENIZER), make_judge(TOKENIZER), TOKENIZER)


def own(rule):
    return {**OPTIONS, **RULES[rule]}


@pytest.mark.parametrize("rule", RULES)
def test_what_is_scored_is_what_the_rule_samples(tools, rule):
    records, found = finish(compare_schedules(tools.denoisers, SCHEDULES, tools.judge, **own(rule)))
    assert found.reference.nll_difference.difference == 0
    for entry, schedule in zip(found.entries, SCHEDULES, strict=True):
        alone = decode(tools.denoisers, schedule, **own(rule))
        assert torch.equal(entry.result.tokens, alone.tokens)
        assert (entry.result.reveal_step == alone.reveal_step).all()
        assert entry.result.nfe == alone.nfe
        assert entry.result.flops.to_dict() == pytest.approx(alone.flops.to_dict(), rel=1e-12)
        assert sum(entry.scores.counts) == (alone.reveal_step[:, 1:] >= 0).sum()
        mine = [record for record in records if record.name == schedule]
        assert (mine[0].stage, mine[0].passes_done, mine[0].samples_done) == ("waiting", 0, 0)
        assert (mine[-1].stage, mine[-1].passes_done, mine[-1].samples_done) == ("done", sum(alone.nfe.values()), 5)
    assert found.settings["decoding"] == RULES[rule]["decoding"]


def test_schedules_are_told_apart_by_what_they_spend(tools):
    """With a threshold, models make as many passes as their certainty takes, and only the run knows how many."""
    records, found = finish(compare_schedules(tools.denoisers, SCHEDULES, tools.judge, **own("threshold")))
    passes = [sum(entry.result.nfe.values()) for entry in found.entries]
    assert len(set(passes)) > 1
    assert {record.num_passes for record in records} == {None}


@pytest.mark.parametrize("rule", RULES)
def test_in_pieces_it_is_the_whole(tools, rule):
    scoring = Scoring(judge_batch_size=2)
    task = ComparisonTask.create(tools.denoisers, SCHEDULES, tools.judge, scoring=scoring, **own(rule))
    _, whole = finish(run_comparison(task))
    records, found = finish(compare_on_cluster(task, OneAfterAnother(tools)))
    assert [record.stage for record in records].count("done") == len(SCHEDULES)
    for one, other in zip(whole.entries, found.entries, strict=True):
        assert torch.equal(one.result.tokens, other.result.tokens)
        assert (one.result.reveal_step == other.result.reveal_step).all()
        assert one.result.nfe == other.result.nfe
        assert one.result.flops.to_dict() == pytest.approx(other.result.flops.to_dict(), rel=1e-12)
        assert one.scores.gen_ppl == other.scores.gen_ppl


def test_seeds_of_first_hitting_are_pooled_with_their_order(tools):
    options = {**own("first hitting"), "num_samples": 2}
    del options["seed"]
    _, both = finish(compare_schedules(tools.denoisers, ["L2,H4,L2"], tools.judge, seeds=(3, 4), **options))
    each = [decode(tools.denoisers, "L2,H4,L2", seed=seed, **options) for seed in (3, 4)]
    assert torch.equal(both.reference.result.tokens, torch.cat([one.tokens for one in each]))
    assert both.reference.result.nfe == {key: sum(one.nfe[key] for one in each) for key in "LH"}


def test_rules_that_draw_in_every_pass_take_one_seed(tools):
    with pytest.raises(SettingError, match="2 seeds are given, and margin decoding draws anew"):
        ComparisonTask.create(
            tools.denoisers, ["H8"], tools.judge, seeds=(0, 1), decoding="margin", length=12, num_samples=2
        )


# The command.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    stage = save_stage(tmp_path_factory.mktemp("stage"), TOKENIZER)
    return ("--heavy", stage["heavy"], "--light", stage["light"], "--judge", stage["judge"], "--length", "12")


def call(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_the_command_says_which_rule_it_sampled_by(models, tmp_path):
    output = tmp_path / "rules.json"
    rule = ("--decoding", "low_confidence", "--block-length", 6, "--threshold", 0.4)
    outcome = call(*models, "--schedule", "H8", "--schedule", "L2,H6", "-n", 3, *rule, "--output", output)
    assert outcome.exit_code == 0, outcome.output
    settings = json.loads(output.read_text(encoding="utf-8"))["settings"]
    expected = {"decoding": "low_confidence", "block_length": 6, "threshold": 0.4}
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--schedule", "H8", "--decoding", "best"), "must be one of"),
        (("--schedule", "H20", "--decoding", "entropy"), "20 steps are too many"),
        (("--schedule", "H8", "--block-length", 4), "does not go with ancestral"),
        (("--samples", "x.jsonl", "--decoding", "entropy"), "--decoding samples anew"),
    ],
)
def test_what_cannot_be_is_refused(models, options, message):
    own = ("--judge", models[5]) if options[0] == "--samples" else models
    outcome = call(*own, *options)
    assert outcome.exit_code != 0
    assert message in str(outcome.exception)
