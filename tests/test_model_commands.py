"""The commands of docs/models.md, as written there, on a tiny pair made on the spot."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from masked_lms import LETTERS, save_masked_lm
from understudy.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
NAMES = {"roberta-large": "heavy", "distilroberta-base": "light"}
FASTER = {
    "--length 64": "--length 12",
    "--steps 64": "--steps 8",
    "H64": "H8",
    "L16,H48": "L2,H6",
    "L16,H32,L16": "L2,H4,L2",
}


def commands():
    block = re.search(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    return [line.removeprefix("understudy ") for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    save_masked_lm(folder / "heavy", layers=2)
    save_masked_lm(folder / "light", layers=1, seed=1)
    text = " ".join(LETTERS[(index * index) % 26] for index in range(400))
    (folder / "held-out.txt").write_text("\n\n".join([text] * 2))
    return folder


def test_the_pages_commands_run_one_after_the_other(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = []
    for line in commands():
        for name, other in {**NAMES, **FASTER}.items():
            line = line.replace(name, other)
        small = {
            "search": " --segments 4 --num-samples 2",
            "evaluate": " -n 4",
            "analyze": " --num-samples 4 --steps 8 --blocks 8",
        }
        verb = line.split(" ")[0]
        outcome = CliRunner().invoke(app, shlex.split(line + small.get(verb, "")))
        assert outcome.exit_code == 0, (line, outcome.output, outcome.exception)
        run.append(verb)
    assert run == ["sample", "analyze", "plan", "search", "evaluate"]
    assert {path.name for path in folder.glob("*.json")} == {"importance.json", "search.json"}
