"""Executing rules that choose positions by what a model says: one pass at a time, since none can be known before.

A pass asks for logits at the masked positions of each sequence's current block, draws a candidate at each, scores them,
and keeps the candidates of the positions that the rule chooses. Sequences share a pass as long as they need the same
model, whatever block or step each is at.

Shapes: n samples, L length, B sequences in a pass, C candidates of one sequence, R of all in a pass, V vocabulary.
"""

import time
from collections import Counter
from collections.abc import Generator, Mapping
from itertools import islice
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser, Positions
from understudy.driving import run_to_end
from understudy.errors import ModelError
from understudy.flops import FlopsReport, cost_report, reference_key
from understudy.reveal import GIVEN
from understudy.sampling.decoding.pace import highest, reach_threshold
from understudy.sampling.decoding.task import ConfidenceTask, DecodingOptions, DecodingTask, decoding_task
from understudy.sampling.draw import inverse_cdf, probabilities
from understudy.sampling.engine import sample_steps
from understudy.sampling.result import SampleResult, StepRecord
from understudy.sampling.task import SamplingTask, device_of
from understudy.schedule import ModelSchedule

MAX_ENTRIES = 2**26  # probabilities held at a time: half a gigabyte in float64


def decode(
    denoisers: Mapping[str, Denoiser], schedule: ModelSchedule | str | None = None, **options: Unpack[DecodingOptions]
) -> SampleResult:
    """Sample sequences, their tokens revealed in the order of a decoding rule.

    As `sample`, which is `decoding="ancestral"`, with the further options decoding, block_length, threshold and pace;
    see `decoding_task` for the rules and their ranges.

    A sample is a function of (seed, its index, models, schedule, rule); see `sample` for what that means on a GPU.
    There, rounding can decide between two positions too, and always does where all are equal: on a canvas without given
    tokens, for a model that knows positions only relative to each other. Equal scores go from left to right.

    Raises the errors of `decoding_task`, and ModelError where a model returns NaN.

    >>> from understudy.denoisers.exact import ExactDenoiser
    >>> coin = ExactDenoiser(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # two tokens that are always the same
    >>> decode({"H": coin}, "H2", decoding="low_confidence", temperature=0).tokens
    tensor([[0, 0]])
    """
    return run_to_end(task_steps(decoding_task(denoisers, schedule, **options)))


def task_steps(task: DecodingTask) -> Generator[StepRecord, None, SampleResult]:
    """Execute a task of any rule: `sample_steps` or `decode_steps`, whichever it is for."""
    return sample_steps(task) if isinstance(task, SamplingTask) else decode_steps(task)


def decode_steps(task: ConfidenceTask) -> Generator[StepRecord, None, SampleResult]:
    """Execute a task pass by pass, yielding a record of each; the generator's return value is the result.

    As `sample_steps`: the caller drives. A record's steps are those of the schedule: the k-th pass of a sequence is
    step k, or with a threshold the step at which the share of its tokens that were revealed before lies.
    `executed_saved` of the result's FLOPs is against N dense heavy passes, as everywhere, also where a threshold made
    more or fewer.
    """
    started = time.perf_counter()
    run = _Run(task)
    for batch in run.batches():
        yield run.make(batch)
    nfe = dict.fromkeys(task.schedule.keys, 0)
    for (key, _), passes in run.passes.items():
        nfe[key] += passes
    seconds = time.perf_counter() - started
    return SampleResult(run.canvas.cpu(), run.reveal_step, task.schedule, nfe, _flops(task, run.passes), seconds)


class _Sequence:
    """One sample on its way: what is still masked, and where on the schedule it is."""

    def __init__(self, task: ConfidenceTask, sample: int) -> None:
        self.task, self.sample = task, sample
        self.masked: NDArray[np.bool_] = task.request.template[sample] == task.request.mask_id
        self.free, self.num_passes = int(self.masked.sum()), 0
        self.counts = task.counts(sample) if task.threshold is None else None

    @property
    def revealed(self) -> int:
        return self.free - int(self.masked.sum())

    @property
    def step(self) -> int:
        """Nominal step of the next pass."""
        return self.num_passes if self.counts is not None else self.revealed * self.task.schedule.num_steps // self.free

    @property
    def time(self) -> float:
        """When the share of tokens revealed so far is what the noise schedule expects."""
        return self.task.noise.inverse(self.revealed / self.free)

    def candidates(self) -> NDArray[np.int64]:
        """Masked positions (C,) of the current block, ascending; none when the sample is finished."""
        blocks = self.task.blocks[self.sample]
        return np.flatnonzero(self.masked & (blocks == blocks[self.masked.argmax()]))

    def uniforms(self) -> NDArray[np.float64]:
        """Fresh uniforms (L,) for the next pass."""
        return self.task.uniforms(self.sample, self.num_passes)

    def choose(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Indices of the candidates to keep, by their scores (C,)."""
        if self.task.threshold is not None:
            return reach_threshold(scores, self.task.threshold)
        assert self.counts is not None
        return highest(scores, self.counts[self.num_passes])

    def reveal(self, positions: NDArray[np.int64]) -> None:
        """Take note of a pass and what it revealed."""
        self.masked[positions] = False
        self.num_passes += 1


class _Run:
    """The canvas, and the passes made on it. passes: how many were made by (key, positions asked for)."""

    def __init__(self, task: ConfidenceTask) -> None:
        self.task, request = task, task.request
        self.canvas = torch.tensor(request.template, device=device_of(request.denoisers))  # a copy
        self.reveal_step = np.full(request.template.shape, GIVEN, dtype=np.int64)
        self.passes: Counter[tuple[str, int]] = Counter()

    def batches(self) -> Generator[list[_Sequence], None, None]:
        """Which sequences share the next pass: of two batches under way, those of the model that most wait for."""
        size, schedule = self.task.request.batch_size, self.task.schedule
        coming = (_Sequence(self.task, sample) for sample in range(len(self.canvas)))
        active: list[_Sequence] = []
        while True:
            active = [sequence for sequence in active if sequence.masked.any()]
            active += islice(coming, 2 * size - len(active))
            if not active:
                return
            waiting: dict[str, list[_Sequence]] = {}
            for sequence in sorted(active, key=lambda sequence: (sequence.step, sequence.sample)):
                waiting.setdefault(schedule.key_at(sequence.step), []).append(sequence)
            yield sorted(max(waiting.values(), key=len)[:size], key=lambda sequence: sequence.sample)

    @torch.inference_mode()
    def make(self, batch: list[_Sequence]) -> StepRecord:
        """Make one pass and reveal what the rule chooses."""
        key = self.task.schedule.key_at(batch[0].step)
        samples, steps = (np.array([getattr(one, name) for one in batch]) for name in ("sample", "step"))
        asked = [sequence.candidates() for sequence in batch]
        where = Positions(np.repeat(np.arange(len(batch)), [len(cols) for cols in asked]), np.concatenate(asked))
        uniforms = np.concatenate([one.uniforms()[cols] for one, cols in zip(batch, asked, strict=True)])
        tokens, scores = self._draw(self._look(key, batch, samples, where), uniforms)
        if np.isnan(scores).any():
            raise ModelError(f"model {key} returned logits with NaN or no finite entry; is its checkpoint intact?")
        self.passes.update((key, len(cols)) for cols in asked)
        kept = self._choose(batch, asked, scores)
        rows, cols = where.rows[kept], where.cols[kept]
        self.canvas[self._put(samples[rows]), self._put(cols)] = tokens[self._put(kept)]
        self.reveal_step[samples[rows], cols] = steps[rows]
        return StepRecord(key, samples, steps, rows, cols, self.canvas)

    def _choose(
        self, batch: list[_Sequence], asked: list[NDArray[np.int64]], scores: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Which of the R candidates are kept, ascending; their sequences take note."""
        kept, start = [], 0
        for sequence, cols in zip(batch, asked, strict=True):
            chosen = sequence.choose(scores[start : start + len(cols)])
            sequence.reveal(cols[chosen])
            kept.append(start + chosen)
            start += len(cols)
        return np.concatenate(kept)

    def _look(self, key: str, batch: list[_Sequence], samples: NDArray[np.int64], where: Positions) -> torch.Tensor:
        """Logits (R, V) at the candidates, on the canvas's device."""
        model = self.task.request.denoisers[key]
        times = torch.tensor([one.time for one in batch], dtype=torch.float64) if model.uses_time else None
        return model.logits(self.canvas[self._put(samples)].to(model.device), times, where).to(self.canvas.device)

    def _draw(self, logits: torch.Tensor, uniforms: NDArray[np.float64]) -> tuple[torch.Tensor, NDArray[np.float64]]:
        """Candidates (R,) on the device and their scores (R,) on the host, some rows at a time to spare memory."""
        size = max(1, MAX_ENTRIES // logits.shape[-1])
        tokens, scores = [], []
        for rows, at in zip(torch.split(logits, size), torch.split(self._put(uniforms), size), strict=True):
            drawn, score = self._draw_rows(rows, at)
            tokens.append(drawn)
            scores.append(score)
        return torch.cat(tokens), torch.cat(scores).cpu().numpy()

    def _draw_rows(self, logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        request, rule = self.task.request, self.task.rule
        heat = request.temperature or 1.0  # at 0 the token is the likeliest, and the score reads what the model says
        law = probabilities(logits, request.mask_id, temperature=heat, top_p=request.top_p)
        tokens = inverse_cdf(law, uniforms) if request.temperature else law.argmax(-1)
        if not rule.reads_drawn_law and (heat, request.top_p) != (1, 1):
            law = probabilities(logits, request.mask_id)
        return tokens, rule.score(law, tokens)

    def _put(self, array: NDArray[np.int64] | NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.canvas.device, non_blocking=True)


def _flops(task: ConfidenceTask, passes: Mapping[tuple[str, int], int]) -> FlopsReport:
    """Cost of the passes made, each with logits at the positions it asked for; see `understudy.flops`."""
    request = task.request
    models, (samples, length) = request.denoisers, request.template.shape
    heavy = models[reference_key(models, length)]
    executed = sum(count * models[key].pass_flops(length, asked).total for (key, asked), count in passes.items())
    heavy_alone = sum(count * heavy.pass_flops(length, asked).total for (_, asked), count in passes.items())
    return cost_report(models, task.schedule, length, samples=samples, executed=executed, heavy_alone=heavy_alone)
