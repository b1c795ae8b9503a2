"""What an interrupt leaves behind, said in the one line that answers it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

GO_ON = "give the same command again to go on"


@contextmanager
def keeping(describe: Callable[[], str]) -> Iterator[None]:
    """Let an interrupt of the work inside say what is kept and how to go on: what `describe` then gives."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(describe()) from interrupt


def journal_kept(path: Path) -> str:
    """What is kept of a job whose finished units lie in a journal."""
    if not path.exists():
        return "nothing is kept yet, since no part of the work was finished"
    return f"what was finished is kept in {str(path)!r}; {GO_ON}"
