"""`understudy plan`: one document, a page that fits, a picture, and mistakes answered in one line."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from importance_files import hump, make_importance, make_path, make_table, pair_importance, trio_importance
from understudy import ModelSchedule, cli
from understudy.planning import Plan

PNG = b"\x89PNG\r\n"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run `understudy plan` in this process, beside analyses: (status, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    pair_importance(64).save(Path("pair.json"))
    trio_importance(64).save(Path("trio.json"))
    make_importance(make_path({"L": hump(64) / 8}), make_path({"L": hump(64) / 9}, name="prefix 32"), shapes={}).save(
        Path("bare.json")
    )
    make_table().save(Path("costs.json"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        return leave.value.code, *capsys.readouterr()

    return run


def document(call, *arguments):
    status, out, err = call(*arguments, "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    return json.loads(out)


def test_json_is_one_document_and_the_file_the_same(call):
    plan = document(call, "--importance", "pair.json", "--light-steps", 16, "--output", "plan.json")
    assert plan == json.loads(Path("plan.json").read_text(encoding="utf-8"))
    assert Plan.load("plan.json").to_dict() == plan
    assert plan["format"] == "understudy-plan-1"
    assert (plan["importance"], plan["reference"], plan["is_exact"]) == ("pair.json", "H", True)
    assert plan["command"].startswith("understudy plan --importance pair.json --light-steps 16")
    assert plan["prediction"]["light_steps"] == 16
    assert plan["prediction"]["schedule"] == plan["schedule"]
    assert set(plan["prediction"]["flops"]) >= {"nominal_blocks_saved", "nominal_saved", "schedule_saved"}
    assert [entry["name"] for entry in plan["named"]] == ["sandwich", "first", "last", "middle", "interleaved"]
    assert plan["certificate"]["path_kl"] == plan["prediction"]["path_kl"]
    assert plan["environment"]["versions"]
    assert plan["settings"]["condition"] == "unconditional"


def test_budgets_that_mean_the_same(call):
    budgets = ("--light-steps", 16), ("--light-fraction", "25%"), ("--light-fraction", 0.25), ("--save-flops", "16.6%")
    plans = [document(call, "--importance", "pair.json", *budget) for budget in budgets]
    assert len({plan["schedule"] for plan in plans}) == 1


@pytest.mark.parametrize("convention", ["blocks", "head", "executed"])
def test_share_of_flops_is_saved(call, convention):
    options = ("--importance", "trio.json", "--save-flops", "30%", "--convention", convention)
    plan = document(call, *options)
    assert plan["prediction"]["saved"] >= 0.3 - 1e-9
    assert plan["convention"] == convention


def test_limits_are_kept(call):
    limits = ("--max-switches", 3, "--min-run", 4, "--force", "H=0-8", "--force", "L=50%-75%", "--steps", 96)
    plan = document(call, "--importance", "trio.json", "--light-fraction", 0.5, *limits)
    schedule = ModelSchedule.parse(plan["schedule"])
    assert schedule.num_steps == 96
    assert set(schedule.steps()[:8]) == {"H"}
    assert set(schedule.steps()[48:72]) == {"L"}
    assert len(schedule.segments) <= 4
    assert min(segment.count for segment in schedule.segments) >= 4
    assert schedule.counts["H"] == 48


def test_milliseconds_and_condition(call):
    options = ("--milliseconds", 50, "--cost-table", "costs.json", "--batch-size", 8)
    plan = document(call, "--importance", "bare.json", *options, "--condition", "prefix 32")
    assert plan["prediction"]["milliseconds"] <= 50
    assert (plan["settings"]["condition"], plan["prediction"]["flops"]) == ("prefix 32", None)
    assert plan["settings"]["place"] == "an abacus"


PAGES = {
    "pair": ("--importance pair.json --light-steps 16 --output plan.json --figure plan.png", "16.7%"),
    "three models": ("--importance trio.json --save-flops 0.3 --max-switches 3", "interleaved of M"),
    "time": (
        "--importance trio.json --milliseconds 60 --cost-table costs.json",
        "at most 60 ms a sample in batches of 8",
    ),
    "no shapes": ("--importance bare.json --light-fraction 0.5", "32 light"),
    "nothing to save": ("--importance pair.json --save-flops 0 --figure plan.png", "H64"),
}


@pytest.mark.parametrize("name", PAGES)
def test_page_fits(call, name):
    options, expected = PAGES[name]
    status, out, err = call(*options.split())
    assert (status, err) == (0, "")
    assert expected in " ".join(out.split())
    assert "KL(P_x0 || Q_x0) <=" in out
    schedule = next(line for line in out.splitlines() if line.startswith("  H") or line.startswith("  L"))
    assert ModelSchedule.parse(schedule.strip()).num_steps == 64
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    if "--figure" in options:
        assert Path("plan.png").read_bytes().startswith(PNG)


MISTAKES = {
    "no budget": ("--importance pair.json", "give one budget"),
    "two budgets": ("--importance pair.json --light-steps 3 --save-flops 10%", "give one budget"),
    "no file": ("--importance gone.json --light-steps 3", "there is no file 'gone.json'; write one by"),
    "another file": ("--importance costs.json --light-steps 3", "is no importance file"),
    "share": ("--importance pair.json --save-flops 16.7", "--save-flops is '16.7'; it must be a share from 0 to 1"),
    "a word": ("--importance pair.json --light-fraction some", "--light-fraction is 'some'"),
    "too much": ("--importance pair.json --save-flops 90%", "the cheapest schedule within the limits costs"),
    "too many": ("--importance pair.json --light-steps 65", "with 64 steps they go from 0 to that"),
    "no table": ("--importance pair.json --milliseconds 3", "--milliseconds needs pass times"),
    "batch alone": ("--importance pair.json --light-steps 3 --batch-size 8", "without a cost table"),
    "other batch": ("--importance pair.json --milliseconds 9 --cost-table costs.json --batch-size 4", "not at 4"),
    "convention": ("--importance pair.json --save-flops 1% --convention all", "must be blocks, head or executed"),
    "condition": ("--importance pair.json --light-steps 3 --condition x", "condition 'x' was not measured"),
    "shapes": ("--importance bare.json --save-flops 1%", "lacks the shape of a model"),
    "force": ("--importance pair.json --light-steps 3 --force H=5", "--force is 'H=5'; write KEY=FROM-TO"),
    "force mixed": ("--importance pair.json --light-steps 3 --force H=5%-9", "write KEY=FROM-TO"),
    "force halves": ("--importance pair.json --light-steps 3 --force H=0.5-9", "write KEY=FROM-TO"),
    "force empty": ("--importance pair.json --light-steps 3 --force H=9-9", "steps 9 to 9 of 64; it must hold a step"),
    "force beyond": ("--importance pair.json --light-steps 3 --force H=9-65", "end by 64"),
    "force percent": ("--importance pair.json --light-steps 3 --force H=9%-165%", "from 0% to 100%"),
    "force unknown": ("--importance pair.json --light-steps 3 --force X=0-9", "names model X"),
    "force against": ("--importance pair.json --light-steps 3 --force L=0-9", "allow 9 to 64"),
    "switches": ("--importance pair.json --light-steps 3 --max-switches 0", "light steps cannot be kept"),
    "run": ("--importance pair.json --light-steps 3 --min-run 65", "min_run is 65, but there are 64 steps"),
    "steps": ("--importance pair.json --light-fraction 0 --steps 0", "steps is 0"),
    "output": ("--importance pair.json --light-steps 3 --output gone/plan.json", "there is no folder"),
    "figure": ("--importance pair.json --light-steps 3 --figure gone/plan.png", "there is no folder"),
}


def test_times_of_another_grid_are_noted(call):
    options = ("--importance", "trio.json", "--light-fraction", 0.5, "--cost-table", "costs.json")
    note = (
        "Milliseconds in batches of 8 on an abacus, timed at 64 steps, where a pass reveals another number of tokens."
    )
    assert "timed at" not in call(*options)[1]
    assert note in " ".join(call(*options, "--steps", 96)[1].split())
    assert document(call, *options, "--steps", 96)["settings"]["timed_steps"] == 64


def test_a_picture_that_cannot_be_is_noticed_before_the_work(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = call("--importance", "gone.json", "--light-steps", 3, "--figure", "f.png")
    assert status == 2
    assert "pictures need matplotlib: pip install 'understudy[plot]'" in err


@pytest.mark.parametrize("option", ["--output", "--figure"])
@pytest.mark.parametrize("verb", ["plan", "analyze", "search"])
def test_a_place_that_cannot_be_written_is_noticed_before_anything_is_loaded(monkeypatch, capsys, verb, option):
    for room in ("importance", "planning", "search", "denoisers.model_set"):
        monkeypatch.setitem(sys.modules, f"understudy.{room}", None)  # an import would be another error
    places = {"--output": "here.json", "--figure": "here.png"}
    places[option] = "gone/" + places[option]
    words = [*(word for place in places.items() for word in place)]
    words += ["--importance", "i.json", "--light-steps", "1"] if verb == "plan" else []
    monkeypatch.setattr(sys, "argv", ["understudy", verb, *words])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    assert leave.value.code == 2
    assert "there is no folder 'gone'" in capsys.readouterr().err


def test_a_file_of_another_kind_is_not_to_be_overwritten(call):
    _, _, err = call("--importance", "costs.json", "--light-steps", "3")
    assert "'costs.json' is no importance file" in err
    assert "write one by `understudy analyze --output importance.json`" in err


@pytest.mark.parametrize("width", [60, 72, 80, 120])
@pytest.mark.parametrize("scale", [1e-9, 1e3])
def test_schedules_are_whole_at_any_width(call, monkeypatch, width, scale):
    path = pair_importance(64).path()
    scaled = replace(
        path, per_step=path.per_step * scale, step_variances=path.step_variances * scale**2,
        bin_means=path.bin_means * scale, covariance=path.covariance * scale**2, halves=(),
    )  # fmt: skip
    make_importance(scaled).save(Path("scaled.json"))
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, _ = call("--importance", "scaled.json", "--light-steps", "16")
    assert status == 0
    assert "…" not in out
    assert max(len(line) for line in out.splitlines()) <= width
    for schedule in ("L8,H48,L8", "L16,H48", "H48,L16", "H24,L16,H24"):
        assert re.search(rf"^ *(sandwich|first|last|middle) +{schedule} ", out, re.M)
    assert ("runs)" in out) == (width < 120)
    assert "it is rounding" in out if scale < 1 else "it is rounding" not in out


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(call, name):
    options, message = MISTAKES[name]
    before = set(Path().iterdir())
    status, out, err = call(*options.split())
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert set(Path().iterdir()) == before
