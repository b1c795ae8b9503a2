import json

import pytest
import torch
from safetensors import SafetensorError

from understudy.checkpoint import checkpoint_folders, latest_checkpoint, read_checkpoint, write_checkpoint
from understudy.errors import ModelError


def write(folder, step, **options):
    files = {"weights": {"a": torch.full((3, 2), float(step))}, "ema": {"a": torch.zeros(1)}}
    return write_checkpoint(folder, step, files, {"note": f"at {step}"}, **options)


def test_checkpoint_comes_back(tmp_path):
    path = write(tmp_path, 7)
    assert path.name == "step-00000007"
    checkpoint = read_checkpoint(path)
    assert (checkpoint.step, checkpoint.record) == (7, {"note": "at 7"})
    assert torch.equal(checkpoint.tensors("weights")["a"], torch.full((3, 2), 7.0))
    with pytest.raises(ModelError, match="no readable 'moments'"):
        checkpoint.tensors("moments")


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 50, 500, 5000):
        write(tmp_path, step, keep=2)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000500", "step-00005000"]


def test_half_written_checkpoints_are_ignored_and_removed(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "step-00000002.partial").mkdir()
    assert latest_checkpoint(tmp_path)[0].step == 1
    write(tmp_path, 3)
    assert not list(tmp_path.glob("*.partial"))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip_last_bit, remove])
@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors", "state.json"])
def test_damage_is_found_and_the_one_before_is_used(tmp_path, damage, name):
    write(tmp_path, 1)
    damage(write(tmp_path, 2) / name)
    if damage is flip_last_bit and name == "state.json":
        pytest.skip("the last byte of a text file is white space")
    if damage is truncate and name == "state.json":
        (tmp_path / "step-00000002" / name).write_text('{"format_version": 1, "step"')
    checkpoint, problems = latest_checkpoint(tmp_path)
    assert checkpoint.step == 1
    assert len(problems) == 1
    assert "step-00000002" in problems[0]
    assert "damaged" in problems[0]


def test_nothing_to_go_on_from(tmp_path):
    assert latest_checkpoint(tmp_path / "none") == (None, [])
    (write(tmp_path, 1) / "state.json").unlink()
    checkpoint, problems = latest_checkpoint(tmp_path)
    assert checkpoint is None
    assert len(problems) == 1


def test_other_format_is_refused(tmp_path):
    path = write(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format_version": 99}))
    with pytest.raises(ModelError, match="format 99"):
        read_checkpoint(path)


def test_a_step_can_be_written_again(tmp_path):
    (write(tmp_path, 4) / "weights.safetensors").write_bytes(b"")
    write(tmp_path, 4)
    assert read_checkpoint(tmp_path / "step-00000004").step == 4


@pytest.mark.parametrize(
    "refusal", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_full_disk_leaves_the_older_checkpoint(tmp_path, monkeypatch, refusal):
    write(tmp_path, 1)

    def refuse(*_):
        raise refusal

    monkeypatch.setattr("understudy.checkpoint.save_file", refuse)
    with pytest.raises(ModelError, match="No space left"):
        write(tmp_path, 2)
    assert latest_checkpoint(tmp_path)[0].step == 1
