"""Measure importance: held-out curves and path KL, unit by unit, so that a long analysis shows progress and resumes."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser
from understudy.errors import SettingError
from understudy.flops import reference_key
from understudy.importance.held_out import held_out_curves
from understudy.importance.record import HeldOutCurves, Importance, PathDivergence
from understudy.importance.trajectories import bin_edges, path_divergence
from understudy.importance.units import HeldOutUnit, TrajectoryUnit
from understudy.noise import NoiseSchedule
from understudy.record_journal import RecordJournal
from understudy.sampling import SamplingTask
from understudy.sampling.task import default_length
from understudy.schedule import ModelSchedule
from understudy.work import Finished, OneAfterAnother, Tools, Work, Workforce

STRETCH = 256  # held-out blocks between two notes in the journal


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
    workforce: Workforce | None = None,
    **facts: Any,
) -> Generator[AnalysisProgress, None, Importance]:
    """Hold every model against the reference over time; the generator's return value is what was found.

    denoisers: two or more by key. reference: the costliest unless given. blocks: held-out text, int64 (J, L); None
    where there is none, and then only unconditional trajectories can be measured. models: what the file says of each
    model. journal: where finished units are kept; a killed analysis goes on from it. workforce: who measures, with the
    same models; this process unless given. facts: other fields of `Importance`, such as `data`, `command` and
    `environment`.

    Raises SettingError for settings that do not fit models or text, ModelError for logits with NaN, and the errors of
    `SamplingTask.create`.
    """
    length = _length(denoisers, blocks, settings)
    keys = _reference_first(denoisers, reference, length)
    conditions = _conditions(denoisers[keys[0]], keys[0], blocks, length, settings)
    noise = _law(denoisers, conditions, keys[0], length, settings)
    kept = RecordJournal(None, {}) if journal is None else journal
    text = _HeldOut.prepare(keys, blocks, noise, settings)
    paths = [
        _Path(name, keys, tuple(_tasks(denoisers[keys[0]], keys[0], rows, settings)), settings)
        for name, rows in conditions.items()
    ]
    parts: list[_HeldOut | _Path] = [*([] if text is None else [text]), *paths]
    yield from _measure(parts, OneAfterAnother(Tools(denoisers)) if workforce is None else workforce, kept)
    described = models or {}
    return Importance(
        reference=keys[0],
        models={key: {"shape": _shape(denoisers[key]), **described.get(key, {})} for key in keys},
        noise=noise.name,
        held_out=None if text is None else text.conclude(kept),
        paths=tuple(path.conclude(kept) for path in paths),
        settings={**asdict(settings), "length": length, "prefix_lengths": list(settings.prefix_lengths)},
        **facts,
    )


@dataclass(frozen=True)
class _HeldOut:
    """The part of an analysis that noises held-out text (J, L) to some times (T,)."""

    keys: list[str]
    blocks: NDArray[np.int64]
    times: NDArray[np.float64]
    noise: NoiseSchedule
    settings: AnalysisSettings
    name: str = "held-out text"

    @classmethod
    def prepare(
        cls, keys: list[str], blocks: NDArray[np.int64] | None, noise: NoiseSchedule, settings: AnalysisSettings
    ) -> "_HeldOut | None":
        """None where there is nothing to do; SettingError where there is too little text."""
        if blocks is None or not settings.num_times:
            return None
        if len(blocks) < 2:
            raise SettingError("there is 1 block of text, which leaves errors unknown; give more text, or no times")
        times = (np.arange(settings.num_times) + 0.5) / settings.num_times
        part = cls(keys, blocks, times, noise, settings)
        whole = slice(0, len(blocks))
        if not all(
            (part._uniforms(index, whole) < noise.mask_prob(time)).any() for index, time in enumerate(times.tolist())
        ):
            raise SettingError(f"{len(blocks)} blocks are too few: at one time nothing is masked; give more text")
        return part

    def units(self) -> Iterator[tuple[str, int, Callable[[], Work]]]:
        """Name of each unit, the passes of the reference in it, and what makes it."""
        for index, time in enumerate(self.times.tolist()):
            for name, rows in self._stretches(index):
                yield name, len(self.blocks[rows]), partial(self._unit, index, time, rows)

    def conclude(self, journal: RecordJournal) -> HeldOutCurves:
        """Curves from finished units."""
        sums = []
        for index in range(len(self.times)):
            parts = [journal[name] for name, _ in self._stretches(index)]
            sums.append({name: [value for part in parts for value in part[name]] for name in parts[0]})
        return held_out_curves(sums, self.times.tolist(), self.keys, self.noise, self.blocks.shape[1])

    def _stretches(self, index: int) -> Iterator[tuple[str, slice]]:
        count = len(self.blocks)
        for first in range(0, count, STRETCH):
            end = min(first + STRETCH, count)
            name = f"held-out {index}" if count <= STRETCH else f"held-out {index} {first}:{end}"
            yield name, slice(first, end)

    def _uniforms(self, index: int, rows: slice) -> NDArray[np.float64]:
        """Those of some blocks at one time, without drawing those of the blocks before them."""
        length = self.blocks.shape[1]
        source = np.random.PCG64((self.settings.seed, index)).advance(rows.start * length)
        return np.random.Generator(source).random((rows.stop - rows.start, length))

    def _unit(self, index: int, time: float, rows: slice) -> HeldOutUnit:
        uniforms = self._uniforms(index, rows)
        return HeldOutUnit(tuple(self.keys), self.blocks[rows], uniforms, time, self.noise, self.settings.batch_size)


@dataclass(frozen=True)
class _Path:
    """The part of an analysis that samples trajectories of one condition, chunk by chunk."""

    name: str
    keys: list[str]
    tasks: tuple[SamplingTask, ...]
    settings: AnalysisSettings

    @property
    def edges(self) -> NDArray[np.int64]:
        """Where bins of steps begin and end."""
        return bin_edges(self.settings.steps, self.settings.bins)

    def units(self) -> Iterator[tuple[str, int, Callable[[], Work]]]:
        """Name of each unit, the passes of the reference in it, and what makes it."""
        for task in self.tasks:
            yield self._unit_name(task), task.num_passes, partial(self._unit, task)

    def conclude(self, journal: RecordJournal) -> PathDivergence:
        """Path KL from finished units, whose sums are joined in the order of the samples."""
        chunks = [journal[self._unit_name(task)] for task in self.tasks]
        return path_divergence(self.name, chunks, self.keys[1:], self.edges, self.tasks[0])

    def _unit_name(self, task: SamplingTask) -> str:
        return f"{self.name} {task.indices[0]} {task.plan.num_samples}"

    def _unit(self, task: SamplingTask) -> TrajectoryUnit:
        bare = replace(task, denoisers={}, plan=replace(task.plan))  # without the models, and what the plan looked up
        return TrajectoryUnit(tuple(self.keys), bare, self.settings.positions, self.edges)


def _measure(
    parts: Sequence[_HeldOut | _Path], workforce: Workforce, journal: RecordJournal
) -> Generator[AnalysisProgress, None, None]:
    """Do the units of all parts that the journal does not hold."""
    listed = [(part.name, *unit) for part in parts for unit in part.units()]
    done, total = 0, sum(passes for _, _, passes, _ in listed)
    for stage, name, passes, _ in listed:
        if name in journal:
            done += passes
            yield AnalysisProgress(stage, done, total)
    missing = {name: (stage, make) for stage, name, _, make in listed if name not in journal}
    for event in workforce.do((name, make()) for name, (_, make) in missing.items()):
        if isinstance(event, Finished):
            journal.put(event.unit, event.result)
        else:
            done += event.amount
            yield AnalysisProgress(missing[event.unit][0], done, total)


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
