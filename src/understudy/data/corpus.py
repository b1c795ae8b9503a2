"""Where text comes from: files and Hugging Face datasets, read as streams of documents.

Suffixes: .txt and .text (by document, paragraph or line), .jsonl and .json, .parquet. A folder stands for all such
files in it, sorted by path. Whatever is no path and looks like `name` or `owner/name` is a dataset on the Hugging
Face hub.
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from understudy.errors import DataError, SettingError, one_line
from understudy.hub import HUB_NAME
from understudy.quiet import quiet

SampleBy = Literal["document", "paragraph", "line"]

SUFFIXES = {".txt": "text", ".text": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
TEXT_TYPES = ("string", "large_string", "string_view", "null")
ROWS_AT_ONCE = 1024


class DocumentSource(Protocol):
    """Anything that `prepare` can read: give it these two methods to prepare text from elsewhere."""

    def documents(self) -> Iterator[str]:
        """A fresh stream of all documents; every call gives the same ones in the same order."""
        ...

    def description(self) -> dict[str, Any]:
        """What identifies the text, in JSON's types: a resumed run must describe its sources as the first did."""
        ...


@dataclass(frozen=True)
class TextSource:
    """Text at a path or on the Hugging Face hub; opened when read, a batch of rows in memory at a time.

    `text_column` names the column of JSON, Parquet and hub sources. `sample_by` says what one document of a .txt file
    is: the whole file (which must then fit in memory), a paragraph (ends with an empty line) or a line. `config`,
    `split` and `revision` choose within a hub dataset and mean nothing to files. DataError when the file is missing,
    is of no known kind, or holds no such column; SettingError for an unknown `sample_by`.
    """

    location: str
    text_column: str = "text"
    sample_by: SampleBy = "document"
    config: str | None = None
    split: str = "train"
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.sample_by not in get_args(SampleBy):
            raise SettingError(f"sample_by is {self.sample_by!r}, allowed are {', '.join(get_args(SampleBy))}")
        self._files()

    def documents(self) -> Iterator[str]:
        """All documents in order; a null row is an empty document. DataError for text that cannot be read."""
        files = self._files()
        if files is None:
            chosen = {"name": self.config, "split": self.split, "revision": self.revision}
            failure = (
                f"{self.location!r} is no file here and cannot be read from the hub (check the name or the connection)"
            )
            yield from self._stream(self.location, failure, path=self.location, **chosen)
            return
        # The JSON reader ends in StopIteration for empty files.
        filled = [file for file in files if file.stat().st_size]
        for kind, group in _groups(filled):
            extra = self._reader_options(kind)
            # Brackets and stars in a file's name are the name, not a pattern.
            patterns = [glob.escape(str(file)) for file in group]
            name = str(group[0]) if len(group) == 1 else self.location
            failure = f"cannot read {name!r} as {kind}"
            yield from self._stream(name, failure, path=kind, data_files=patterns, split="train", **extra)

    def _reader_options(self, kind: str) -> dict[str, Any]:
        if kind == "text":
            return {"sample_by": self.sample_by}
        # Left to itself, the Parquet reader takes a row group at a time and refuses empty ones.
        return {"batch_size": ROWS_AT_ONCE} if kind == "parquet" else {}

    def description(self) -> dict[str, Any]:
        """Location and the options that matter for its kind; for files their sizes in bytes."""
        files = self._files()
        if files is None:
            options = {"config": self.config, "split": self.split, "revision": self.revision}
            return {"dataset": self.location, "text_column": self.text_column, **options}
        sizes = [{"name": file.as_posix(), "bytes": file.stat().st_size} for file in files]
        kinds = {SUFFIXES[file.suffix.lower()] for file in files}
        described: dict[str, Any] = {"files": sizes}
        if "text" in kinds:
            described["sample_by"] = self.sample_by
        if kinds - {"text"}:
            described["text_column"] = self.text_column
        return described

    def _files(self) -> list[Path] | None:
        """The files behind the location, None for a hub dataset."""
        path = Path(self.location)
        known = ", ".join(SUFFIXES)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not files:
                raise DataError(f"folder {self.location!r} holds no text; looked for {known}")
            return files
        if path.exists():
            if path.suffix.lower() not in SUFFIXES:
                raise DataError(f"{self.location!r} is of no known kind; allowed are {known}: rename or convert it")
            return [path]
        if path.suffix.lower() in SUFFIXES or not HUB_NAME.fullmatch(self.location):
            raise DataError(f"no file {self.location!r}: check the path (a hub dataset is written owner/name)")
        return None

    def _stream(self, shown: str, failure: str, /, **load: Any) -> Iterator[str]:
        """Texts of what `load` names to the library; positional, since its arguments have names such as `name`."""
        datasets = _import_datasets()
        known_errors = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
        try:
            with quiet():
                rows = datasets.load_dataset(streaming=True, **load).with_format("arrow")
                tables = iter(rows.iter(batch_size=ROWS_AT_ONCE))
            while True:
                # Quiet while it reads and not while our caller works: a generator is left in the middle.
                with quiet():
                    table = next(tables, None)
                if table is None:
                    return
                yield from _column(table, self.text_column, shown)
        except known_errors as error:
            raise DataError(f"{failure}: {one_line(error)}") from error


def _groups(files: list[Path]) -> Iterator[tuple[str, list[Path]]]:
    """Files to open together: opening costs a tenth of a second, too much for each of many small .txt files.

    Others are opened one by one, since their columns may differ.
    """
    for kind, group in itertools.groupby(files, lambda file: SUFFIXES[file.suffix.lower()]):
        together = list(group)
        if kind == "text":
            yield kind, together
        else:
            yield from ((kind, [file]) for file in together)


def _column(table: Any, column: str, name: str) -> Iterator[str]:
    if column not in table.column_names:
        raise DataError(f"{name!r} has no column {column!r}, only {', '.join(table.column_names)}: set the text column")
    values = table[column]
    if str(values.type) not in TEXT_TYPES:
        raise DataError(f"column {column!r} of {name!r} holds {values.type}, not text: choose another text column")
    return (text or "" for text in values.to_pylist())


def _import_datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        message = "reading text needs the package datasets: install it with pip install 'understudy[data]'"
        raise DataError(message) from error
    return datasets
