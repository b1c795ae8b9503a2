"""Files and folders are there whole or not at all."""

import json

import numpy as np
import pytest

from understudy import whole_files
from understudy.errors import DataError
from understudy.whole_files import (
    check_folder,
    check_writable,
    file_sha256,
    make_folder,
    publish_folder,
    read_json,
    write_array,
    write_bytes,
    write_json,
    write_json_lines,
    write_together,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_reads_back(tmp_path):
    digest = write_array(tmp_path / "a.npy", np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
    assert file_sha256(tmp_path / "a.npy") == digest
    write_json(tmp_path / "b.json", {"ü": [1]})
    assert read_json(tmp_path / "b.json", mend="never mind") == {"ü": [1]}
    write_json_lines(tmp_path / "c.jsonl", ({"i": i} for i in range(2)))
    assert [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()] == [{"i": 0}, {"i": 1}]
    write_bytes(tmp_path / "c.jsonl", b"over")
    assert (tmp_path / "c.jsonl").read_bytes() == b"over"
    assert names(tmp_path) == ["a.npy", "b.json", "c.jsonl"]


def test_files_written_together_come_together_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "1").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(whole_files.os, "fsync", full_at_the_third())
        with pytest.raises(DataError, match=r"cannot write .*3'.*No space left.*make room"):
            write_together({tmp_path / name: b"new" for name in "1234"})
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1").read_bytes() == b"old"
    write_together({tmp_path / name: b"new" for name in "12"})
    assert names(tmp_path) == ["1", "2"]
    assert (tmp_path / "1").read_bytes() == b"new"


def full_at_the_third():
    """A disk that refuses the third file that is flushed to it."""
    descriptors = []

    def fsync(descriptor):
        descriptors.append(descriptor)
        if len(descriptors) == 3:
            raise OSError(28, "No space left on device")

    return fsync


def test_rows_that_fail_on_the_way_leave_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    with pytest.raises(DataError, match="No space left"):
        write_json_lines(path, broken_rows())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["rows.jsonl"]


def broken_rows():
    yield {"i": 0}
    raise OSError(28, "No space left on device")


def test_a_folder_is_published_with_all_in_it(tmp_path):
    partial, final = tmp_path / "x.partial", tmp_path / "x"
    for folder, content in ((final, "old"), (partial, "new")):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text(content)
    (final / "stale").write_text("")
    publish_folder(partial, final)
    assert names(tmp_path) == ["x"]
    assert names(final) == ["deep"]
    assert (final / "deep" / "file").read_text() == "new"


@pytest.mark.parametrize("content", ["", "[1]", "{", "\ud800"])
def test_what_is_no_json_object_says_how_to_mend_it(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=r"a\.json.*: do it anew"):
        read_json(tmp_path / "a.json", mend="do it anew")


def test_a_missing_file_is_not_called_damaged(tmp_path):
    for path in (tmp_path / "gone.json", tmp_path):
        with pytest.raises(DataError, match=r"^there is no file '[^']*'; do it anew$"):
            read_json(path, mend="do it anew")


def test_places_that_cannot_be_written_are_noticed_before(tmp_path):
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "new")
    check_folder(tmp_path / "new" / "deep")
    make_folder(tmp_path / "new" / "deep")
    make_folder(tmp_path / "new" / "deep")
    assert (tmp_path / "new" / "deep").is_dir()
    with pytest.raises(DataError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        check_writable(tmp_path / "gone" / "file")
    for refuse in (check_folder, make_folder):
        with pytest.raises(DataError, match="name another"):
            refuse(tmp_path / "file" / "deep")
