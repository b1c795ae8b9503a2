"""Checkpoints on disk: folders that are there whole or not at all, and that are checked before they are used.

    checkpoints/step-00000500/weights.safetensors      any number of tensor files
                              state.json               step, the caller's record, size and SHA-256 of each file

Written as `step-00000500.partial`, flushed to disk, then renamed. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from understudy.errors import ModelError, one_line
from understudy.whole_files import file_sha256, publish_folder

FORMAT_VERSION = 1
STATE_FILE = "state.json"
STEP_FOLDER = re.compile(r"step-(\d{8,})")
PARTIAL = ".partial"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is on disk, whole: `step` optimizer steps done, and the caller's JSON `record`."""

    path: Path
    step: int
    record: Mapping[str, Any]

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Read `name`.safetensors onto the CPU. ModelError when it is not there or cannot be read."""
        try:
            return load_file(self.path / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"checkpoint {str(self.path)!r} holds no readable {name!r} ({error})") from error


def write_checkpoint(
    folder: Path, step: int, files: Mapping[str, Tensors], record: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write the tensors of `files` (by file name without ending) and `record` as the checkpoint of `step`.

    Then all but the newest `keep` (at least 1) checkpoints are removed, and what interrupted runs left half written.
    Gives the new folder. ModelError when the disk refuses; older checkpoints are then still there.
    """
    final = folder / f"step-{step:08d}"
    partial = final.with_name(final.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in files.items():
            _save_tensors(partial / f"{name}.safetensors", tensors)
        _save_state(partial, step, record)
        # A folder of that name can only be one that was found damaged, or that a resumed run overtakes.
        publish_folder(partial, final)
        _prune(folder, keep)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ModelError(
            f"cannot write checkpoint {str(final)!r}: {reason}; make room and run again to go on"
        ) from error
    return final


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint's files against its own list of sizes and SHA-256. ModelError says what is wrong."""
    try:
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        if state["format_version"] != FORMAT_VERSION:
            raise ModelError(f"checkpoint {str(path)!r} has format {state['format_version']}, not {FORMAT_VERSION}")
        for name, expected in state["files"].items():
            _check_file(path / name, expected)
        return Checkpoint(path, int(state["step"]), state["record"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"checkpoint {str(path)!r} is damaged ({type(error).__name__}: {error})") from error


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Give the newest whole checkpoint, or None, and one sentence about each newer one that is damaged."""
    problems: list[str] = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            return read_checkpoint(path), problems
        except ModelError as error:
            problems.append(str(error))
    return None, problems


def checkpoint_folders(folder: Path) -> list[Path]:
    """Finished checkpoints in `folder`, oldest first; whether they are whole is not looked at."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def file_record(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _save_tensors(path: Path, tensors: Tensors) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _save_state(partial: Path, step: int, record: Mapping[str, Any]) -> None:
    files = {path.name: file_record(path) for path in sorted(partial.iterdir())}
    state = {"format_version": FORMAT_VERSION, "step": step, "record": record, "files": files}
    (partial / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _prune(folder: Path, keep: int) -> None:
    for path in checkpoint_folders(folder)[:-keep]:
        shutil.rmtree(path)
    for path in folder.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(path)


def _check_file(path: Path, expected: Mapping[str, Any]) -> None:
    # The size first: it finds what a crash truncates without reading gigabytes.
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(f"{path.name} has {size} bytes instead of {expected['bytes']}")
    if file_sha256(path) != expected["sha256"]:
        raise ValueError(f"{path.name} has changed")
