"""Fewer steps of the heavy model alone, at the cost of a schedule."""

import json

import pytest
from typer.testing import CliRunner

from stage import make_pair, make_tokenizer, save_stage
from understudy.cli import app
from understudy.evaluation import fewer_steps
from understudy.sampling import SamplingTask

TOKENIZER = make_tokenizer()
OPTIONS = {"length": 24, "num_samples": 4, "seed": 2}


@pytest.fixture(scope="module")
def models():
    return make_pair(TOKENIZER)


def cost(models, schedule, **options):
    return SamplingTask.create(models, schedule, **OPTIONS | options).flops.executed


@pytest.mark.parametrize("schedule", ["L8,H16,L8", "H4,L24,H4", "L32", "L1,H31"])
def test_one_step_more_would_cost_more_than_the_schedule(models, schedule):
    rival = fewer_steps(models, schedule, **OPTIONS)
    assert rival.keys == ("H",)
    assert cost(models, rival) <= cost(models, schedule) < cost(models, f"H{rival.num_steps + 1}")


def test_it_depends_on_what_is_given_and_on_the_noise(models):
    rivals = {
        fewer_steps(models, "L8,H16,L8", **OPTIONS, **given).num_steps
        for given in ({}, {"prefix": list(range(5, 15))}, {"noise": "cosine"})
    }
    assert len(rivals) > 1


def test_heavy_alone_is_its_own_rival(models):
    assert str(fewer_steps(models, "H16", **OPTIONS)) == "H16"


def test_a_percentage_is_of_the_steps_asked_for(models):
    asked = fewer_steps(models, "L25%,H75%", steps=32, **OPTIONS)
    assert asked == fewer_steps(models, "L8,H24", **OPTIONS)


# The command.


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    stage = save_stage(tmp_path_factory.mktemp("stage"), TOKENIZER)
    own = ("--heavy", stage["heavy"], "--light", stage["light"], "--judge", stage["judge"], "--length", 24, "-n", 4)
    return lambda *more: CliRunner().invoke(app, ["evaluate", *map(str, (*own, *more))])


def test_rivals_stand_beside_the_schedules_each_once(call, models):
    outcome = call("--schedule", "H32", "--schedule", "L8,H16,L8", "--fewer-steps", "--seed", 2, "--json")
    assert outcome.exit_code == 0, outcome.output
    rival = fewer_steps(models, "L8,H16,L8", **OPTIONS)
    rows = json.loads(outcome.stdout)["schedules"]
    assert [row["schedule"] for row in rows] == ["H32", "L8,H16,L8", str(rival)]
    assert rows[2]["flops"]["executed"] <= rows[1]["flops"]["executed"]


def test_prefixes_of_several_seeds_have_rivals_too(call, tmp_path):
    (tmp_path / "lines.txt").write_text("the cat\n" * 8)
    options = ("--seed", 1, "--seed", 2, "--prefixes", tmp_path / "lines.txt", "--prefix-length", 2)
    outcome = call("--schedule", "L4,H12", "--fewer-steps", *options, "--json")
    assert outcome.exit_code == 0, outcome.output
    assert len(json.loads(outcome.stdout)["schedules"]) == 2


def test_rules_by_confidence_have_no_rival_of_known_cost(call):
    outcome = call("--schedule", "L4,H12", "--fewer-steps", "--decoding", "entropy")
    assert outcome.exit_code != 0
    assert "--fewer-steps goes with ancestral decoding" in str(outcome.exception)
