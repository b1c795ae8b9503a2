"""An evaluation as a file of JSON, written whole and read back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.errors import DataError
from understudy.whole_files import read_json, write_bytes

FORMAT = "understudy-evaluation-1"


def write_evaluation(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write `document` with its `format` first. DataError when the disk refuses."""
    text = json.dumps({"format": FORMAT, **document}, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(Path(path), (text + "\n").encode("utf-8", "backslashreplace"))


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """Read a file of `understudy evaluate --output`.

    A comparison has a list under `schedules`; a file of samples that was scored has its figures at the top and its
    path under `samples`. DataError for a file that is missing, damaged, of another format or without either.
    """
    document = read_json(Path(path), mend=f"write one by `understudy evaluate --output {path}`")
    if document.get("format") != FORMAT:
        raise DataError(
            f"{str(path)!r} has format {document.get('format')!r}, this version reads {FORMAT!r}; evaluate again"
        )
    rows = document.get("schedules", [document])
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "gen_ppl" in row for row in rows):
        raise DataError(f"{str(path)!r} holds no scores; it is damaged, evaluate again with --output")
    return document
