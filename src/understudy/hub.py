"""From a path, or a name on the Hugging Face hub, to a folder that is here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from understudy.errors import ModelError, one_line
from understudy.quiet import quiet

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
            f"{str(location)!r} is no folder here and could not be fetched from the hub ({one_line(error)}): "
            "check the path, the name or the connection"
        ) from error
