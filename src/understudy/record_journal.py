"""Results of a long job on disk as they come: one JSON object a line, so that a job that was cut off goes on.

The first line says what job it is; a file of another job is an error, not a start.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.errors import DataError, SettingError


class RecordJournal:
    """Finished units of one job, by name: in memory, and in a file where a path is given.

    path: a JSON lines file, made if need be; None keeps everything in memory. job: plain values that say what is
    computed; a file whose first line says otherwise is a SettingError. A last line that was cut off is dropped.
    DataError where the file cannot be read or written.
    """

    def __init__(self, path: Path | None, job: Mapping[str, Any]) -> None:
        self._path = path
        self._units: dict[str, Any] = {}
        self._job = json.loads(json.dumps(job))
        if path is not None:
            self._open(path)

    def __contains__(self, unit: str) -> bool:
        return unit in self._units

    def __getitem__(self, unit: str) -> Any:
        return self._units[unit]

    def __len__(self) -> int:
        return len(self._units)

    def put(self, unit: str, result: Any) -> None:
        """Keep the result, plain values, of a unit; on disk before this returns."""
        self._units[unit] = json.loads(json.dumps(result))
        self._append({"unit": unit, "result": result})

    def _open(self, path: Path) -> None:
        try:
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:  # killed while the last line was written
                os.truncate(path, len(whole))
        except OSError as error:
            raise DataError(f"cannot read {str(path)!r} ({error.strerror or error}); name another file") from error
        if whole:
            self._read(path, whole.splitlines())
        else:
            self._append({"job": self._job})

    def _read(self, path: Path, lines: list[bytes]) -> None:
        try:
            first, *rest = (json.loads(line) for line in lines)
            job = first["job"]
            self._units = {row["unit"]: row["result"] for row in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{str(path)!r} is no journal of a job ({error!r}); name another file") from error
        if job != self._job:
            differing = [name for name in {*job, *self._job} if job.get(name) != self._job.get(name)]
            raise SettingError(
                f"{str(path)!r} belongs to a job with another {', '.join(sorted(differing))}; "
                "give the same settings to go on with it, or name another file"
            )

    def _append(self, row: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {str(self._path)!r}: {error.strerror or error}; name another") from error
