import json
import re

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from understudy.cli.train import train_command
from understudy.data import BpeRecipe, PrepareSettings, TextSource, prepare
from understudy.errors import SettingError

SIZE = ["--hidden-size", "16", "--blocks", "2", "--heads", "2", "--steps", "6", "--batch-size", "8"]
RECIPE = ["--warmup", "2", "--lr", "1e-2", "--ema", "0.9", "--log-every", "2", "--checkpoint-every", "3"]
VALIDATION = ["--validate-every", "6", "--validation-blocks", "8", "--validation-times", "4", "--num-samples", "2"]
OPTIONS = [*SIZE, *RECIPE, *VALIDATION]

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "over", "hill"]

app = typer.Typer()
app.command()(train_command)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    words = np.random.default_rng(0).choice(
        ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "ran", "over", "a", "hill"], (300, 12)
    )
    (folder / "text.txt").write_text("\n\n".join(" ".join(row) for row in words))
    source = TextSource(str(folder / "text.txt"), sample_by="paragraph")
    settings = PrepareSettings(block_length=16, validation_fraction=0.1)
    for _ in prepare([source], folder / "blocks", tokenizer=BpeRecipe(280), settings=settings):
        pass
    return folder / "blocks"


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_json_is_one_document_and_the_folder_a_model(tmp_path, blocks, objective):
    output = tmp_path / "model"
    options = [*OPTIONS, "--objective", objective, "--sample-every", "6"]
    result = invoke("--data", blocks, "--output", output, *options, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document.keys() == {"output", "step", "loss", "validation", "tokens", "tokens_per_second", "seconds"}
    assert (document["step"], document["tokens"]) == (6, 6 * 8 * 16)
    assert document["validation"]["perplexity"] > 1
    names = {path.name for path in output.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "training.json", "log.jsonl", "checkpoints"}
    assert not any(name.endswith(".partial") for name in names)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert len(lines[-1]["samples"]) == 2
    assert "step 6: validation" in result.stderr
    told = [line for line in result.stderr.splitlines() if ": loss " in line]
    assert [line.split(":")[0] for line in told] == ["step 2/6", "step 3/6", "step 4/6", "step 6/6"]


def test_second_call_says_that_it_is_finished(tmp_path, blocks):
    arguments = ("--data", blocks, "--output", tmp_path / "model", *OPTIONS)
    first, second = invoke(*arguments), invoke(*arguments)
    assert re.search(r"model after 6 steps, 768 tokens, validation \d\.\d+ nats per token", first.stdout)
    assert second.exit_code == 0
    assert "is finished" in second.stderr.replace("\n", " ")


def test_other_settings_are_an_error(tmp_path, blocks):
    arguments = ("--data", blocks, "--output", tmp_path / "model", *OPTIONS)
    invoke(*arguments)
    result = invoke(*arguments, "--seed", 2)
    assert isinstance(result.exception, SettingError)
    assert "seed was 1, now 2" in str(result.exception)


def test_help_names_every_option():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    for option in ("--data", "--micro-batch", "--compile", "--validate-every", "--keep", "--json"):
        assert option in result.output
