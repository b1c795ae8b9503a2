import inspect
import json

import pytest
import typer
from typer.testing import CliRunner

from driving import finish
from stage import make_judge, make_pair, make_tokenizer
from understudy import demo
from understudy.cli.demo import demo_command
from understudy.denoisers.model_set import ModelSet
from understudy.errors import DataError, SettingError
from understudy.schedule import ModelSchedule

TOKENIZER = make_tokenizer()
SMALL = ("--num-samples", "2", "--steps", "8", "--length", "12")


@pytest.fixture
def call(monkeypatch):
    """The command with tiny models in place of the bundled ones."""
    models = ModelSet(make_pair(TOKENIZER), TOKENIZER, {"H": "heavy", "L": "light"})
    monkeypatch.setattr(demo, "bundled_models", lambda: models)
    monkeypatch.setattr(demo, "bundled_judge", lambda: make_judge(TOKENIZER))
    app = typer.Typer()
    app.command()(demo_command)
    return lambda *arguments, **options: CliRunner().invoke(app, [str(a) for a in arguments], **options)


def test_demo_schedules_replace_the_same_share():
    schedules = {name: ModelSchedule.parse(text, 64) for name, text in demo.DEMO_SCHEDULES.items()}
    assert schedules["sandwich"] == ModelSchedule.sandwich(64, 0.25)
    assert schedules["light middle"] == ModelSchedule.middle(64, 0.25)
    assert schedules["heavy only"].counts == {"H": 64}
    assert schedules["light only"].counts == {"L": 64}


def test_run_demo_compares_with_heavy():
    run = demo.run_demo(make_pair(TOKENIZER), make_judge(TOKENIZER), num_samples=2, steps=8, length=12)
    _, comparison = finish(run)
    assert [entry.name for entry in comparison.entries] == [*demo.DEMO_SCHEDULES, demo.RIVAL]
    assert comparison.reference.relative_cost == 1.0
    with pytest.raises(SettingError, match="at least 8"):
        next(demo.run_demo({}, make_judge(TOKENIZER), steps=7))


def test_the_rival_is_heavy_alone_at_the_cost_of_the_sandwich():
    run = demo.run_demo(make_pair(TOKENIZER), make_judge(TOKENIZER), num_samples=3, steps=16, length=20)
    entries = {entry.name: entry.result for entry in finish(run)[1].entries}
    rival, sandwich = entries[demo.RIVAL], entries["sandwich"]
    assert rival.schedule.keys == ("H",)
    assert rival.schedule.num_steps < 16
    assert 0.85 * sandwich.flops.executed < rival.flops.executed <= sandwich.flops.executed


def test_the_plan_is_the_best_of_the_demo_by_path_kl():
    plan = demo.plan_demo(64)
    assert plan.schedule.counts["L"] == 16
    path = demo.bundled_importance().path()
    for text in ("sandwich", "light middle"):
        rule = ModelSchedule.parse(demo.DEMO_SCHEDULES[text], path.num_steps)
        assert plan.prediction.path_kl < path.path_kl(rule)[0]


def test_command_prints_one_json_document_and_writes_the_folder(call, tmp_path):
    outcome = call("--output", tmp_path / "out", *SMALL, "--json")
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert [row["name"] for row in document["schedules"]] == [*demo.DEMO_SCHEDULES, demo.RIVAL, "planned"]
    assert document["schedules"][-1]["schedule"] == document["plan"]["schedule"]
    assert sorted(document["files"]) == sorted(str(path) for path in (tmp_path / "out").iterdir())
    assert document["command"].startswith("understudy demo --output")


@pytest.mark.parametrize("columns", ["60", "80", "140"])
def test_command_shows_tables_samples_and_paths_at_any_width(call, tmp_path, columns):
    outcome = call("--output", tmp_path / "out", *SMALL, env={"COLUMNS": columns})
    assert outcome.exit_code == 0, outcome.output
    for word in ("sandwich", "Quality", "Cost", "Who wrote what", "2 samples are too few", "samples.html", "path KL"):
        assert word in " ".join(outcome.stdout.split())
    assert "…" not in outcome.stdout
    assert max(map(len, outcome.stdout.splitlines())) <= max(int(columns), len(str(tmp_path)) + 40)


def test_command_and_library_share_their_defaults():
    command, library = (inspect.signature(function).parameters for function in (demo_command, demo.run_demo))
    for name in ("num_samples", "steps", "length", "seed"):
        assert command[name].default == library[name].default


def test_a_bad_folder_is_noticed_before_sampling(call, tmp_path):
    (tmp_path / "file").write_text("")
    assert isinstance(call("--output", tmp_path / "file", *SMALL).exception, DataError)
