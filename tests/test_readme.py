"""What README and the docs show a reader is true: code runs, options exist, files are there, figures have a source."""

import re
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "src/understudy/assets/demo/README.md"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands():
    """(verb, options) of every `understudy` command line in a shell block, continuation lines joined."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                match = re.match(r"(?:.*\s)?understudy (\w+)(.*)", line.split("#")[0])
                if match:
                    yield match[1], set(re.findall(r"(--[\w-]+|-n)\b", match[2]))


def test_there_are_commands_to_check():
    assert len(list(commands())) >= 7


@pytest.mark.parametrize(("verb", "options"), list(commands()))
def test_commands_name_options_that_exist(verb, options):
    from understudy.cli import app

    known = typer.main.get_command(app).commands[verb]
    assert options <= {name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, capsys):
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_sources_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for source in re.findall(r"`(results/[\w.-]+)`", text):
        assert (ROOT / source).exists(), source


def test_file_map_names_every_module():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = text[text.index("## What is where") : text.index("## What it refuses")]
    for path in sorted((ROOT / "src/understudy").iterdir()):
        if path.name in ("__init__.py", "__main__.py", "__pycache__", "py.typed", "assets"):
            continue
        assert f"`{path.name}/`" in listed or f"`{path.name}`" in listed, path.name
