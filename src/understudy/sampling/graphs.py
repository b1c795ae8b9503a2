"""Running passes as CUDA graphs: one launch each, and nothing for the GPU to wait for.

A graph has fixed shapes, so a pass is padded: its sequences with copies of a spare row of the canvas, its revealed
positions to the next power of two. A plan knows all passes ahead, so what they need travels to the device
some passes at a time. A shape is run operation by operation when it is met first, which warms up whatever must be, and
captured when it is met again.

Shapes: B sequences, L length, M positions per sequence, R positions in all; each as padded.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.protocol import CapturableDenoiser
from understudy.sampling.draw import draw
from understudy.sampling.passes import EagerPasses, PassSettings
from understudy.sampling.queue import Pass

BATCH_SIZES = 8  # different ones, up to the largest
LOOK_AHEAD = 16  # passes whose indices travel together
MAX_GRAPHS = 64  # kept for each model; the one that was not used for longest goes first


@dataclass(frozen=True)
class PassShape:
    """Sizes B, L, M and R of a padded pass, and how it draws."""

    batch: int
    length: int
    width: int
    revealed: int
    mask_id: int
    temperature: float
    top_p: float

    @property
    def parts(self) -> list[int]:
        """Words of the packed pass: samples, columns, flat, targets, uniforms, times."""
        return [self.batch, self.batch * self.width, self.revealed, self.revealed, self.revealed, self.batch]


class GraphedPasses(EagerPasses):
    """Passes as CUDA graphs where the denoiser can be captured, and operation by operation where it cannot.

    The last row of the canvas is no sample's: it is for padding to read and write.
    """

    def __init__(self, settings: PassSettings, canvas: torch.Tensor) -> None:
        super().__init__(settings, canvas)
        self.spare = len(canvas) - 1
        self.models = {
            key: model
            for key, model in settings.denoisers.items()
            if isinstance(model, CapturableDenoiser) and model.device == canvas.device
        }

    def run(self, queue: Iterable[Pass]) -> Iterator[Pass]:
        """Make the passes in order; give each when it is under way."""
        passes = iter(queue)
        while batches := list(islice(passes, LOOK_AHEAD)):
            packed = self._upload([self._pack(batch) for batch in batches])
            for batch, words in zip(batches, packed, strict=True):
                if words is None:
                    self.make(batch)
                else:
                    self._replay(batch, words)
                yield batch

    @torch.inference_mode()
    def _replay(self, batch: Pass, words: torch.Tensor) -> None:
        model = self.models[batch.key]
        graph = graph_of(model, self._shape(batch))
        graph.run(model, words, self.canvas)
        self.is_healthy &= graph.is_finite

    def _shape(self, batch: Pass) -> PassShape:
        own, length = self.settings, self.canvas.shape[1]
        return PassShape(
            batch=_round_up(len(batch.samples), max(1, own.batch_size // BATCH_SIZES)),
            length=length,
            width=min(max(4, _power_of_two(int(batch.where.counts.max()))), length),
            revealed=max(8, _power_of_two(len(batch.uniforms))),
            mask_id=own.mask_id,
            temperature=own.temperature,
            top_p=own.top_p,
        )

    def _pack(self, batch: Pass) -> NDArray[np.int64] | None:
        """All that a padded pass needs to know, as words of 64 bits; None where it cannot be captured."""
        model = self.models.get(batch.key)
        if model is None:
            return None
        shape, length = self._shape(batch), self.canvas.shape[1]
        columns, flat = batch.where.padded(shape.width)
        targets = batch.samples[batch.where.rows] * length + batch.where.cols
        times = model.encode_time(batch.times) if model.uses_time else np.zeros(len(columns))
        given = (batch.samples, columns.ravel(), flat, targets, batch.uniforms, times)
        padding = (self.spare, 0, 0, self.spare * length, 0.5, times[0])
        return np.concatenate(
            [
                np.concatenate([part, np.full(size - len(part), value, dtype=part.dtype)]).view(np.int64)
                for part, value, size in zip(given, padding, shape.parts, strict=True)
            ]
        )

    def _upload(self, packed: list[NDArray[np.int64] | None]) -> list[torch.Tensor | None]:
        """One copy to the device for all; from pinned memory, so that it waits for nothing."""
        present = [words for words in packed if words is not None]
        if not present:
            return [None] * len(packed)
        host = torch.from_numpy(np.concatenate(present))
        if self.canvas.is_cuda:
            host = host.pin_memory()
        device_words = host.to(self.canvas.device, non_blocking=True)
        parts = iter(torch.split(device_words, [len(words) for words in present]))
        return [None if words is None else next(parts) for words in packed]


def passes_on(canvas: torch.Tensor, settings: PassSettings, *, cuda_graphs: bool = True) -> EagerPasses:
    """Passes on a canvas whose last row is spare: as CUDA graphs where it lies on a GPU and they are wanted."""
    return (GraphedPasses if canvas.is_cuda and cuda_graphs else EagerPasses)(settings, canvas)


class PassGraph:
    """One model at one shape, which it does not keep alive. is_finite: bool (), of the last run."""

    def __init__(self, model: CapturableDenoiser, shape: PassShape) -> None:
        self.shape, device = shape, model.device
        self.words = torch.empty(sum(shape.parts), dtype=torch.int64, device=device)
        samples, columns, flat, targets, uniforms, times = torch.split(self.words, shape.parts)
        self.samples, self.columns, self.flat = samples, columns.view(shape.batch, shape.width), flat
        self.targets, self.uniforms = targets, uniforms.view(torch.float64)
        self.times = times.view(torch.float64) if model.uses_time else None
        self.xt = torch.empty(shape.batch, shape.length, dtype=torch.int64, device=device)
        self.tokens = torch.empty(shape.revealed, dtype=torch.int64, device=device)
        self.is_finite = torch.empty((), dtype=torch.bool, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self._is_warm = False

    def run(self, model: CapturableDenoiser, words: torch.Tensor, canvas: torch.Tensor) -> None:
        """Reveal one packed pass on the canvas."""
        self.words.copy_(words)
        torch.index_select(canvas, 0, self.samples, out=self.xt)
        if self._is_warm and self.graph is None and canvas.is_cuda:
            self.graph = self._capture(model)
        if self.graph is None:
            self._compute(model)
            self._is_warm = True
        else:
            self.graph.replay()
        canvas.view(-1).index_copy_(0, self.targets, self.tokens)

    def _compute(self, model: CapturableDenoiser) -> None:
        logits = model.logits_at(self.xt, self.columns, self.flat, self.times)
        shape = self.shape
        tokens, is_finite = draw(logits, self.uniforms, shape.mask_id, temperature=shape.temperature, top_p=shape.top_p)
        self.tokens.copy_(tokens)
        self.is_finite.copy_(is_finite)

    def _capture(self, model: CapturableDenoiser) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # Graphs run one after the other and what they keep lies outside, so they may share their scratch memory.
        pool = next((other.graph.pool() for other in _graphs.get(model, {}).values() if other.graph is not None), None)
        capture = torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")
        with torch.cuda.device(self.xt.device), capture:
            self._compute(model)
        return graph


_graphs: WeakKeyDictionary[CapturableDenoiser, OrderedDict[PassShape, PassGraph]] = WeakKeyDictionary()


def graph_of(model: CapturableDenoiser, shape: PassShape) -> PassGraph:
    """Give the model's graph at that shape, from an earlier run if there was one."""
    graphs = _graphs.setdefault(model, OrderedDict())
    if shape not in graphs:
        graphs[shape] = PassGraph(model, shape)
    graphs.move_to_end(shape)
    if len(graphs) > MAX_GRAPHS:
        graphs.popitem(last=False)
    return graphs[shape]


def _power_of_two(count: int) -> int:
    """Give the smallest power of two from `count` up."""
    return 1 << (count - 1).bit_length()


def _round_up(count: int, step: int) -> int:
    """Give the smallest multiple of `step` from `count` up."""
    return -(-count // step) * step
