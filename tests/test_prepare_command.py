"""`understudy prepare` from the outside: what it writes, what it prints and where."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from understudy.cli.prepare import prepare_command
from understudy.data import TokenBlocks, load_blocks_tokenizer
from understudy.errors import DataError, SettingError

app = typer.Typer()
app.command()(prepare_command)

SENTENCES = [f"sentence {i} says that {'rain ' * (i % 9)}fell on day {i * i}" for i in range(80)]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(SENTENCES), encoding="utf-8")
    return path


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_json_is_one_document_and_says_what_is_on_disk(text, tmp_path):
    output = tmp_path / "out"
    arguments = (text, "--output", output, "--train-tokenizer", 300, "--block-length", 32, "--frame", "bos", "--json")
    document = json.loads(invoke(*arguments).stdout)
    blocks = TokenBlocks.open(output)
    assert document["splits"]["train"]["blocks"] == len(blocks)
    assert (document["vocab_size"], document["block_length"], document["frame"]) == (300, 32, "bos")
    assert document["output"] == str(output)
    ids = blocks[np.arange(len(blocks))][:, 1:].ravel()
    assert text.read_text(encoding="utf-8").startswith(load_blocks_tokenizer(output).decode(ids))
    again = json.loads(invoke(*arguments).stdout)
    assert {**again, "seconds": 0} == {**document, "seconds": 0}


def test_summary_names_every_split(text, tmp_path):
    held_out = tmp_path / "held-out.txt"
    held_out.write_text("\n".join(SENTENCES[:20]), encoding="utf-8")
    options = ("--train-tokenizer", 300, "--block-length", 16, "--sample-by", "line")
    result = invoke(text, "--output", tmp_path / "out", "--validation", held_out, *options)
    assert "train: 80 documents" in result.stdout
    assert "validation: 20 documents" in result.stdout
    assert "documents" not in result.stderr.replace(result.stdout, ""), "progress is transient"


def test_padded_blocks_take_a_line_each_and_a_tokenizer_is_reused(text, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    invoke(text, "--output", first, "--train-tokenizer", 300, "--block-length", 16)
    shape = ("--layout", "padded", "--block-length", 24, "--validation-fraction", 0.25, "--json")
    document = json.loads(invoke(text, "--output", second, "--tokenizer", first / "tokenizer", *shape).stdout)
    assert document["splits"]["train"]["blocks"] == 60
    assert document["splits"]["validation"]["blocks"] == 20
    TokenBlocks.open(second).check_tokenizer(load_blocks_tokenizer(first))


def test_lm1b_is_detokenized_where_asked(tmp_path):
    source = tmp_path / "lm1b.txt"
    source.write_text("\n".join(f"He did n't pay $ {i} , he 's late ( again ) ." for i in range(40)), encoding="utf-8")
    options = ("--train-tokenizer", 300, "--block-length", 16, "--frame", "none", "--sample-by", "line")
    output = tmp_path / "out"
    document = json.loads(invoke(source, "--output", output, *options, "--detokenize", "lm1b", "--json").stdout)
    assert document["settings"]["detokenize"] == "lm1b"
    blocks = TokenBlocks.open(output)
    text = load_blocks_tokenizer(output).decode(blocks[np.arange(len(blocks))].ravel())
    assert text.startswith("He didn't pay $0, he's late (again).<|endoftext|>He didn't pay $1,")


def test_other_settings_need_overwrite(text, tmp_path):
    base = (text, "--output", tmp_path / "out", "--train-tokenizer", 300, "--block-length")
    invoke(*base, 16)
    with pytest.raises(DataError, match="block_length was 16, now 32"):
        invoke(*base, 32)
    invoke(*base, 32, "--overwrite")
    assert TokenBlocks.open(tmp_path / "out").manifest.block_length == 32


@pytest.mark.parametrize("choice", [(), ("--tokenizer", "x", "--train-tokenizer", 300)])
def test_exactly_one_tokenizer_is_asked_for(text, tmp_path, choice):
    with pytest.raises(SettingError, match="either --tokenizer"):
        invoke(text, "--output", tmp_path / "out", *choice)
    assert not (tmp_path / "out").exists()


def test_missing_source_and_missing_column(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"body": "x"}\n')
    with pytest.raises(DataError, match="no file"):
        invoke(tmp_path / "gone.txt", "--output", tmp_path / "out", "--train-tokenizer", 300)
    with pytest.raises(DataError, match="no column 'text', only body"):
        invoke(rows, "--output", tmp_path / "out", "--train-tokenizer", 300)


def test_help_names_every_option():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    for option in ("--validation-fraction", "--layout", "--frame", "--sample-by", "--shard-blocks", "--json"):
        assert option in result.stdout


@pytest.mark.parametrize("own_tokenizer", [True, False])
@pytest.mark.parametrize("line", ['{"text": 12}', '{"text": "a', "", '{"other": "a"}'])
def test_a_failure_before_anything_was_done_leaves_nothing(text, tmp_path, line, own_tokenizer):
    first, source = tmp_path / "first", tmp_path / "source.jsonl"
    invoke(text, "--output", first, "--train-tokenizer", 300, "--block-length", 16)
    source.write_text(f"{line}\n" if line else "", encoding="utf-8")
    chosen = ("--tokenizer", first / "tokenizer") if own_tokenizer else ("--train-tokenizer", 300)
    options = (*chosen, "--block-length", 16)
    with pytest.raises(DataError):
        invoke(source, "--output", tmp_path / "new" / "out", *options)
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        invoke(source, "--output", tmp_path / "empty", *options)
    assert not list((tmp_path / "empty").iterdir())


def test_a_failure_later_on_leaves_what_was_done(tmp_path):
    good, bad, output = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "out"
    good.write_text("".join(json.dumps({"text": line}) + "\n" for line in SENTENCES * 20), encoding="utf-8")
    bad.write_text('{"text": 12}\n', encoding="utf-8")
    arguments = (good, bad, "--output", output, "--train-tokenizer", 300, "--tokenizer-characters", 1000)
    with pytest.raises(DataError):
        invoke(*arguments, "--block-length", 16, "--shard-blocks", 50)
    assert (output / "progress.json").is_file()
    assert (output / "tokenizer").is_dir()
