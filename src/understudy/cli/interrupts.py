"""What an interrupt leaves behind, said in the one line that answers it."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

GO_ON = "give the same command again to go on"
INTERRUPTED, TERMINATED = 130, 143  # what a shell gives for a process that SIGINT or SIGTERM ended


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it is answered like Ctrl-C."""


class OrderlyStop:
    """Whether SIGINT or SIGTERM has come while it was listened to. The second one stops at once.

    Call it to ask. The library's generators take it as their `stop`.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self) -> bool:
        """Whether one has come."""
        return self.received is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Answer both signals here, unless they are ignored (as by nohup); what was before comes back at the end."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, self._answer)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave(self) -> NoReturn:
        """Raise what the signal stands for; of several processes another one may have got it."""
        raise KeyboardInterrupt if self.received == signal.SIGINT else Terminated

    def _answer(self, number: int, frame: Any) -> None:
        if self.received is not None:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        self.received = number
        if is_main_process():
            # Not through sys.stderr: it may be in the middle of a write.
            os.write(2, b"understudy: stopping at the end of this step; once more stops at once\n")


def is_main_process() -> bool:
    """Whether this is the process that speaks. By the launcher's variable: there may be no process group yet."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def keeping(describe: Callable[[], str]) -> Iterator[None]:
    """Let an interrupt of the work inside say what is kept and how to go on: what `describe` then gives."""
    try:
        yield
    except Terminated as end:
        if is_main_process():
            print(f"understudy: terminated; {describe()}", file=sys.stderr)
        raise typer.Exit(TERMINATED) from end
    except KeyboardInterrupt as interrupt:
        if not is_main_process():
            raise typer.Exit(INTERRUPTED) from interrupt
        raise KeyboardInterrupt(describe()) from interrupt


def journal_kept(path: Path) -> str:
    """What is kept of a job whose finished units lie in a journal."""
    if not path.exists():
        return "nothing is kept yet, since no part of the work was finished"
    return f"what was finished is kept in {str(path)!r}; {GO_ON}"


def training_kept(folder: str | Path) -> str:
    """What is kept of a training run in `folder`."""
    from understudy.checkpoint import checkpoint_folders
    from understudy.training.run_folder import CHECKPOINTS

    found = checkpoint_folders(Path(folder) / CHECKPOINTS)
    if not found:
        return "nothing is kept yet, since no checkpoint was due (--checkpoint-every, --checkpoint-minutes)"
    step = int(found[-1].name.removeprefix("step-"))
    return f"the checkpoint of step {step:,} is kept in {str(folder)!r}; {GO_ON} from there"
