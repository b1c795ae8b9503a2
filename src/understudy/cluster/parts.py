"""Finished stretches of samples, kept as they come: in memory, or in a folder, so that a job that was cut off goes on.

job.json            what is computed; a folder of another job is an error, not a start
2-64-128.npz        arrays of samples 64 … 127 of set 2, written whole or not at all; nothing is ever unpickled
"""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataError, SettingError
from understudy.whole_files import make_folder, read_json, write_bytes, write_json

Arrays: TypeAlias = dict[str, NDArray[Any]]

FORMAT = "understudy-parts-1"
UNITS_PER_WORKER = 2  # at least, so that nobody waits long for the last one
MOST_BATCHES = 2  # in a unit: more keep a batch full for longer, fewer lose less with a worker
JOB_FILE, PART_NAME = "job.json", re.compile(r"(\d+)-(\d+)-(\d+)\.npz")


def stretch_size(totals: Sequence[int], batch_size: int, workers: int, *, multiple: int = 1) -> int:
    """Samples of a unit: as many as fill two batches, fewer where workers would have nothing to do; a multiple.

    totals: samples of each set that is to be cut into such units.
    """
    fair = -(-sum(totals) // (UNITS_PER_WORKER * workers))
    wanted = max(1, min(fair, MOST_BATCHES * batch_size))
    return -(-wanted // multiple) * multiple


class FinishedParts:
    """Arrays by set and stretch (first, end) of its samples. A job has several sets, such as schedules, from 0 on.

    folder: made with the first part; None keeps everything in memory. job: plain values that say what is computed.
    SettingError for a folder that belongs to another job, DataError for one that holds something else.
    """

    def __init__(self, folder: Path | None = None, job: Mapping[str, Any] | None = None) -> None:
        self._folder, self._job = folder, json.loads(json.dumps(job or {}))
        self._kept: dict[tuple[int, int, int], Arrays | Path] = {}
        if folder is not None and folder.exists():
            self._open(folder)

    def put(self, number: int, first: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep a stretch of a set; on disk before this returns. DataError when the disk refuses."""
        # Copies: what comes out of Ray lies in memory that is shared, and would be held there.
        own = {name: np.array(values) for name, values in arrays.items()}
        if self._folder is None:
            self._kept[number, first, end] = own
            return
        if not self._kept:
            make_folder(self._folder)
            write_json(self._folder / JOB_FILE, {"format": FORMAT, "job": self._job})
        buffer = io.BytesIO()
        np.savez(buffer, **own)  # type: ignore[arg-type]  # its other argument is a bool
        path = self._folder / f"{number}-{first}-{end}.npz"
        write_bytes(path, buffer.getvalue())
        self._kept[number, first, end] = path

    def gaps(self, number: int, total: int, size: int) -> Iterator[tuple[int, int]]:
        """Stretches of samples 0 … total − 1 of a set that are missing, cut at multiples of `size`."""
        at = 0
        for first, end in [*self.stretches(number), (total, total)]:
            while at < first:
                cut = min(first, (at // size + 1) * size)
                yield at, cut
                at = cut
            at = max(at, end)

    def joined(self, number: int) -> Arrays:
        """All arrays of a set, stretches in the order of their samples."""
        keys = sorted(key for key in self._kept if key[0] == number)
        parts = [self._read(self._kept[key]) for key in keys]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def stretches(self, number: int) -> list[tuple[int, int]]:
        """Stretches of a set that are finished."""
        return sorted((first, end) for own, first, end in self._kept if own == number)

    def discard(self) -> None:
        """Remove the folder: what came of it is elsewhere."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self, folder: Path) -> None:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["?"]
        parts = [match for name in names if (match := PART_NAME.fullmatch(name))]
        strange = [name for name in names if name != JOB_FILE and not name.endswith(".partial")]
        if len(strange) > len(parts) or (parts and JOB_FILE not in names):
            raise DataError(f"{str(folder)!r} is there and holds no parts of a job; remove it, or name another output")
        if not parts:
            return
        content = read_json(folder / JOB_FILE, mend="remove the folder, or name another output")
        job = content.get("job") if content.get("format") == FORMAT else None
        if not isinstance(job, dict):
            raise DataError(
                f"{str(folder)!r} holds no parts that this version reads; remove it, or name another output"
            )
        differing = sorted(name for name in {*job, *self._job} if job.get(name) != self._job.get(name))
        if differing:
            raise SettingError(
                f"{str(folder)!r} belongs to a job with another {', '.join(differing)}; give the same settings to go "
                "on with it, remove it, or name another output"
            )
        for match in parts:
            number, first, end = (int(text) for text in match.groups())
            self._kept[number, first, end] = folder / match[0]
        places = sorted(self._kept)
        if any(one[0] == other[0] and one[2] > other[1] for one, other in pairwise(places)):
            raise DataError(f"{str(folder)!r} holds samples twice, as of two commands at once; remove it")

    def _read(self, kept: Arrays | Path) -> Arrays:
        if not isinstance(kept, Path):
            return kept
        try:
            with np.load(kept, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{str(kept)!r} is damaged; remove it and give the command again") from error
