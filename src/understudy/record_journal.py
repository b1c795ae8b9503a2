"""Results of a long job on disk as they come: one JSON object a line, so that a job that was cut off goes on.

The first line says what job it is; a file of another job is an error, not a start.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.errors import DataError, SettingError

_HEADER = b'{"job": '  # what the first line begins with


class RecordJournal:
    """Finished units of one job, by name: in memory, and in a file where a path is given.

    path: a JSON lines file, made with the first unit; None keeps everything in memory. job: plain values that say what
    is computed; a file whose first line says otherwise is a SettingError, unless it holds no unit yet. A last line that
    was cut off is dropped. DataError where the file is no journal, which is then left as it is, or the disk refuses.
    """

    def __init__(self, path: Path | None, job: Mapping[str, Any]) -> None:
        self._path = path
        self._units: dict[str, Any] = {}
        self._job = json.loads(json.dumps(job))
        self._is_begun = False
        if path is not None and path.exists():
            self._open(path)

    def __contains__(self, unit: str) -> bool:
        return unit in self._units

    def __getitem__(self, unit: str) -> Any:
        return self._units[unit]

    def __len__(self) -> int:
        return len(self._units)

    def put(self, unit: str, result: Any) -> None:
        """Keep the result, plain values, of a unit; on disk before this returns."""
        row = {"unit": unit, "result": result}
        self._append(*([] if self._is_begun else [{"job": self._job}]), row)
        self._units[unit] = json.loads(json.dumps(result))
        self._is_begun = True

    def _open(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {str(path)!r} ({error.strerror or error}); name another file") from error
        whole = content[: content.rfind(b"\n") + 1]
        job = self._read(path, whole.splitlines()) if whole else {}
        if not whole and not _HEADER.startswith(content[: len(_HEADER)]):
            raise DataError(f"{str(path)!r} is there and is no journal of a job; name another file")
        if self._units and job != self._job:
            differing = sorted(name for name in {*job, *self._job} if job.get(name) != self._job.get(name))
            raise SettingError(
                f"{str(path)!r} belongs to a job with another {', '.join(differing)}; give the same settings to go on "
                "with it, remove it, or name another file"
            )
        self._is_begun = bool(self._units)
        self._cut(path, len(whole) if self._units else 0, len(content))

    def _read(self, path: Path, lines: list[bytes]) -> dict[str, Any]:
        """Take the units over; gives the job."""
        try:
            first, *rest = (json.loads(line) for line in lines)
            job: dict[str, Any] = {**first["job"]}
            self._units = {str(row["unit"]): row["result"] for row in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{str(path)!r} is no journal of a job ({error!r}); name another file") from error
        return job

    def _cut(self, path: Path, kept: int, length: int) -> None:
        """Drop what was not written to its end: the last line, or a first one that nothing follows."""
        if kept == length:
            return
        try:
            os.truncate(path, kept)
        except OSError as error:
            raise DataError(f"cannot write {str(path)!r}: {error.strerror or error}; name another") from error

    def _append(self, *rows: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {str(self._path)!r}: {error.strerror or error}; name another") from error
