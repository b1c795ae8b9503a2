"""The output head at revealed positions only, whatever the network calls its head.

Networks of transformers are a trunk and a head, and the head is most of a pass where the vocabulary is large. A hook
on the trunk cuts its answer down to the positions that are wanted before the head sees it, so that no network has to be
rewritten.
Shapes: B batch, L length, R positions wanted, D width.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Gathering:
    """Cuts what `module` gives, hidden states (B, L, D) alone or first of several, down to (1, R, D) while asked to."""

    def __init__(self, module: nn.Module) -> None:
        self._local = threading.local()  # threads may share a model
        module.register_forward_hook(self._cut)

    @contextmanager
    def at(self, rows: torch.Tensor, cols: torch.Tensor) -> Iterator[None]:
        """Within it, only the positions (row, column), int64 (R,) each, go on."""
        self._local.where = rows, cols
        try:
            yield
        finally:
            self._local.where = None

    def _cut(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        where: tuple[torch.Tensor, torch.Tensor] | None = getattr(self._local, "where", None)
        if where is None:
            return output
        if isinstance(output, torch.Tensor):
            return output[where][None]
        if isinstance(output, tuple):
            return (output[0][where][None], *output[1:])
        first = next(iter(output))  # a ModelOutput: its first field is what heads read
        output[first] = output[first][where][None]
        return output
