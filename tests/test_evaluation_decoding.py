"""Schedules compared under every decoding rule: what is scored is what `decode` samples, and costs what it cost."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from driving import finish
from stage import make_judge, make_pair, make_tokenizer, save_stage
from understudy.cli import app
from understudy.cluster import compare_on_cluster
from understudy.evaluation import ComparisonTask, Scoring, compare_schedules, run_comparison, write_evaluation
from understudy.report import write_comparison
from understudy.report.collection import Source
from understudy.report.compared import load_scores
from understudy.report.cost_frontier import cost_frontiers
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
@pytest.mark.parametrize("seeds", [(3,), (3, 7)])
def test_in_pieces_it_is_the_whole(tools, rule, seeds):
    scoring = Scoring(judge_batch_size=2)
    task = ComparisonTask.create(tools.denoisers, SCHEDULES, tools.judge, seeds=seeds, scoring=scoring, **own(rule))
    _, whole = finish(run_comparison(task))
    records, found = finish(compare_on_cluster(task, OneAfterAnother(tools)))
    assert [record.stage for record in records].count("done") == len(SCHEDULES)
    for one, other in zip(whole.entries, found.entries, strict=True):
        assert torch.equal(one.result.tokens, other.result.tokens)
        assert (one.result.reveal_step == other.result.reveal_step).all()
        assert one.result.nfe == other.result.nfe
        assert one.result.flops.to_dict() == pytest.approx(other.result.flops.to_dict(), rel=1e-12)
        assert one.scores.gen_ppl == other.scores.gen_ppl


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("prefixes", [False, True])
def test_several_seeds_are_the_union_of_their_runs(tools, rule, prefixes):
    options = {**own(rule), "num_samples": 2}
    del options["seed"]
    given = [{}, {}]
    if prefixes:
        options.pop("prefix", None)
        rows = np.full((4, 12), tools.denoisers["H"].mask_id)
        rows[:, 0] = [4, 5, 6, 7]
        given = [{"template": rows[:2]}, {"template": rows[2:]}]
    whole = {"template": rows} if prefixes else {}
    heats = (0.5, options.pop("temperature", 1.0))
    run = compare_schedules(
        tools.denoisers, SCHEDULES, tools.judge, seeds=(3, 4), temperatures=heats, **options, **whole
    )
    _, both = finish(run)
    for entry in both.entries:
        own_options = {**options, "temperature": entry.temperature}
        each = [
            decode(tools.denoisers, entry.name, seed=seed, **own_options, **mine)
            for seed, mine in zip((3, 4), given, strict=True)
        ]
        assert torch.equal(entry.result.tokens, torch.cat([one.tokens for one in each]))
        assert entry.result.nfe == {key: sum(one.nfe[key] for one in each) for key in entry.result.nfe}
        assert entry.result.flops.executed == pytest.approx(sum(one.flops.executed for one in each), rel=1e-12)
        assert [part.seed for part in entry.by_seed] == [3, 4]


# The command.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    stage = save_stage(tmp_path_factory.mktemp("stage"), TOKENIZER)
    return ("--heavy", stage["heavy"], "--light", stage["light"], "--judge", stage["judge"], "--length", "12")


def call(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_the_command_says_which_rule_it_sampled_by(models, tmp_path):
    output = tmp_path / "rules.json"
    rule = ("--decoding", "low_confidence", "--block-length", 6, "--threshold", 0.4, "--seed", 0, "--seed", 1)
    outcome = call(*models, "--schedule", "H8", "--schedule", "L2,H6", "-n", 3, *rule, "--output", output)
    assert outcome.exit_code == 0, outcome.output
    assert "decoding low_confidence" in outcome.stdout
    assert "passes are as many as the models' certainty takes" in " ".join(outcome.stdout.split())
    document = json.loads(output.read_text(encoding="utf-8"))
    expected = {"decoding": "low_confidence", "block_length": 6, "threshold": 0.4, "seeds": [0, 1]}
    assert {name: document["settings"][name] for name in expected} == expected
    assert load_scores(output).origin["settings"] == document["settings"]


def test_rules_are_not_set_side_by_side(tools, tmp_path):
    """Quality against cost over several files: each rule has a frontier of its own."""
    sources = []
    for rule in ("low confidence", "entropy in blocks", "low confidence"):
        _, found = finish(compare_schedules(tools.denoisers, SCHEDULES, tools.judge, **{**own(rule), "prefix": [9]}))
        path = tmp_path / f"{len(sources)}.json"
        write_evaluation(path, found.to_dict())
        sources.append(Source(path.name, load_scores(path)))
    files = [frontier.files for frontier in cost_frontiers(sources)]
    assert sorted(files) == [("0.json", "2.json"), ("1.json",)]


def test_samples_on_disk_say_how_they_were_drawn(tools, tmp_path):
    _, found = finish(compare_schedules(tools.denoisers, SCHEDULES, tools.judge, **own("entropy in blocks")))
    files = write_comparison(found, tmp_path / "out", tokenizer=TOKENIZER)
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix == ".jsonl"]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]
    assert rows
    assert {(row["decoding"], row["block_length"]) for row in rows} == {("entropy", 5)}


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
