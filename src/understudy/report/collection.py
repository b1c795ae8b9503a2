"""Files that a report is made from: found by what they hold, and read."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from understudy import costs, evaluation
from understudy.costs import CostTable
from understudy.errors import DataError
from understudy.importance import Importance
from understudy.importance import record as importance_record
from understudy.planning import Plan
from understudy.planning import plan as plan_record
from understudy.report.compared import SavedComparison, SavedScores, load_scores
from understudy.report.sample_files import SampleFile
from understudy.search import SearchResult
from understudy.search import result as search_record

T = TypeVar("T")
SAMPLES = "samples"
READERS: dict[str, Callable[[Path], Any]] = {
    importance_record.FORMAT: Importance.load,
    importance_record.WITHOUT_HALVES: Importance.load,
    plan_record.FORMAT: Plan.load,
    search_record.FORMAT: SearchResult.load,
    evaluation.FORMAT: load_scores,
    costs.FORMAT: CostTable.load,
    SAMPLES: SampleFile.load,
}
WANTED = "a report is made from what analyze, plan, search, evaluate, bench and sample write with --output"


@dataclass(frozen=True)
class Source(Generic[T]):
    """What a file holds, under its name relative to the folder."""

    name: str
    content: T


@dataclass(frozen=True)
class Collection:
    """The files of a folder by kind, each kind in the order of names. unread: others, with the reason."""

    folder: Path
    importances: tuple[Source[Importance], ...]
    plans: tuple[Source[Plan], ...]
    searches: tuple[Source[SearchResult], ...]
    comparisons: tuple[Source[SavedComparison], ...]
    scores: tuple[Source[SavedScores], ...]
    costs: tuple[Source[CostTable], ...]
    samples: tuple[Source[SampleFile], ...]
    unread: tuple[tuple[str, str], ...]

    @property
    def num_files(self) -> int:
        """How many files were read."""
        return sum(len(getattr(self, field.name)) for field in fields(self) if field.name not in ("folder", "unread"))

    @property
    def models(self) -> tuple[str, ...]:
        """Keys of all models, each once, the costliest first as far as the files say so."""
        orders = [
            *(source.content.models for source in self.comparisons),
            *(source.content.models for source in self.searches),
            *(tuple(source.content.models) for source in self.importances),
            *(source.content.keys for source in self.plans),
            *(source.content.models for source in self.samples),
        ]
        return tuple(dict.fromkeys(key for order in orders for key in order))


def collect(folder: str | Path, *, leave_out: Sequence[Path] = ()) -> Collection:
    """Read all files in a folder and in the folders directly inside it that a report can show.

    leave_out: files, and folders with all that is in them, that do not count: the report itself. Hidden files do not
    count either. DataError where the folder cannot be read or holds none of them, and for a file that is damaged.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{str(folder)!r} is no folder; {WANTED}, so give the folder that they wrote to")
    found: list[Source[Any]] = []
    unread: list[tuple[str, str]] = []
    left_out = {path.absolute() for path in leave_out}
    for path in _files(root, left_out):
        name = path.relative_to(root).as_posix()
        kind = "a folder in a folder" if path.is_dir() else _kind(path)
        if kind in READERS:
            found.append(Source(name, READERS[kind](path)))
        else:
            unread.append((name, kind))
    if not found:
        raise DataError(f"{str(folder)!r} holds nothing to report; {WANTED}, so let one of them write there")
    return Collection(
        folder=root,
        importances=_of(found, Importance),
        plans=_of(found, Plan),
        searches=_of(found, SearchResult),
        comparisons=_of(found, SavedComparison),
        scores=_of(found, SavedScores),
        costs=_of(found, CostTable),
        samples=_of(found, SampleFile),
        unread=tuple(unread),
    )


def _of(found: Sequence[Source[Any]], kind: type[T]) -> tuple[Source[T], ...]:
    return tuple(source for source in found if isinstance(source.content, kind))


def _files(root: Path, left_out: set[Path]) -> Iterator[Path]:
    """Files in the folder, then those of each folder in it; a folder deeper down as itself."""
    inside = _listed(root, left_out)
    yield from (path for path in inside if not path.is_dir())
    for folder in (path for path in inside if path.is_dir()):
        yield from _listed(folder, left_out)


def _listed(folder: Path, left_out: set[Path]) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(
            f"the folder {str(folder)!r} cannot be read ({error.strerror}); allow it, or move it"
        ) from error
    return [path for path in entries if not path.name.startswith(".") and path.absolute() not in left_out]


def _kind(path: Path) -> str:
    """A key of `READERS`, or why the file is none of them. DataError for JSON that is damaged."""
    is_named_json = path.suffix in (".json", ".jsonl")
    try:
        content = _read(path, everything=is_named_json)
        first, _, others = content.partition("\n")
        row, is_lines = _parsed(first), bool(others.strip())
        if row is None and (is_named_json or content.startswith("{")):
            row, is_lines = json.loads(content), False
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror}); allow it, or move it away") from error
    except ValueError as error:
        if is_named_json:
            raise DataError(f"{str(path)!r} is damaged ({error}); write it anew, or move it away") from error
        return "not JSON"
    return _kind_of(row, is_lines=is_lines)


def _read(path: Path, *, everything: bool) -> str:
    """Text of a file that is JSON by its name or its first letter, and nothing of others. ValueError for no UTF-8."""
    with path.open("rb") as file:
        start = file.read(64)
        if not everything and not start.lstrip().startswith(b"{"):
            return ""
        return (start + file.read()).decode("utf-8")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _kind_of(row: Any, *, is_lines: bool) -> str:
    """Kind of a file by its only object, or by the first where there is one on each line."""
    if not isinstance(row, dict):
        return "not JSON" if row is None else "JSON of another kind"
    if "text" in row and "token_ids" in row:
        return SAMPLES
    name = row.get("format")
    if not is_lines and isinstance(name, str):
        return name if name in READERS and name != SAMPLES else f"format {name}"
    return "JSON lines of another kind" if is_lines else "JSON of another kind"
