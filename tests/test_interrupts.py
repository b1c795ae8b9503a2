"""An interrupt of a long verb: one line that says what is kept and how to go on, which is then true."""

import json
import os
import signal
import sys

import pytest
from safetensors.torch import load_file

from prepared_text import DOCUMENTS
from stage import TEXTS, make_tokenizer, save_stage
from understudy import cli
from understudy.cli import interrupts
from understudy.cli import sample as sample_verb
from understudy.data import journal as data_journal
from understudy.record_journal import RecordJournal
from understudy.training import loop

GO_ON = "give the same command again to go on"


@pytest.fixture(autouse=True)
def interruptible():
    """What a terminal sends is heard, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


def signal_at(patch, step, *numbers):
    """Let signals reach this process in the optimizer step of that number, from 0."""
    original = loop._Run._step

    def signalled(self, number, *rest):
        if number == step:
            for which in numbers:
                os.kill(os.getpid(), which)
        return original(self, number, *rest)

    patch.setattr(loop._Run, "_step", signalled)


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


@pytest.fixture
def training(call, tmp_path):
    """The command of a small run, without its output."""
    (tmp_path / "text.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    assert call("prepare", "text.txt", "--train-tokenizer", 300, "--block-length", 16, "--output", "data")[0] == 0
    size = ("--hidden-size", 16, "--blocks", 1, "--heads", 2, "--batch-size", 4, "--validate-every", 0)
    return ("train", "--data", "data", *size, "--steps", 6)


def logged(folder):
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_training_with_a_checkpoint(call, training, monkeypatch, tmp_path, number, status, word):
    """No checkpoint is due by the settings, and yet nothing is lost: losses and weights to the last bit."""
    handlers = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    assert call(*training, "--log-every", 1, "--output", "whole")[0] == 0
    command = (*training, "--log-every", 1, "--output", "cut")
    with monkeypatch.context() as patch:
        signal_at(patch, 2, number)
        kept = f"the checkpoint of step 3 is kept in 'cut'; {GO_ON} from there"
        assert call(*command) == (status, f"understudy: {word}; {kept}")
    assert [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert call(*command)[0] == 0
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all((whole[name] == cut[name]).all() for name in whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_stops_training_at_once(call, training, monkeypatch, number, status):
    signal_at(monkeypatch, 2, signal.SIGTERM, number)
    found, line = call(*training, "--output", "run")
    assert found == status
    assert "; nothing is kept yet" in line


def test_of_several_processes_one_speaks(call, training, monkeypatch):
    signal_at(monkeypatch, 2, signal.SIGINT)
    monkeypatch.setattr(interrupts, "is_main_process", lambda: False)
    status, line = call(*training, "--output", "run")
    assert status == 130
    assert not line.startswith("understudy:")


def test_a_signal_that_is_ignored_stays_so(call, training, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signal_at(monkeypatch, 2, signal.SIGINT)
        assert call(*training, "--output", "run")[0] == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_in_the_last_step_changes_nothing(call, training, monkeypatch, tmp_path):
    signal_at(monkeypatch, 5, signal.SIGINT)
    assert call(*training, "--output", "run")[0] == 0
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_training_run_keeps_its_last_checkpoint(call, training, monkeypatch):
    command = (*training, "--output", "run", "--checkpoint-every", 2)
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


def test_sampling_to_a_file_says_that_nothing_is_kept(call, stage, monkeypatch, tmp_path):
    pair = ("--heavy", stage["heavy"], "--light", stage["light"], "--length", 8, "--steps", 8)
    monkeypatch.setattr(sample_verb, "run_with_bar", interrupted)
    kept = "nothing is kept, since samples are written when all are there; --ray keeps finished parts"
    assert call("sample", *pair, "--output", "s.jsonl") == (130, f"understudy: interrupted; {kept}")
    assert not list(tmp_path.iterdir())
    assert call("sample", *pair) == (130, "understudy: interrupted")


def interrupted(task):
    raise KeyboardInterrupt
