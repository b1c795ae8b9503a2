"""The output head at revealed positions only, whatever the network calls its head.

Networks of transformers are a trunk and a head, and the head is most of a pass where the vocabulary is large. A hook
on the trunk cuts its answer down to the positions that are wanted before the head sees it, so that no network has to be
rewritten.
Shapes: B batch, L length, R positions wanted, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Gathering:
    """Cuts what `module` gives, hidden states (B, L, D) alone or first of several, down to (1, R, D) while asked to."""

    def __init__(self, module: nn.Module) -> None:
        self._where: tuple[torch.Tensor, torch.Tensor] | None = None
        module.register_forward_hook(self._cut)

    @contextmanager
    def at(self, rows: torch.Tensor, cols: torch.Tensor) -> Iterator[None]:
        """Within it, only the positions (row, column), int64 (R,) each, go on."""
        self._where = rows, cols
        try:
            yield
        finally:
            self._where = None

    def _cut(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._where is None:
            return output
        if isinstance(output, torch.Tensor):
            return output[self._where][None]
        if isinstance(output, tuple):
            return (output[0][self._where][None], *output[1:])
        first = next(iter(output))  # a ModelOutput: its first field is what heads read
        output[first] = output[first][self._where][None]
        return output
