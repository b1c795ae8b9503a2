"""`understudy make-light` as its users meet it."""

import json
import os
import signal
import sys

import pytest
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from light_stage import make_blocks, make_tokenizer, save_heavy
from understudy import cli, load_denoiser
from understudy.cli.make_light import make_light_command
from understudy.training import loop

MEASURE = ("--text-blocks", 4, "--times", 2, "--device", "cpu")
HEAL = ("--steps", 4, "--batch-size", 8, "--warmup", 1, "--ema", 0.5, "--log-every", 2, "--validate-every", 0)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def heavy(tmp_path_factory, tokenizer):
    return save_heavy(tmp_path_factory.mktemp("models") / "heavy", tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer):
    return make_blocks(tmp_path_factory.mktemp("data") / "packed", tokenizer)


@pytest.fixture
def call(heavy, data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments, given=None):
        app = typer.Typer()
        app.command()(make_light_command)
        words = (given or heavy, "--data", data, *MEASURE, *arguments)
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


def test_pruning_prints_one_document_and_writes_a_model(call, tmp_path):
    outcome = call("--blocks", 2, "--steps", 0, "--output", "light", "--json")
    assert outcome.exit_code == 0, outcome.exception
    document = json.loads(outcome.stdout)
    assert document == json.loads((tmp_path / "light" / "make_light.json").read_text())
    assert document["format"] == "understudy-light-1"
    assert load_denoiser(tmp_path / "light").shape.blocks == len(document["kept"]) == 2
    again = call("--blocks", 2, "--steps", 0, "--output", "light", "--json")
    assert json.loads(again.stdout) == document


def test_healing_for_the_light_steps_of_a_schedule(call, tmp_path):
    outcome = call("--keep", "0,3", "--times-from", "L25%,H50%,L25%", "--lambda", 0.7, *HEAL, "--output", "light")
    assert outcome.exit_code == 0, outcome.exception
    assert "kept 2 of 4 blocks: 0, 3" in outcome.stdout
    assert "healed: " in outcome.stdout
    record = json.loads((tmp_path / "light" / "make_light.json").read_text())
    assert record["healing"]["settings"]["times"] == [[0.0, 0.25], [0.75, 1.0]]
    assert record["healing"]["settings"]["distillation_weight"] == 0.7
    assert load_denoiser(tmp_path / "light").shape.blocks == 2


@pytest.fixture
def interruptible():
    """What a terminal sends is heard, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_while_it_heals_keeps_what_was_healed(call, data, heavy, monkeypatch, capsys, tmp_path):
    original, words = loop._Run._step, ("--keep", "0,3", *HEAL, "--log-every", 1)
    assert call(*words, "--output", "whole").exit_code == 0

    def signalled(self, step, *rest):
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_step", signalled)
        arguments = ("make-light", heavy, "--data", data, *MEASURE, *words, "--output", "cut")
        patch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
    assert leave.value.code == 130
    kept = "the checkpoint of step 2 is kept in 'cut'; give the same command again to go on from there"
    assert capsys.readouterr().err.splitlines()[-1] == f"understudy: interrupted; {kept}"
    assert call(*words, "--output", "cut").exit_code == 0
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all((whole[name] == cut[name]).all() for name in whole)


def test_importance_is_shown(call):
    outcome = call("--blocks", 2, "--steps", 0, "--output", "light")
    assert outcome.exit_code == 0, outcome.exception
    table = [line.split() for line in outcome.stdout.splitlines() if "±" in line and line.split()[0].isdigit()]
    assert [row[0] for row in table] == ["0", "1", "2", "3"]
    assert sum("1" in row[4:5] or "2" in row[4:5] for row in table) == 2
    assert "nats per masked token" in outcome.stdout


def test_quantised_and_whole(call, tmp_path):
    outcome = call("--quantise", "int8", "--steps", 0, "--output", "light", "--json")
    assert outcome.exit_code == 0, outcome.exception
    assert json.loads(outcome.stdout)["quantised"] == "int8"
    assert load_denoiser(tmp_path / "light").shape.blocks == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--blocks", 4), "blocks is 4; the heavy model has 4, so a lighter one can keep 1 to 3"),
        (("--blocks", 0), "blocks is 0"),
        (("--blocks", 2, "--steps", -1), "--steps is -1"),
        (("--keep", "0,x"), "--keep is '0,x'"),
        (("--keep", "3,0"), "ascending"),
        ((), "nothing is to be left out"),
        (("--blocks", 2, "--keep", "0"), "give one of them"),
        (("--blocks", 2, "--times-from", "missing.json"), "there is no file 'missing.json'"),
        (("--blocks", 2, "--times-from", "H10"), "no step of H10 is made by 'L'"),
        (("--blocks", 2, "--times-from", "H1;L2"), "column 3"),
        (("--blocks", 2, "--data", "nowhere"), "nowhere"),
        (("--blocks", 2, "--lambda", 2), "distillation_weight is 2"),
        (("--blocks", 2, "--quantise", "int8", "--steps", 1), "heal first"),
    ],
)
def test_bad_input_is_one_line(heavy, data, monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    arguments = ("make-light", heavy, "--data", data, *MEASURE, "--output", "light", *words)
    monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    shown = capsys.readouterr()
    assert leave.value.code == 2
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("understudy: ")
    assert message in line
    assert not (tmp_path / "light" / "model.safetensors").exists()


def test_a_judge_is_no_heavy_model(monkeypatch, capsys, tmp_path):
    from understudy.denoisers.model_set import bundled_paths

    monkeypatch.chdir(tmp_path)
    arguments = ["make-light", str(bundled_paths()["judge"]), "--blocks", "2", "--steps", "0", "--output", "light"]
    monkeypatch.setattr(sys, "argv", ["understudy", *arguments])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    assert leave.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
