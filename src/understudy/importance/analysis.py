"""Measure importance: held-out curves and path KL, unit by unit, so that a long analysis shows progress and resumes."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser
from understudy.driving import mapped
from understudy.errors import SettingError
from understudy.flops import reference_key
from understudy.importance.held_out import block_sums, held_out_curves
from understudy.importance.record import HeldOutCurves, Importance, PathDivergence
from understudy.importance.trajectories import bin_edges, measure_chunk, path_divergence
from understudy.noise import NoiseSchedule
from understudy.record_journal import RecordJournal
from understudy.sampling import SamplingTask
from understudy.sampling.task import default_length
from understudy.schedule import ModelSchedule


@dataclass(frozen=True)
class AnalysisSettings:
    """What to measure.

    steps: N of the trajectories. length: L; that of the text unless given, else the most the models take. num_samples:
    trajectories for each condition, 2 or more; 0 is none. prefix_lengths: conditions, tokens of held-out text given at
    the beginning, of another block for each trajectory, so that there are at most as many as blocks; 0 gives nothing.
    num_times: T, midpoints of equal strata of time; 0 is no held-out curves. bins: of steps, within which path KL is
    pooled for smoothing and errors. positions: masked positions looked at in each sequence of a pass, at least those
    revealed. chunk: trajectories between two notes in the journal; two batches unless given. SettingError for numbers
    out of range.
    """

    steps: int = 256
    length: int | None = None
    num_samples: int = 64
    prefix_lengths: tuple[int, ...] = (0,)
    num_times: int = 24
    bins: int = 32
    positions: int = 8
    noise: str | None = None
    batch_size: int = 16
    chunk: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least = {"steps": 1, "num_samples": 0, "num_times": 0, "bins": 1, "positions": 1, "batch_size": 1}
        for name, least in {**at_least, "chunk_size": 1}.items():
            if getattr(self, name) < least:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.num_samples == 1:
            raise SettingError("num_samples is 1, which leaves errors unknown; give at least 2, or 0 for none")
        if any(given < 0 for given in self.prefix_lengths) or len(set(self.prefix_lengths)) < len(self.prefix_lengths):
            raise SettingError(f"prefix lengths are {self.prefix_lengths}; each must be at least 0 and come once")
        if self.num_samples == 0 and self.num_times == 0:
            raise SettingError("with no times and no samples there is nothing to measure; ask for one of them")

    @property
    def chunk_size(self) -> int:
        """`chunk` or its default."""
        return 2 * self.batch_size if self.chunk is None else self.chunk


@dataclass(frozen=True)
class AnalysisProgress:
    """How many sequences have been passed through the reference; `stage`: "held-out text" or a condition's name."""

    stage: str
    passes_done: int
    num_passes: int


def analyze(
    denoisers: Mapping[str, Denoiser],
    *,
    blocks: NDArray[np.int64] | None,
    settings: AnalysisSettings,
    reference: str | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    journal: RecordJournal | None = None,
    **facts: Any,
) -> Generator[AnalysisProgress, None, Importance]:
    """Hold every model against the reference over time; the generator's return value is what was found.

    denoisers: two or more by key. reference: the costliest unless given. blocks: held-out text, int64 (J, L); None
    where there is none, and then only unconditional trajectories can be measured. models: what the file says of each
    model. journal: where finished units are kept; a killed analysis goes on from it. facts: other fields of
    `Importance`, such as `data`, `command` and `environment`.

    Raises SettingError for settings that do not fit models or text, ModelError for logits with NaN, and the errors of
    `SamplingTask.create`.
    """
    length = _length(denoisers, blocks, settings)
    keys = _reference_first(denoisers, reference, length)
    conditions = _conditions(denoisers[keys[0]], keys[0], blocks, length, settings)
    noise = _law(denoisers, conditions, keys[0], length, settings)
    kept = RecordJournal(None, {}) if journal is None else journal
    times = (np.arange(settings.num_times) + 0.5) / settings.num_times if blocks is not None else np.zeros(0)
    chunks = {name: list(_tasks(denoisers[keys[0]], keys[0], rows, settings)) for name, rows in conditions.items()}
    trajectory_passes = sum(task.num_passes for tasks in chunks.values() for task in tasks)
    progress = _Progress(len(times) * (0 if blocks is None else len(blocks)) + trajectory_passes)
    held_out = yield from _held_out(denoisers, keys, blocks, times.tolist(), noise, settings, kept, progress)
    paths = []
    for name, tasks in chunks.items():
        path = yield from _path(denoisers, keys, name, tasks, settings, kept, progress)
        paths.append(path)
    described = models or {}
    return Importance(
        reference=keys[0],
        models={key: {"shape": _shape(denoisers[key]), **described.get(key, {})} for key in keys},
        noise=noise.name,
        held_out=held_out,
        paths=tuple(paths),
        settings={**asdict(settings), "length": length, "prefix_lengths": list(settings.prefix_lengths)},
        **facts,
    )


class _Progress:
    """Counts sequences passed through the reference."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total

    def step(self, stage: str, passes: int) -> AnalysisProgress:
        self.done += passes
        return AnalysisProgress(stage, self.done, self.total)


def _held_out(
    denoisers: Mapping[str, Denoiser],
    keys: list[str],
    blocks: NDArray[np.int64] | None,
    times: list[float],
    noise: NoiseSchedule,
    settings: AnalysisSettings,
    journal: RecordJournal,
    progress: _Progress,
) -> Generator[AnalysisProgress, None, HeldOutCurves | None]:
    if blocks is None or not times:
        return None
    if len(blocks) < 2:
        raise SettingError("there is 1 block of text, which leaves errors unknown; give more text, or no times")
    sums = []
    for index, time in enumerate(times):
        unit = f"held-out {index}"
        if unit not in journal:
            uniforms = np.random.default_rng((settings.seed, index)).random(blocks.shape)
            ordered = {key: denoisers[key] for key in keys}
            journal.put(unit, block_sums(ordered, keys[0], blocks, uniforms, time, noise, settings.batch_size))
        sums.append(journal[unit])
        yield progress.step("held-out text", len(blocks))
    if not all(any(entry["count"]) for entry in sums):
        raise SettingError(f"{len(blocks)} blocks are too few: at one time nothing is masked; give more text")
    return held_out_curves(sums, times, keys, noise, blocks.shape[1])


def _path(
    denoisers: Mapping[str, Denoiser],
    keys: list[str],
    name: str,
    tasks: list[SamplingTask],
    settings: AnalysisSettings,
    journal: RecordJournal,
    progress: _Progress,
) -> Generator[AnalysisProgress, None, PathDivergence]:
    others = {key: denoisers[key] for key in keys[1:]}
    edges = bin_edges(settings.steps, settings.bins)
    chunks = []
    for task in tasks:
        unit = f"{name} {task.indices[0]} {task.plan.num_samples}"
        if unit in journal:
            yield progress.step(name, task.num_passes)
        else:
            run = measure_chunk(task, others, positions=settings.positions, edges=edges)
            found = yield from mapped(run, lambda passes: progress.step(name, passes))
            journal.put(unit, found)
        chunks.append(journal[unit])
    return path_divergence(name, chunks, keys[1:], edges, tasks[0])


def _tasks(
    model: Denoiser, key: str, template: NDArray[np.int64], settings: AnalysisSettings
) -> Iterator[SamplingTask]:
    """One task for each chunk of the template (n, L)."""
    for first in range(0, len(template), settings.chunk_size):
        yield _task({key: model}, key, template[first : first + settings.chunk_size], settings, first)


def _task(
    denoisers: Mapping[str, Denoiser], key: str, rows: NDArray[np.int64], settings: AnalysisSettings, first: int
) -> SamplingTask:
    return SamplingTask.create(
        denoisers,
        ModelSchedule.single(settings.steps, key),
        template=rows,
        num_samples=len(rows),
        seed=settings.seed,
        first_index=first,
        noise=settings.noise,
        batch_size=settings.batch_size,
    )


def _length(denoisers: Mapping[str, Denoiser], blocks: NDArray[np.int64] | None, settings: AnalysisSettings) -> int:
    if settings.length is not None:
        return settings.length
    if blocks is not None:
        return int(blocks.shape[1])
    return default_length(denoisers)


def _reference_first(denoisers: Mapping[str, Denoiser], reference: str | None, length: int) -> list[str]:
    if len(denoisers) < 2:
        raise SettingError("importance compares models; bind at least two")
    chosen = reference_key(denoisers, length) if reference is None else reference
    if chosen not in denoisers:
        raise SettingError(f"the reference is {chosen!r}, but models are bound to {', '.join(denoisers)}; name one")
    return [chosen, *(key for key in denoisers if key != chosen)]


def _conditions(
    model: Denoiser, key: str, blocks: NDArray[np.int64] | None, length: int, settings: AnalysisSettings
) -> dict[str, NDArray[np.int64]]:
    """Templates (n, L) of every condition by its name; prefixes are the beginnings of held-out blocks."""
    conditions = {}
    for given in settings.prefix_lengths if settings.num_samples else ():
        count = settings.num_samples
        if given:
            count = min(count, 0 if blocks is None else len(blocks))
        template = np.full((count, length), model.mask_id)
        if given:
            if blocks is None or blocks.shape[1] < given:
                raise SettingError(f"a prefix of {given} tokens needs held-out text of blocks at least as long")
            if given >= length:
                raise SettingError(f"a prefix of {given} tokens leaves nothing to sample at length {length}")
            if count < 2:
                raise SettingError("trajectories behind prefixes need two blocks of text or more, one each; give more")
            template[:, :given] = blocks[:count, :given]
        conditions[f"prefix {given}" if given else "unconditional"] = template
    return conditions


def _law(
    denoisers: Mapping[str, Denoiser],
    conditions: Mapping[str, NDArray[np.int64]],
    key: str,
    length: int,
    settings: AnalysisSettings,
) -> NoiseSchedule:
    """Check the request against all models before any runs; gives the noise schedule that they are sampled in."""
    rows = next(iter(conditions.values()), np.full((1, length), denoisers[key].mask_id))[:1]
    return _task(denoisers, key, rows, settings, 0).noise


def _shape(model: Denoiser) -> dict[str, int] | None:
    shape = getattr(model, "shape", None)
    return None if shape is None else asdict(shape)
