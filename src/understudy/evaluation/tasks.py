"""What is to be compared: schedules, temperatures, seeds and judge, checked before any model runs.

Sample i of every schedule and temperature shares its reveal plan and uniforms with sample i of the others. n samples
of each of S seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, TypeAlias, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from understudy.denoisers import Denoiser
from understudy.errors import SettingError
from understudy.evaluation.judging import Judge
from understudy.evaluation.scores import Scoring
from understudy.reveal import RevealPlan
from understudy.sampling import (
    ConfidenceTask,
    DecodingOptions,
    DecodingTask,
    SamplingTask,
    decoding_task,
    part_of,
    request_of,
    with_request,
)
from understudy.schedule import ModelSchedule

Stage: TypeAlias = Literal["waiting", "sampling", "judging", "looking up", "done"]
Schedules: TypeAlias = Mapping[str, ModelSchedule | str] | Sequence[ModelSchedule | str]


@dataclass(frozen=True)
class ComparisonProgress:
    """How far one schedule has come. `num_passes` is exact and known before the first pass, or None with a threshold.

    name: the label of the schedule's entry. stage: "looking up" is the search for n-grams in the training text.
    """

    name: str
    schedule: ModelSchedule
    stage: Stage
    samples_done: int
    num_samples: int
    passes_done: int
    num_passes: int | None


@dataclass(frozen=True)
class Cell:
    """One schedule at one temperature, with the samples of all seeds, seed by seed, as one task."""

    name: str
    label: str
    temperature: float
    task: DecodingTask

    @property
    def template(self) -> NDArray[np.int64]:
        """What is given, the mask id elsewhere (n·S, L)."""
        return request_of(self.task).template

    @property
    def free(self) -> NDArray[np.bool_]:
        """Where tokens are sampled (n·S, L)."""
        return np.equal(self.template, request_of(self.task).mask_id)

    def progress(self, stage: Stage, *, passes: int, open_samples: int = 0) -> ComparisonProgress:
        """A record of this cell."""
        total = len(self.template)
        return ComparisonProgress(
            self.label, self.task.schedule, stage, total - open_samples, total, passes, self.task.num_passes
        )


@dataclass(frozen=True)
class ComparisonTask:
    """A checked comparison: everything that is to be sampled and judged, and how."""

    denoisers: Mapping[str, Denoiser]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    judge: Judge
    scoring: Scoring
    tokenizer: Any
    settings: Mapping[str, Any]

    @classmethod
    def create(
        cls,
        denoisers: Mapping[str, Denoiser],
        schedules: Schedules,
        judge: Judge,
        *,
        temperatures: Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
        scoring: Scoring | None = None,
        tokenizer: Any = None,
        **options: Unpack[DecodingOptions],
    ) -> "ComparisonTask":
        """Check a comparison and draw its plans; arguments and errors as `compare_schedules`."""
        named = _named(schedules)
        settings = {name: _plain(value) for name, value in options.items() if name != "template"}
        heats = _several("temperature", temperatures, options.pop("temperature", 1.0))
        all_seeds = _several("seed", seeds, options.pop("seed", 0))
        scoring = Scoring() if scoring is None else scoring
        tokenizer = judge.tokenizer if tokenizer is None else tokenizer
        tasks = _tasks(denoisers, named, heats, all_seeds, options)
        cells = tuple(
            Cell(name, name if len(heats) == 1 else f"{name} at T={heat:g}", heat, task)
            for (heat, name), task in tasks.items()
        )
        num_samples, length = cells[0].template.shape
        scoring.check(tokenizer=tokenizer, num_samples=num_samples, length=length)
        if scoring.protocol == "published" and not cells[0].free.all():
            raise SettingError("the published protocol scores whole texts; sample without given tokens, or change it")
        settings |= {"temperatures": list(heats), "seeds": list(all_seeds), "protocol": scoring.protocol}
        return cls(denoisers, cells, all_seeds, judge, scoring, tokenizer, settings)

    @property
    def num_samples(self) -> int:
        """Samples of each cell, n·S."""
        return len(self.cells[0].template)

    @property
    def length(self) -> int:
        """Tokens L of a sample."""
        return int(self.cells[0].template.shape[1])

    def part(self, first: int, last: int) -> "ComparisonTask":
        """The same for samples `first` to before `last` of every cell."""
        plans = {id(plan): plan for plan in (request_of(cell.task).plan for cell in self.cells)}
        shared = {key: plan.part(slice(first, last)) for key, plan in plans.items()}  # as before
        parts = (part_of(cell.task, first, last, plan=shared[id(request_of(cell.task).plan)]) for cell in self.cells)
        return replace(
            self, cells=tuple(replace(cell, task=part) for cell, part in zip(self.cells, parts, strict=True))
        )


def _named(schedules: Schedules) -> dict[str, ModelSchedule | str]:
    named = dict(schedules) if isinstance(schedules, Mapping) else {str(item): item for item in schedules}
    if not named or len(named) != len(schedules):
        raise SettingError(f"{len(schedules)} schedules with {len(named)} names are given; give one or more, each once")
    return named


def _several(what: str, values: Sequence[Any] | None, default: Any) -> tuple[Any, ...]:
    found = (default,) if values is None else tuple(values)
    if not found or len(set(found)) != len(found):
        raise SettingError(f"{len(found)} values of {what} are given, {len(set(found))} different; give each once")
    return found


def _tasks(
    denoisers: Mapping[str, Denoiser],
    named: Mapping[str, ModelSchedule | str],
    temperatures: Sequence[float],
    seeds: Sequence[int],
    options: Mapping[str, Any],
) -> dict[tuple[float, str], DecodingTask]:
    """A task for every temperature and schedule. Those of equal steps share one plan: it is most of their memory."""
    shared: dict[int, dict[str, Any]] = {}
    tasks: dict[tuple[float, str], DecodingTask] = {}
    by_seed = _by_seed(seeds, options)
    for heat, (name, schedule) in product(temperatures, named.items()):
        own = {**options, "temperature": heat}
        task = decoding_task(denoisers, schedule, **cast(DecodingOptions, own | by_seed[0]))
        steps = task.schedule.num_steps
        if steps not in shared:
            others = (decoding_task(denoisers, schedule, **cast(DecodingOptions, own | mine)) for mine in by_seed[1:])
            shared[steps] = _pooled([request_of(task), *map(request_of, others)])
        pooled = with_request(task, replace(request_of(task), **shared[steps]))
        if isinstance(pooled, ConfidenceTask):
            each = [seed for seed in seeds for _ in range(request_of(task).plan.num_samples)]
            pooled = replace(pooled, seeds=each)
        tasks[heat, name] = pooled
    return tasks


def _by_seed(seeds: Sequence[int], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each seed's samples have of their own: the seed, and its rows of a template that has more than one.

    SettingError where seeds would have to share rows: pooled, their samples would count as independent.
    """
    template = options.get("template")
    rows = 1 if template is None else len(np.atleast_2d(np.asarray(template)))
    count = options.get("num_samples", 1)
    if rows == 1 or len(seeds) == 1:
        return [{"seed": seed} for seed in seeds]
    if rows != count * len(seeds):
        raise SettingError(
            f"the template has {rows} rows for {count} samples of each of {len(seeds)} seeds; give one row, or "
            f"{count * len(seeds)}, so that pooled samples are independent"
        )
    parts = np.split(np.asarray(template), len(seeds))
    return [{"seed": seed, "template": part} for seed, part in zip(seeds, parts, strict=True)]


def _pooled(requests: Sequence[SamplingTask]) -> dict[str, Any]:
    """What the samples of all seeds have together, one seed after another."""
    if len(requests) == 1:
        return {name: getattr(requests[0], name) for name in ("template", "plan", "indices")}
    plans = [request.plan for request in requests]
    hits = [plan.hits for plan in plans if plan.hits is not None]
    plan = RevealPlan(
        plans[0].times,
        np.concatenate([plan.reveal_step for plan in plans]),
        np.concatenate([plan.uniforms for plan in plans]),
        np.concatenate(hits) if hits else None,
    )
    return {
        "template": np.concatenate([request.template for request in requests]),
        "plan": plan,
        "indices": [index for request in requests for index in request.indices],
    }


def _plain(value: Any) -> Any:
    is_array = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    return np.asarray(value).tolist() if is_array else value
