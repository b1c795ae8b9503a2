"""The folder that `prepare` writes to: who may use it, and what progress.json remembers of an unfinished run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from understudy.data.token_blocks import MANIFEST_FILE, SHARD_NAME, TOKENIZER_FOLDER, Manifest
from understudy.errors import DataError
from understudy.whole_files import make_folder, read_json, write_json

PROGRESS_FILE = "progress.json"


def claim_folder(folder: Path, wish: Mapping[str, Any], *, overwrite: bool) -> Manifest | None:
    """Make `folder` ready for this run: the manifest if it is finished, None when there is work to do."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{str(folder)!r} is a file: give a folder for the output")
    has_manifest, has_progress = (folder / MANIFEST_FILE).is_file(), (folder / PROGRESS_FILE).is_file()
    if not has_manifest and not has_progress:
        _begin(folder, wish)
    elif overwrite:
        clear_folder(folder)
        _begin(folder, wish)
    elif has_manifest:
        manifest = Manifest.read(folder)
        _check_same(folder, manifest.settings, wish)
        (folder / PROGRESS_FILE).unlink(missing_ok=True)  # left when the run stopped right after the manifest
        return manifest
    else:
        journal = Journal(folder)
        if journal.content["splits"]:
            _check_same(folder, journal.content["settings"], wish)
        elif journal.content["settings"] != _plain(wish):  # nothing came of the earlier try: nothing to protect
            clear_folder(folder)
            _begin(folder, wish)
    return None


def _begin(folder: Path, wish: Mapping[str, Any]) -> None:
    make_folder(folder)
    if any(not path.name.endswith(".partial") for path in folder.iterdir()):
        raise DataError(f"folder {str(folder)!r} holds other files: give a new or empty folder for the output")
    write_json(folder / PROGRESS_FILE, {"settings": wish, "tokenizer_sha256": None, "splits": {}})


def clear_folder(folder: Path) -> None:
    """Remove what `prepare` wrote and nothing else; its marks go last, so that an interrupted removal can go on."""
    for path in sorted(folder.iterdir()):
        if SHARD_NAME.fullmatch(path.name) or (path.name.endswith(".partial") and path.is_file()):
            path.unlink()
    for name in (TOKENIZER_FOLDER, f".{TOKENIZER_FOLDER}.partial"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (MANIFEST_FILE, PROGRESS_FILE):
        (folder / name).unlink(missing_ok=True)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, up to one that is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _check_same(folder: Path, there: Mapping[str, Any], wish: Mapping[str, Any]) -> None:
    differing = [key for key in wish if there.get(key) != _plain(wish[key])]
    if differing:
        key = differing[0]
        values = f"{key} was {_short(there.get(key))}, now {_short(wish[key])}"
        raise DataError(f"{str(folder)!r} was begun otherwise ({values}): give another folder or overwrite it")


def _plain(value: Any) -> Any:
    """What a value is after a trip through a file: tuples become lists."""
    return json.loads(json.dumps(value))


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"


class Journal:
    """progress.json: what is safely on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = read_json(folder / PROGRESS_FILE, mend="prepare again with overwrite")
        for name in ("settings", "splits"):
            if not isinstance(self.content.get(name), dict):
                raise DataError(f"{str(folder / PROGRESS_FILE)!r} is damaged: prepare again with overwrite")

    @property
    def has_tokenizer(self) -> bool:
        """Whether the tokenizer is in the folder."""
        return self.content.get("tokenizer_sha256") is not None

    def note(self, **changes: Any) -> None:
        """Set top-level entries, on disk when this returns."""
        self.content.update(changes)
        write_json(self.folder / PROGRESS_FILE, self.content)

    def note_split(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep the state of one split."""
        self.note(splits={**self.content["splits"], name: state})

    def close(self) -> None:
        """Forget the run: the manifest has taken over."""
        (self.folder / PROGRESS_FILE).unlink(missing_ok=True)
