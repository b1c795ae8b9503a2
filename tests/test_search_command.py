"""`understudy search` as its users meet it."""

import json
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from importance_files import pair_importance
from stage import make_llama, make_network, make_tokenizer, save_stage
from understudy import search
from understudy.cli.search import read_plan, read_space, search_command
from understudy.errors import UnderstudyError
from understudy.importance import Importance, PathDivergence
from understudy.planning import Budget, make_plan
from understudy.schedule import ModelSchedule

SETTINGS = ("--steps", 8, "--length", 8, "--num-samples", 4, "--segments", 4, "--device", "cpu")
DOCUMENT_KEYS = {
    *("format", "command", "settings", "space", "models", "reference", "judge", "importance", "rounds"),
    *("schedules", "correlations", "planner", "environment"),
}
SCHEDULE_KEYS = {
    *(
        "schedule",
        "segments",
        "origins",
        "rank",
        "rank_range",
        "nll_difference",
        "ci95",
        "difference_to_best",
        "difference_to_best_ci95",
        "gen_ppl",
        "gen_ppl_ci95",
    ),
    *("entropy", "entropy_difference", "entropy_difference_ci95", "num_samples", "flops", "nfe", "seconds"),
    *("predicted_path_kl", "predicted_se", "dropped"),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return save_stage(tmp_path_factory.mktemp("stage"), make_tokenizer())


@pytest.fixture
def call(stage, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    models = ("--heavy", stage["heavy"], "--light", stage["light"], "--judge", stage["judge"])

    def run(*arguments, models=models):
        app = typer.Typer()
        app.command()(search_command)
        return CliRunner().invoke(app, [str(argument) for argument in (*models, *arguments)])

    return run


def write_importance(path, length=8, scale=1.0):
    per_step = np.linspace(2, 1, 8)[None] * scale
    variances = np.full((1, 8), 0.01) * scale**2
    divergence = PathDivergence(
        *("unconditional", 8, length, length, 10, ("L",), per_step, variances),
        *(np.arange(9), per_step, np.eye(8) * 0.01 * scale**2),
    )
    Importance("H", {}, "loglinear", None, (divergence,)).save(path)
    return path


def write_plan(path, schedule):
    plan = make_plan(pair_importance(8), Budget(light_steps=4))
    replace(plan, prediction=replace(plan.prediction, schedule=ModelSchedule.parse(schedule))).save(path)


def test_one_document_and_its_file(call, tmp_path):
    write_importance(tmp_path / "importance.json")
    write_plan(tmp_path / "plan.json", "H500,L500")
    options = ("--importance", "importance.json", "--plan", "plan.json", "--also", "sandwich", "--also", "L100%")
    outcome = call(*SETTINGS, *options, "--output", "found.json", "--json")
    assert outcome.exit_code == 0, outcome.output
    assert all("measured; " in line for line in outcome.stderr.splitlines())
    document = json.loads(outcome.stdout)
    assert document == json.loads((tmp_path / "found.json").read_text())
    assert set(document) == DOCUMENT_KEYS
    assert all(set(row) == SCHEDULE_KEYS for row in document["schedules"])
    assert document["format"] == "understudy-search-1"
    assert document["space"]["segment_counts"] == {"H": 2, "L": 2}
    assert [row["rank"] for row in document["schedules"]] == [1, 2, 3, 4, 5, 6, None, None]
    assert document["planner"]["schedule"] == "H4,L4"
    assert document["planner"]["predicted_rank"] == 1
    assert document["correlations"]["num_schedules"] == 6
    assert document["environment"]["versions"]["torch"]
    assert search.load(tmp_path / "found.json").to_dict() == document
    assert {path.name for path in tmp_path.iterdir()} == {"found.json", "found.jsonl", "importance.json", "plan.json"}


def test_the_table_says_what_is_tied(call, tmp_path):
    write_importance(tmp_path / "importance.json")
    options = ("--importance", "importance.json", "--also", "L1,H4,L3", "--also", "interleaved")
    outcome = call(*SETTINGS, *options, "--output", "found.json")
    assert outcome.exit_code == 0, outcome.output
    shown = outcome.stdout
    result = search.load(tmp_path / "found.json")
    rows = re.findall(r"^ *(?:\d+|–) +((?:[HL]\d+,?)+)(?: ★)? +([HL]{4})\b", shown, re.M)
    assert rows == [(str(entry.schedule), entry.segments) for entry in result.entries if entry.segments]
    assert "L1,H4,L3" in shown
    assert "reference" in shown
    assert "path KL" in shown
    assert "rank correlation ρ =" in " ".join(shown.split())
    assert "The schedule of least predicted path KL, H4,L4, ranks" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 100


def test_a_long_schedule_is_broken_after_commas(call, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    steps = ("--steps", 64, "--length", 4, "--num-samples", 2, "--segments", 2, "--light-segments", 1)
    also = ("--also", "interleaved", "--also", "L10,H20,L10,H12,L12", "--importance", "importance.json")
    write_importance(tmp_path / "importance.json", length=4)
    shown = call(*steps, *also, "--output", "a.json", "--device", "cpu").stdout
    assert max(map(len, shown.splitlines())) <= 80
    pieces = [words[0] for line in shown.splitlines() if (words := re.findall(r"(?:[HL]\d+,?)+", line))]
    assert {"L1,H1,", "L10,H20,", "L10,H12,"} <= set(pieces)
    assert "… 64 runs" in shown


@pytest.mark.parametrize("width", [60, 72, 80, 100, 140])
@pytest.mark.parametrize("scale", [1e-7, 1e3])
def test_schedules_are_whole_at_any_width(call, monkeypatch, tmp_path, width, scale):
    monkeypatch.setenv("COLUMNS", str(width))
    write_importance(tmp_path / "importance.json", scale=scale)
    outcome = call(*SETTINGS, "--importance", "importance.json", "--output", "a.json")
    shown = outcome.stdout
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    table, caption = shown[: shown.index("Differences are")], " ".join(shown[shown.index("Differences are") :].split())
    pieces = re.findall(r"^ *(?:\d+|–)? +((?:[HL]\d+,?)+)", table, re.M)
    assert "".join(pieces) == "".join(str(entry.schedule) for entry in search.load(tmp_path / "a.json").entries)
    assert "difference" in table
    assert ("ppl" in table) != ("No room here for: judge ppl" in caption)
    assert ("predicted" in table) or "path KL predicted" in caption
    assert len(re.findall(r"\d{5}", table)) == 0


def test_a_second_run_reads_the_journal_and_agrees(call, stage, tmp_path):
    first = json.loads(call(*SETTINGS, "--output", "a.json", "--json").stdout)
    journal = (tmp_path / "a.jsonl").read_bytes()
    second = json.loads(call(*SETTINGS, "--output", "a.json", "--json").stdout)
    assert (tmp_path / "a.jsonl").read_bytes() == journal
    assert second["schedules"] == first["schedules"]
    error = call(*SETTINGS, "--seed", 1, "--output", "a.json").exception
    assert "'a.jsonl' belongs to a job with another seed" in str(error)
    error = call(*SETTINGS, "--tokenizer", stage["heavy"], "--output", "a.json").exception
    assert "'a.jsonl' belongs to a job with another tokenizer" in str(error)


def test_a_journal_goes_with_the_weights_wherever_they_lie(call, stage, tmp_path):
    assert call(*SETTINGS, "--output", "a.json").exit_code == 0
    journal = (tmp_path / "a.jsonl").read_bytes()
    moved = {name: shutil.copytree(path, tmp_path / name) for name, path in stage.items()}
    models = ("--heavy", moved["heavy"], "--light", moved["light"], "--judge", moved["judge"])
    assert call(*SETTINGS, "--output", "a.json", models=models).exit_code == 0
    assert (tmp_path / "a.jsonl").read_bytes() == journal
    make_network(1, 9, make_tokenizer()).save_pretrained(moved["light"])
    make_llama(seed=9).save_pretrained(moved["judge"])
    error = call(*SETTINGS, "--output", "a.json", models=models).exception
    assert "belongs to a job with another judge, models;" in str(error)


def test_the_judge_has_a_batch_size_of_its_own(call):
    options = (*SETTINGS, "--batch-size", 3, "--judge-batch-size", 5, "--output", "a.json", "--json")
    settings = json.loads(call(*options).stdout)["settings"]
    assert (settings["batch_size"], settings["judge_batch_size"]) == (3, 5)


def test_a_picture_that_cannot_be_is_noticed_before_the_work(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = call("--output", "a.json", "--figure", "f.png", models=("--heavy", "gone", "--judge", "gone")).exception
    assert "pictures need matplotlib" in str(error)


def test_halving_and_figure(call, tmp_path):
    pytest.importorskip("matplotlib")
    options = ("--halving", "half", "--first-round", 2, "--figure", "f.png", "--output", "a.json")
    outcome = call(*SETTINGS, *options)
    assert outcome.exit_code == 0, outcome.output
    assert "2 out" in outcome.stdout
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_spaces_are_read_from_counts():
    given = {"steps": 12, "segments": None, "light_segments": None, "count": None}
    assert len(read_space(given)) == 28
    space = read_space({**given, "count": ["A=2", "B=1", "C=1"]})
    assert (dict(space.segment_counts), len(space)) == ({"A": 2, "B": 1, "C": 1}, 12)


def test_a_plan_is_resized(tmp_path):
    write_plan(tmp_path / "p.json", "L125,H750,L125")
    assert read_plan(tmp_path / "p.json", 64) == ModelSchedule.parse("L8,H48,L8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "a.png"), "--output is 'a.png'; name a file that ends in .json"),
        (("--output", "nowhere/a.json"), "there is no folder 'nowhere'"),
        (("--output", "a.json", "--segments", 16, "--light-segments", 8), "make 12870 schedules"),
        (("--output", "a.json", "--count", "L"), "--count is 'L'; write a key"),
        (("--output", "a.json", "--count", "L=2", "--count", "L=3"), "--count is 'L=3'"),
        (("--output", "a.json", "--count", "L=2", "--light-segments", 2), "give one of them"),
        (("--output", "a.json", "--count", "L=2", "--count", "H=2", "--segments", 8), "shares out 4 segments"),
        (("--output", "a.json", "--also", "L4"), "column 1"),
        (("--output", "a.json", "--also", "X1000"), "names X, but models are bound to H, L only"),
        (("--output", "a.json", "--plan", "none.json"), "there is no file 'none.json'; write one by `understudy plan"),
        (("--output", "a.json", "--importance", "none.json"), "there is no file 'none.json'; write one by"),
        (("--output", "a.json", "--length", 1), "length is 1 and the judge reads 32 tokens at once"),
        (("--output", "a.json", "--plan", "empty.json"), "is no plan (understudy-plan-1)"),
        (("--output", "a.json", "--importance", "empty.json"), "is no importance file"),
        (("--output", "a.json", "--condition", "prefix"), "--condition goes with --importance"),
        (("--output", "a.json", "--halving", "best"), "it must be confident or half"),
        (("--output", "a.json", "--first-round", 4), "without a halving rule"),
        (("--output", "a.json", "--num-samples", 1), "num_samples is 1"),
        (("--output", "a.json", "--length", 99), "length is 99; model H takes at most 32"),
    ],
)
def test_what_makes_no_sense_is_one_line(call, tmp_path, arguments, message):
    (tmp_path / "empty.json").write_text("{}")
    error = call(*arguments).exception
    assert isinstance(error, UnderstudyError), error
    assert message in str(error)
    assert "\n" not in str(error)
    assert not (tmp_path / "a.json").exists()


def test_own_models_need_a_judge_of_their_own(call):
    error = call("--output", "a.json", models=("--heavy", "x")).exception
    assert "give --judge" in str(error)
