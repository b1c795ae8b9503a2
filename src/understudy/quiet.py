"""Keep the libraries we call from printing: what goes wrong reaches our callers as an exception, not as a log line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LIBRARIES = ("datasets", "huggingface_hub", "transformers")

Switch = Callable[[], object]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence log lines, progress bars and warnings of those `LIBRARIES` that are imported by now.

    All is put back at the end. The switches are those of the process, so other threads are quiet in the meantime too.
    """
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bars = list(_bars())
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            for _, hide, _ in bars:
                hide()
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            # The hub's switch last: that of transformers turns it too.
            for is_shown, hide, show in reversed(bars):
                (show if is_shown else hide)()


def _bars() -> Iterator[tuple[bool, Switch, Switch]]:
    """Whether a library shows progress bars, and how it hides and shows them."""
    for name in ("datasets.utils", "huggingface_hub.utils"):
        if (library := sys.modules.get(name)) is not None:
            yield not library.are_progress_bars_disabled(), library.disable_progress_bars, library.enable_progress_bars
    if (library := sys.modules.get("transformers.utils.logging")) is not None:
        yield library.is_progress_bar_enabled(), library.disable_progress_bar, library.enable_progress_bar
