"""Files and folders that are there whole or not at all: written under a temporary name beside it, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from understudy.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Fill = Callable[[IO[bytes]], object]


def write_array(path: Path, values: NDArray[Any]) -> str:
    """Write `values` to `path` in numpy's format; returns the file's SHA-256. DataError when the disk refuses."""
    _write(path, lambda file: np.save(file, values, allow_pickle=False))
    return file_sha256(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path` as JSON. DataError when the disk refuses."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8"))


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line. DataError when the disk refuses."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # Lone surrogates, as in the name of a folder that is no UTF-8, have no bytes; their escape is JSON's too.
    _write(path, lambda file: file.writelines(line.encode("utf-8", "backslashreplace") for line in lines))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`. DataError when the disk refuses."""
    _write(path, _content(content))


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files; none gets its name before all are on disk. DataError when the disk refuses."""
    _write_all({path: _content(content) for path, content in contents.items()})


def check_writable(path: Path) -> None:
    """Raise DataError where a file could not be written later, before any work is done."""
    if path.is_dir():
        raise DataError(f"cannot write {str(path)!r}: it is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"cannot write {str(path)!r}: the folder may not be written to; name another")


def check_folder(folder: str | Path) -> None:
    """Raise DataError where `folder` could not be made or written to later, before any work is done."""
    path = Path(folder).absolute()
    present = next(parent for parent in (path, *path.parents) if parent.exists())
    if not present.is_dir() or not os.access(present, os.W_OK):
        raise DataError(f"cannot write to {str(folder)!r}: {present} is no folder that may be written; name another")


def make_folder(folder: Path) -> None:
    """Make `folder` where it is not there yet, and those that it lies in. DataError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {str(folder)!r}: {error.strerror or error}; name another") from error


def publish_folder(partial: Path, final: Path) -> None:
    """Make all in `partial` durable, then rename it to `final`, in place of what had that name.

    OSError when the disk refuses.
    """
    for path in (partial, *partial.rglob("*")):
        (sync_folder if path.is_dir() else sync_file)(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    sync_folder(final.parent)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; where a system cannot open folders, that is left to it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, *, mend: str) -> dict[str, Any]:
    """The JSON object in `path`. DataError, with what `mend` says to do about it, when there is none."""
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}; {mend}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} is damaged ({error}): {mend}") from error
    if not isinstance(content, dict):
        raise DataError(f"{str(path)!r} holds no JSON object: {mend}")
    return content


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(content: bytes) -> Fill:
    return lambda file: file.write(content)


def _write(path: Path, fill: Fill) -> None:
    _write_all({path: fill})


def _write_all(fills: Mapping[Path, Fill]) -> None:
    partials = {path: path.with_name(f".{path.name}.partial") for path in fills}
    path = next(iter(fills))
    try:
        for path, fill in fills.items():
            with partials[path].open("wb") as file:
                fill(file)
                # Without it, a power cut after the rename can leave an empty file under the final name.
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            partial.replace(path)
        for folder in {path.parent for path in fills}:
            sync_folder(folder)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write {str(path)!r}: {reason}; make room or name another place") from error
    finally:  # whatever ended it, an interrupt too
        for partial in partials.values():
            partial.unlink(missing_ok=True)
