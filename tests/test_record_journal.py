"""The journal of a long job: nothing of it is lost, and nothing that is not its own."""

import pytest

from understudy.errors import DataError, SettingError
from understudy.record_journal import RecordJournal

JOB = {"seed": 0, "lengths": (1, 2)}


def written(path, units=("a", "b"), job=JOB):
    journal = RecordJournal(path, job)
    for unit in units:
        journal.put(unit, {"of": unit})
    return path


def test_units_come_back(tmp_path):
    journal = RecordJournal(written(tmp_path / "j"), JOB)
    assert (len(journal), journal["a"], "b" in journal, "c" in journal) == (2, {"of": "a"}, True, False)


def test_a_line_that_was_cut_off_is_dropped_and_written_again(tmp_path):
    path = written(tmp_path / "j")
    whole = path.read_bytes()
    for end in range(len(whole) - 1, whole.rfind(b"\n", 0, -1), -1):
        path.write_bytes(whole[:end])
        journal = RecordJournal(path, JOB)
        assert len(journal) == 1
        journal.put("b", {"of": "b"})
        assert path.read_bytes() == whole


@pytest.mark.parametrize("length", range(30))
def test_a_job_that_was_killed_in_its_first_line_begins_anew(tmp_path, length):
    path = written(tmp_path / "j", units=["a"])
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    RecordJournal(path, JOB).put("a", {"of": "a"})
    assert path.read_bytes() == whole


def test_another_job_is_refused_by_name_once_it_has_units(tmp_path):
    path = written(tmp_path / "j")
    with pytest.raises(SettingError, match="another seed"):
        RecordJournal(path, {**JOB, "seed": 1})
    assert path.read_bytes() == written(tmp_path / "k").read_bytes()
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])  # a refused command leaves no more than this
    RecordJournal(path, {**JOB, "seed": 1}).put("a", 1)
    assert len(RecordJournal(path, {**JOB, "seed": 1})) == 1


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"a": 1}\n{"b": 2}', '{"job": 3}\n', "[1]\n", "\n"])
def test_other_files_stay_as_they_are(tmp_path, content):
    path = tmp_path / "notes.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="no journal of a job"):
        RecordJournal(path, JOB)
    assert path.read_text() == content


def test_nothing_is_written_before_a_unit_is_done(tmp_path):
    RecordJournal(tmp_path / "j", JOB)
    assert not (tmp_path / "j").exists()


def test_a_disk_that_refuses(tmp_path):
    with pytest.raises(DataError, match="cannot write"):
        RecordJournal(tmp_path / "no" / "j", JOB).put("a", 1)
