"""An interrupt of a long verb: one line that says what is kept and how to go on, which is then true."""

import sys

import pytest

from prepared_text import DOCUMENTS
from stage import TEXTS, make_tokenizer, save_stage
from understudy import cli
from understudy.data import journal as data_journal
from understudy.record_journal import RecordJournal
from understudy.training import loop

GO_ON = "give the same command again to go on"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    (folder / "text.txt").write_text("\n\n".join(TEXTS * 3), encoding="utf-8")
    return {**save_stage(folder, make_tokenizer()), "text": folder / "text.txt"}


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in an empty folder: (status, its last line on standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        return leave.value.code, (capsys.readouterr().err.splitlines() or [""])[-1]

    return run


def interrupt_at(patch, owner, name, number):
    """Let the call of that number, from 1, of a function be answered by Ctrl-C."""
    original, calls = getattr(owner, name), []

    def counting(*arguments, **options):
        calls.append(name)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    patch.setattr(owner, name, counting)


def verbs(stage):
    pair = ("--heavy", stage["heavy"], "--light", stage["light"], "--length", 8)
    analysis = ("--steps", 8, "-n", 4, "--times", 2, "--blocks", 2, "--bins", 4, "--data", stage["text"])
    searching = ("--steps", 8, "--segments", 4, "-n", 2, "--judge", stage["judge"])
    return {
        "analyze": ("analyze", *pair, *analysis, "--output", "i.json"),
        "search": ("search", *pair, *searching, "--output", "s.json"),
    }


@pytest.mark.parametrize(("verb", "kept"), [("analyze", "i.json.partial.jsonl"), ("search", "s.jsonl")])
def test_finished_parts_are_kept(call, stage, monkeypatch, tmp_path, verb, kept):
    command = verbs(stage)[verb]
    with monkeypatch.context() as patch:
        interrupt_at(patch, RecordJournal, "put", 1)
        nothing = "nothing is kept yet, since no part of the work was finished"
        assert call(*command) == (130, f"understudy: interrupted; {nothing}")
    assert not (tmp_path / kept).exists()
    with monkeypatch.context() as patch:
        interrupt_at(patch, RecordJournal, "put", 3)
        assert call(*command) == (130, f"understudy: interrupted; what was finished is kept in '{kept}'; {GO_ON}")
    with monkeypatch.context() as patch:
        interrupt_at(patch, RecordJournal, "put", 100)
        assert call(*command)[0] == 0


def test_a_training_run_keeps_its_last_checkpoint(call, monkeypatch, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    assert call("prepare", "text.txt", "--train-tokenizer", 300, "--block-length", 16, "--output", "data")[0] == 0
    size = ("--hidden-size", 16, "--blocks", 1, "--heads", 2, "--batch-size", 4, "--validate-every", 0)
    command = ("train", "--data", "data", "--output", "run", *size, "--steps", 6, "--checkpoint-every", 2)
    with monkeypatch.context() as patch:
        interrupt_at(patch, loop._Run, "_step", 2)
        status, line = call(*command)
        assert (status, line.split(", since")[0]) == (130, "understudy: interrupted; nothing is kept yet")
        assert "--checkpoint-every" in line
    with monkeypatch.context() as patch:
        interrupt_at(patch, loop._Run, "_step", 6)
        kept = f"the checkpoint of step 4 is kept in 'run'; {GO_ON} from there"
        assert call(*command) == (130, f"understudy: interrupted; {kept}")
    with monkeypatch.context() as patch:
        interrupt_at(patch, loop._Run, "_step", 3)  # two steps are left
        assert call(*command)[0] == 0


def test_prepared_text_is_kept_from_the_first_shard_on(call, monkeypatch, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    options = ("--train-tokenizer", 300, "--block-length", 16, "--shard-blocks", 20, "--output", "data")
    command = ("prepare", "text.txt", *options)
    # The first note is of the tokenizer, unless it is there already; those after it are of shards.
    for note, kept in (
        (1, "nothing is kept yet"),
        (2, f"the tokenizer is kept in 'data'; {GO_ON}"),
        (2, f"what was written is kept in 'data'; {GO_ON}"),
    ):
        with monkeypatch.context() as patch:
            interrupt_at(patch, data_journal.Journal, "note", note)
            assert call(*command) == (130, f"understudy: interrupted; {kept}")
    assert call(*command)[0] == 0


def test_progress_is_told_in_lines_where_there_is_no_terminal(stage, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["understudy", *map(str, verbs(stage)["search"])])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7  # six schedules and the reference
    assert lines[0].startswith("H8: samples 0 to 1 measured; ")
    assert lines[-1].endswith(" passes (100%)")
