"""The help: every verb explains itself, and the front page stays as it was agreed on.

`tests/snapshots/help.txt` is what `understudy --help` shows on a page of 100 characters. After a wanted change, write
it anew and look at the difference before it is committed:

    python tests/test_help.py

Releases of typer draw boxes, name types and break lines in their own ways; the words and their order are compared.
"""

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
import typer

from understudy import cli

SNAPSHOT = Path(__file__).parent / "snapshots" / "help.txt"
VERBS = sorted(cli.COMMANDS)
COMMAND = typer.main.get_command(cli.app)


def show(*arguments, columns):
    """What the command shows on a page of so many characters, without colours."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(columns)}),
        mock.patch.object(sys, "argv", ["understudy", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as leave,
    ):
        cli.main()
    assert (leave.value.code, err.getvalue()) == (0, "")
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def words(page):
    """The words of a page in order: no boxes, no names of types, no lines."""
    return re.sub(r"[─-╿|+]|<[\w\[\]]+>|\b(TEXT|INTEGER|FLOAT|PATH)\b", " ", page).split()


def test_front_page_is_the_one_agreed_on():
    assert words(show("--help", columns=100)) == words(SNAPSHOT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_named_and_explained(verb):
    page = set(words(show(verb, "--help", columns=160)))
    for parameter in COMMAND.commands[verb].params:
        assert parameter.help, f"{parameter.name} has no help"
        assert set(words(parameter.help)) <= page, f"the help of {parameter.name} is not shown"
        if parameter.param_type_name == "option":
            assert set(parameter.opts) <= page, f"{parameter.name} is not shown"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does_in_80_characters(verb):
    page = show(verb, "--help", columns=80)
    purpose, *_ = cli.COMMANDS[verb].__doc__.split("\n")
    assert " ".join(words(purpose)) in " ".join(words(page))
    assert max(map(len, page.splitlines())) <= 80


if __name__ == "__main__":
    SNAPSHOT.write_text(show("--help", columns=100), encoding="utf-8")
