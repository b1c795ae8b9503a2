"""`understudy analyze` as its users meet it, and the text it reads."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from stage import TEXTS, make_tokenizer, save_stage
from understudy.cli.analyze import analyze_command
from understudy.data import PrepareSettings, TextSource, held_out_blocks, prepare
from understudy.demo import bundled_importance
from understudy.driving import run_to_end
from understudy.errors import DataError, SettingError, UnderstudyError
from understudy.importance import Importance

SETTINGS = ("--steps", 8, "--length", 16, "--num-samples", 2, "--times", 3, "--blocks", 2, "--bins", 4)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def stage(tmp_path_factory, tokenizer):
    return save_stage(tmp_path_factory.mktemp("stage"), tokenizer)


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS * 3), encoding="utf-8")
    return tmp_path / "text.txt"


@pytest.fixture
def call(stage, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments, models=("--heavy", stage["heavy"], "--light", stage["light"])):
        app = typer.Typer()
        app.command()(analyze_command)
        return CliRunner().invoke(app, [str(word) for word in (*models, *SETTINGS, "--device", "cpu", *arguments)])

    return run


def test_one_document_a_file_and_a_figure(call, tmp_path, text):
    outcome = call("--data", text, "--output", "i.json", "--figure", "i.png", "--prefix-length", 4, "--json")
    assert outcome.exit_code == 0, outcome.exception
    document = json.loads(outcome.stdout)
    assert document["format"] == "understudy-importance-2"
    assert Importance.load(tmp_path / "i.json").to_dict() == document
    assert [path["name"] for path in document["paths"]] == ["unconditional", "prefix 4"]
    assert (tmp_path / "i.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_two_runs_give_one_answer_and_a_table(call, text):
    first, second = (call("--data", text, "--output", f"{name}.json") for name in "ab")
    assert first.stdout.replace("a.json", "b.json") == second.stdout
    assert "KL(H‖L)" in first.stdout
    assert "Path KL, unconditional" in first.stdout


def test_what_was_measured_before_a_stop_is_kept(call, tmp_path, text, monkeypatch):
    whole = call("--data", text, "--output", "whole.json", "--json")
    from understudy.importance import units

    with monkeypatch.context() as patch:
        patch.setattr(units, "measure_chunk", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        call("--data", text, "--output", "cut.json")
    assert (tmp_path / "cut.json.partial.jsonl").exists()
    assert not (tmp_path / "cut.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(units, "block_sums", None)  # it is not called again
        cut = call("--data", text, "--output", "cut.json", "--json")
    first, second = (json.loads(outcome.stdout) for outcome in (whole, cut))
    assert first["held_out"] == second["held_out"]
    assert first["paths"] == second["paths"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "i.json"), "give --data"),
        (("--data", "text.txt", "--output", "no/i.json"), "there is no folder 'no'"),
        (("--data", "text.txt", "--output", "i.json", "--length", "999"), "not one block of 999"),
        (("--data", "gone.txt", "--output", "i.json"), "no file 'gone.txt'"),
        (("--data", "text.txt", "--output", "i.json", "--reference", "X"), "'X', but models are bound to H, L"),
        (("--data", "text.txt", "--output", "i.json", "--prefix-length", "16"), "leaves nothing to sample"),
    ],
)
def test_errors_are_one_line(call, text, arguments, message):
    outcome = call(*arguments)
    assert isinstance(outcome.exception, UnderstudyError)
    assert message in str(outcome.exception)
    assert "\n" not in str(outcome.exception)


def test_the_bundled_pair_needs_nothing(call, tmp_path):
    outcome = call("--output", "i.json", models=())
    assert outcome.exit_code == 0, outcome.exception
    found = Importance.load(tmp_path / "i.json")
    assert found.models["H"]["shape"]["blocks"] == 12
    assert found.settings["length"] == 16


def test_whose_text_the_bundled_one_is_stands_beside_it(call, tmp_path, text):
    outcome = call("--output", "i.json", models=())
    assert Importance.load(tmp_path / "i.json").data["source"] == "bundled: texts written by the judge"
    assert "Bundled texts written by the judge, " in outcome.stdout
    assert bundled_importance().data["source"] == "bundled: texts written by the judge"
    assert "Held-out text, " in call("--data", text, "--output", "own.json").stdout


def test_text_becomes_blocks_that_begin_as_the_models_were_trained(tokenizer, text):
    blocks = held_out_blocks(
        text, tokenizer, length=16, count=100, begin_id=tokenizer.bos_token_id, end_id=tokenizer.eos_token_id
    )
    assert (blocks[:, 0] == tokenizer.bos_token_id).all()
    read = tokenizer.decode(blocks[:, 1:].ravel().tolist())
    whole = tokenizer.eos_token.join([*(part.strip("\n") for part in TEXTS * 3), ""])
    assert whole.startswith(read)
    assert len(whole) - len(read) < 16 * 8
    np.testing.assert_array_equal(
        held_out_blocks(
            text, tokenizer, length=16, count=2, begin_id=tokenizer.bos_token_id, end_id=tokenizer.eos_token_id
        ),
        blocks[:2],
    )


def test_a_prepared_folder_gives_its_validation_split(tmp_path, tokenizer, text):
    settings = PrepareSettings(block_length=12, frame="bos")
    source = [TextSource(str(text))]
    run_to_end(prepare(source, tmp_path / "data", tokenizer=tokenizer, settings=settings, validation=source))
    blocks = held_out_blocks(tmp_path / "data", tokenizer, length=8, count=3)
    assert blocks.shape == (3, 8)
    with pytest.raises(SettingError, match="blocks of 12 tokens"):
        held_out_blocks(tmp_path / "data", tokenizer, length=13, count=3)


def test_text_that_cannot_be_read(tmp_path, tokenizer):
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no UTF-8"):
        held_out_blocks(tmp_path / "bad.txt", tokenizer, length=8, count=1)
