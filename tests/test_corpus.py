"""The same text from any kind of file, and one line for a file that has none."""

import json
import logging
import sys

import pytest

from prepared_text import DOCUMENTS, Texts, folder_bytes, run, small, small_bpe
from understudy.data import PrepareSettings, TextSource, held_out_blocks
from understudy.errors import DataError, SettingError


@pytest.fixture(scope="module")
def bpe():
    return small_bpe()


def write_corpora(folder, texts):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "txt").mkdir()
    for i, text in enumerate(texts):
        (folder / "txt" / f"{i:03d}.txt").write_text(text, encoding="utf-8")
    lines = (json.dumps({"n": i, "text": text}) + "\n" for i, text in enumerate(texts))
    (folder / "c [1]*.jsonl").write_text("".join(lines), encoding="utf-8")
    pq.write_table(pa.table({"n": list(range(len(texts))), "text": texts}), folder / "c.parquet", row_group_size=7)


def test_txt_jsonl_and_parquet_give_the_same_shards(bpe, tmp_path):
    texts = DOCUMENTS[:40]
    write_corpora(tmp_path, texts)
    (tmp_path / "txt" / "005b.txt").touch()
    outputs = []
    for location in ("txt", "c [1]*.jsonl", "c.parquet"):
        output = tmp_path / f"out-{location[-3:]}"
        run([TextSource(str(tmp_path / location))], output, tokenizer=bpe, settings=small())
        outputs.append({name: raw for name, raw in folder_bytes(output).items() if name.endswith(".npy")})
    run([Texts(texts)], tmp_path / "memory", tokenizer=bpe, settings=small())
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0]["train-00000.npy"] == (tmp_path / "memory" / "train-00000.npy").read_bytes()


def test_txt_by_document_paragraph_and_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n")
    assert list(TextSource(str(path)).documents()) == ["one\ntwo\n\nthree\n"]
    paragraphs = list(TextSource(str(path), sample_by="paragraph").documents())
    assert [text.strip() for text in paragraphs] == ["one\ntwo", "three"]
    assert list(TextSource(str(path), sample_by="line").documents()) == ["one", "two", "", "three"]


def test_null_rows_are_empty_documents(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"text": null}\n{"text": "y"}\n')
    assert list(TextSource(str(path)).documents()) == ["x", "", "y"]


def test_a_parquet_part_without_rows_is_passed_over(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, texts in (("0", ["a"]), ("1", []), ("2", ["b"])):
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), tmp_path / f"{name}.parquet")
    assert list(TextSource(str(tmp_path)).documents()) == ["a", "b"]


def test_text_that_utf8_cannot_hold_is_an_error(bpe, tmp_path):
    with pytest.raises(DataError, match="lone surrogates"):
        run([Texts(["broken \ud800"])], tmp_path, tokenizer=bpe)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"body": "x", "id": 1}\n', "no column 'text', only body, id"),
        ("a.jsonl", b'{"text": 7}\n', "holds int64, not text"),
        ("a.jsonl", b'{"text": "x"}\n{"text":\n', "cannot read"),
        ("a.parquet", b"PAR1 and nothing more", "cannot read"),
        ("a.txt", b"caf\xe9", "cannot read"),
        ("a.txt", b"", "got no text"),
        ("a.jsonl", b"", "got no text"),
        ("a.jsonl", b"\n", "got no text"),
        ("a.docx", b"x", "no known kind; allowed are .txt"),
    ],
)
def test_unusable_files_end_in_one_line(bpe, tmp_path, capfd, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        run([TextSource(str(tmp_path / name))], tmp_path / "out", tokenizer=bpe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert capfd.readouterr() == ("", "")


def test_missing_paths_and_wrong_options_are_errors(tmp_path):
    for location in ("gone.txt", str(tmp_path / "gone"), "a/b/c", "bad name"):
        with pytest.raises(DataError, match="no file"):
            TextSource(location)
    with pytest.raises(DataError, match="holds no text"):
        TextSource(str(tmp_path))
    with pytest.raises(SettingError, match="document, paragraph, line"):
        TextSource("owner/name", sample_by="page")
    assert TextSource("Skylion007/openwebtext").description()["dataset"] == "Skylion007/openwebtext"


def test_a_data_set_of_the_hub_is_read_by_its_name(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = {}

    def load_dataset(**arguments):
        asked.update(arguments)
        return datasets.Dataset.from_dict({"body": ["one", "two"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = TextSource("owner/name", text_column="body", config="en", split="test", revision="abc")
    assert list(source.documents()) == ["one", "two"]
    chosen = {"path": "owner/name", "name": "en", "split": "test", "revision": "abc"}
    assert asked == {**chosen, "streaming": True}


@pytest.mark.parametrize("kind", ["DatasetNotFoundError", "ConnectionError"])
def test_what_is_neither_a_file_nor_on_the_hub_is_one_line(bpe, monkeypatch, kind):
    datasets = pytest.importorskip("datasets")

    def refuse(**arguments):
        raise getattr(datasets.exceptions, kind, ConnectionError)("no such thing\nthere")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"'nofile' is no file here and cannot be read from the hub") as caught:
        held_out_blocks("nofile", bpe, length=8, count=1)
    assert "\n" not in str(caught.value)


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'understudy\[data\]'"):
        list(TextSource(str(tmp_path / "a.txt")).documents())


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_length": 2},
        {"block_length": 1, "frame": "bos"},
        {"layout": "loose"},
        {"frame": "eos"},
        {"layout": "padded", "frame": "bos"},
        {"validation_fraction": 0.0},
        {"validation_fraction": 0.7},
        {"validation_fraction": float("nan")},
        {"shard_blocks": 0},
        {"limit_documents": 0},
    ],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingError):
        PrepareSettings(**wrong)


def test_the_library_is_silenced_only_while_it_reads(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.txt").write_text("one\ntwo\nthree")
    logger = logging.getLogger("datasets")
    before = (logger.level, datasets.utils.are_progress_bars_disabled())
    documents = TextSource(str(tmp_path / "a.txt"), sample_by="line").documents()
    assert next(documents) == "one"
    assert (logger.level, datasets.utils.are_progress_bars_disabled()) == before
    documents.close()
