"""From a path, or a name on the Hugging Face hub, to a folder that is here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from understudy.errors import ModelError, one_line
from understudy.quiet import quiet

# By the names of the hub's errors, which their classes are not imported for.
REASONS = {
    "GatedRepoError": "it asks for access to be granted first",
    "RepositoryNotFoundError": "it is not there, or not for you to see",
    "RevisionNotFoundError": "it has no such revision",
    "LocalEntryNotFoundError": "there is no connection",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and it was not fetched before",
}
MOST_LETTERS = 80  # of any other reason
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def local_folder(location: str | Path, files: Sequence[str], *, revision: str | None = None) -> Path:
    """Give the folder at `location`, or fetch those files (patterns) of the hub's repository of that name.

    `revision` pins a commit, branch or tag of the repository; a folder here is taken as it is. What was fetched before
    is not fetched again. ModelError where there is neither a folder nor a repository, or no connection.
    """
    folder = Path(location)
    if folder.is_dir():
        return folder
    if folder.exists() or not HUB_NAME.fullmatch(str(location)):
        raise ModelError(f"there is no folder {str(location)!r}: check the path (a hub name is written owner/name)")
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            return Path(snapshot_download(str(location), revision=revision, allow_patterns=list(files)))
    except Exception as error:  # broad, because errors of the HTTP library, which differs by version, come through
        raise ModelError(
            f"{str(location)!r} is no folder here and could not be fetched from the hub ({_reason(error)}): "
            "check the path or the name"
        ) from error


def _reason(error: Exception) -> str:
    """Why nothing was fetched, in a few words: the hub's own messages are long, and few of their words are on it."""
    from huggingface_hub import constants

    kinds = [kind.__name__ for kind in type(error).__mro__]
    if constants.HF_HUB_OFFLINE and "LocalEntryNotFoundError" in kinds:
        return "HF_HUB_OFFLINE is set, and it was not fetched before"
    return next((REASONS[kind] for kind in kinds if kind in REASONS), one_line(error)[:MOST_LETTERS])
