"""A canvas that sequences of many requests lie on together, and the passes made on it.

Shapes: B sequences in a pass, L length, R positions that a pass reveals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser
from understudy.sampling.graphs import passes_on
from understudy.sampling.queue import Pass
from understudy.sampling.task import device_of
from understudy.server.sequences import CanvasKind, RunningSequence

FIRST_ROWS = 8


@dataclass(frozen=True)
class CanvasSettings:
    """Settings of the passes on one canvas; see `sampling.passes.PassSettings`."""

    denoisers: Mapping[str, Denoiser]
    mask_id: int
    temperature: float
    top_p: float
    batch_size: int


class LaunchedPass:
    """A pass under way on the device, or made. pairs: its sequences, and the event that each meets in it."""

    def __init__(self, batch: Pass, pairs: list[tuple[RunningSequence, int]], found: torch.Tensor) -> None:
        self.batch, self.pairs = batch, pairs
        self._found, self._arrival = found, None
        if found.is_cuda:
            self._found = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            self._found.copy_(found, non_blocking=True)
            self._arrival = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrival.record(torch.cuda.current_stream(found.device))

    def tokens(self) -> NDArray[np.int64] | None:
        """Wait for the tokens (R,) that it drew; None where a model gave no law to draw from."""
        if self._arrival is not None:
            self._arrival.synchronize()
        found = self._found.numpy()
        return found[:-1] if found[-1] else None


class SharedCanvas:
    """Rows of one kind, each of one sequence, in as many as are needed at a time."""

    def __init__(
        self, kind: CanvasKind, denoisers: Mapping[str, Denoiser], *, batch_size: int, cuda_graphs: bool = True
    ) -> None:
        self.kind, self._cuda_graphs = kind, cuda_graphs
        mask_id = next(iter(denoisers.values())).mask_id
        self._settings = CanvasSettings(denoisers, mask_id, kind.temperature, kind.top_p, batch_size)
        self._canvas = torch.empty((0, kind.length), dtype=torch.int64, device=device_of(denoisers))
        self._free: list[int] = []
        self._rows = 0
        self._grow(FIRST_ROWS)

    @property
    def is_empty(self) -> bool:
        """Whether no sequence lies on it."""
        return len(self._free) == self._rows

    def add(self, sequences: Sequence[RunningSequence]) -> None:
        """Give each sequence a row, and write on it what is given of it."""
        if len(sequences) > len(self._free):
            self._grow(max(2 * self._rows, self._rows + len(sequences)))
        for sequence in sequences:
            sequence.slot = self._free.pop()
        self.restore(sequences)

    def remove(self, sequence: RunningSequence) -> None:
        """Take a sequence's row back."""
        self._free.append(sequence.slot)
        sequence.slot = -1

    def restore(self, sequences: Sequence[RunningSequence]) -> None:
        """Write what is known of sequences on their rows, in place of what lies there."""
        rows = torch.from_numpy(np.stack([sequence.run.tokens[sequence.sample] for sequence in sequences]))
        slots = torch.tensor([sequence.slot for sequence in sequences], device=self._canvas.device)
        self._canvas[slots] = rows.to(self._canvas.device)

    def launch(self, batch: Pass, sequences: Sequence[RunningSequence]) -> LaunchedPass:
        """Begin a pass of sequences that lie here. Raises whatever the model raises."""
        device, passes = self._canvas.device, self._passes
        passes.is_healthy.fill_(True)
        for _ in passes.run([batch]):
            rows, columns = (torch.from_numpy(index) for index in (batch.samples[batch.where.rows], batch.where.cols))
            drawn = self._canvas[rows.to(device, non_blocking=True), columns.to(device, non_blocking=True)]
            found = torch.cat([drawn, passes.is_healthy.long()[None]])
        return LaunchedPass(batch, [(sequence, sequence.event) for sequence in sequences], found)

    def _grow(self, rows: int) -> None:
        old, count = self._canvas, self._rows
        # One more than there are sequences: the last is what captured passes are padded with.
        self._canvas = torch.full((rows + 1, self.kind.length), self._settings.mask_id, device=old.device)
        self._canvas[:count] = old[:count]
        self._free += range(rows - 1, count - 1, -1)
        self._rows = rows
        self._passes = passes_on(self._canvas, self._settings, cuda_graphs=self._cuda_graphs)
