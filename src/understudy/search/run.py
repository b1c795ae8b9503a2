"""The search itself: round by round, chunk by chunk, schedule by schedule, into a journal."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from understudy import metrics
from understudy.denoisers import Denoiser
from understudy.errors import SettingError
from understudy.evaluation import Judge
from understudy.flops import costliest_first, reference_key
from understudy.record_journal import RecordJournal
from understudy.sampling import SamplingTask
from understudy.schedule import ModelSchedule
from understudy.search.assembly import assemble_entries, correlate_predictions, rank_planner
from understudy.search.candidates import Candidate, gather_candidates, predicting_path
from understudy.search.halving import Drop, drop_behind
from understudy.search.measuring import Measuring, Unit
from understudy.search.result import SearchResult
from understudy.search.scores import MeasuredSamples
from understudy.search.settings import SearchSettings
from understudy.search.space import SearchSpace
from understudy.work import Finished, OneAfterAnother, Tools, Workforce

if TYPE_CHECKING:
    from understudy.importance import Importance, PathDivergence

Stage: TypeAlias = Literal["waiting", "sampling", "measured", "done"]


@dataclass(frozen=True)
class SearchProgress:
    """How far a search has come.

    unit: what is being measured, or has just been, None before the first. round: from 1, of num_rounds. num_left:
    schedules still in. passes_done counts those of earlier runs too, from the journal; num_passes is exact for the
    schedules still in, and falls where halving drops some.
    """

    stage: Stage
    unit: Unit | None
    round: int
    num_rounds: int
    num_left: int
    passes_done: int
    num_passes: int


def search_schedules(
    denoisers: Mapping[str, Denoiser],
    space: SearchSpace,
    judge: Judge,
    settings: SearchSettings | None = None,
    *,
    plan: ModelSchedule | None = None,
    also: Sequence[ModelSchedule | str] = (),
    importance: "Importance | None" = None,
    condition: str | None = None,
    digests: Mapping[str, str] | None = None,
    journal: RecordJournal | None = None,
    tokenizer: Any = None,
    workforce: Workforce | None = None,
) -> Generator[SearchProgress, None, SearchResult]:
    """Measure every schedule of a space under the same noise and rank them; the return value is the result.

    The reference, the costliest model alone, is measured too, and so are `plan`, the planner's schedule, and `also`,
    any others or names of rules such as "sandwich"; of these, the ones that cost as much as the space's schedules are
    ranked among them. All must have the space's number of steps. importance: an analysis that predicts each
    schedule's path KL; condition: the name of its trajectories, the first unless given; digests: of the models' weights
    by key (`ModelSet.digests`), which those that were analysed must have too. journal: where finished units are kept
    and looked up; a search that was stopped goes on there and ends with the same numbers (`SearchSettings.journal_job`
    says what job it is). tokenizer: what reads the models' ids, where the judge reads texts; the judge's unless given.
    workforce: who samples and judges, with the same models and judge; this process unless given.

    Everything is checked before any model runs; the first record says what is to come. The caller drives: stop early by
    not asking for more. Raises the errors of `SamplingTask.create`, of `metrics.token_nlls` and of the journal, and
    SettingError where the analysis was of something else, or samples are too short to be judged.
    """
    chosen = settings or SearchSettings()
    search = _Search.prepare(denoisers, space, judge, chosen, journal, plan, also)
    if workforce is None:
        workforce = OneAfterAnother(Tools(denoisers, judge, tokenizer or judge.tokenizer))
    path = None
    if importance is not None:
        path = predicting_path(importance, condition, search.candidates, search.base, digests or {})
    yield search.progress("waiting", None, 1)
    drops: dict[str, Drop] = {}
    for number, (start, end) in enumerate(pairwise([0, *chosen.rounds]), start=1):
        yield from search.run(list(search.units(start, end)), number, workforce)
        if number < len(chosen.rounds):
            drops |= search.drop(number, end)
    yield search.progress("done", None, len(chosen.rounds))
    return search.conclude(drops, path)


class _Search:
    """What a search has at hand while it runs; `left` are the schedules still in."""

    def __init__(
        self,
        base: SamplingTask,
        space: SearchSpace,
        candidates: dict[str, Candidate],
        judge: Judge,
        settings: SearchSettings,
        journal: RecordJournal,
    ) -> None:
        self.base, self.space, self.candidates = base, space, candidates
        self.judge, self.settings, self.journal = judge, settings, journal
        self.left = list(candidates)
        self._finished: dict[str, list[Unit]] = {name: [] for name in candidates}
        self._passes: NDArray[np.int64] = np.concatenate([[0], np.cumsum(base.plan.passes_per_sample)])
        self._done, self._total = 0, len(candidates) * int(self._passes[-1])

    @classmethod
    def prepare(
        cls,
        denoisers: Mapping[str, Denoiser],
        space: SearchSpace,
        judge: Judge,
        settings: SearchSettings,
        journal: RecordJournal | None,
        plan: ModelSchedule | None,
        also: Sequence[ModelSchedule | str],
    ) -> "_Search":
        """Check all that can be checked, and draw the reveal plan that all schedules share."""
        options = settings.sampling_options(0, settings.num_samples)
        options["steps"] = space.num_steps
        base = SamplingTask.create(denoisers, **options)
        _check_scorable(base.plan.length, judge)
        candidates = gather_candidates(space, reference_key(denoisers, base.plan.length), plan, also)
        few = settings.sampling_options(0, 1)
        for candidate in candidates.values():
            SamplingTask.create(denoisers, candidate.schedule, **few)
        kept = RecordJournal(None, {}) if journal is None else journal  # an empty one is false
        return cls(base, space, candidates, judge, settings, kept)

    def units(self, start: int, end: int) -> Iterator[Unit]:
        """What is to be measured between two numbers of samples: all schedules on some samples, then on the next."""
        for first, last in self.settings.parts(start, end):
            for name in self.left:
                yield from self._pieces(self.candidates[name].schedule, first, last)

    def _pieces(self, schedule: ModelSchedule, first: int, end: int) -> Iterator[Unit]:
        """Samples first … end − 1: the units that the journal holds of them, from the first on, and the rest as one."""
        while first < end:
            units = (Unit(schedule, first, last) for last in range(end, first, -1))
            unit = next((unit for unit in units if unit.name in self.journal), Unit(schedule, first, end))
            yield unit
            first = unit.end

    def run(self, units: Sequence[Unit], number: int, workforce: Workforce) -> Generator[SearchProgress, None, None]:
        """Measure the units of a round that the journal does not hold."""
        missing = {}
        for unit in units:
            self._finished[str(unit.schedule)].append(unit)
            if unit.name in self.journal:
                self._done += int(self._passes[unit.end] - self._passes[unit.first])
            else:
                missing[unit.name] = unit
        for event in workforce.do((name, self._work(unit)) for name, unit in missing.items()):
            if isinstance(event, Finished):
                self.journal.put(event.unit, event.result)
                yield self.progress("measured", missing[event.unit], number)
            else:
                self._done += event.amount
                yield self.progress("sampling", missing[event.unit], number)

    def _work(self, unit: Unit) -> Measuring:
        options = self.settings.sampling_options(unit.first, unit.end)
        task = SamplingTask.create(self.base.denoisers, unit.schedule, **options)
        return Measuring(replace(task, denoisers={}), self.settings.scoring)

    def drop(self, number: int, end: int) -> dict[str, Drop]:
        """Drop what fell behind in a round that ended with `end` samples."""
        rule = self.settings.halving
        competing = {name: self._measured(name) for name in self.left if self.candidates[name].competes}
        if rule is None or not competing:
            return {}
        num_rounds = len(self.settings.rounds)
        drops = drop_behind(competing, rule, number=number, num_rounds=num_rounds, confidence=self.settings.confidence)
        self.left = [name for name in self.left if name not in drops]
        self._total -= len(drops) * int(self._passes[-1] - self._passes[end])
        return drops

    def progress(self, stage: Stage, unit: Unit | None, number: int) -> SearchProgress:
        """Say where the search stands."""
        rounds = len(self.settings.rounds)
        return SearchProgress(stage, unit, number, rounds, len(self.left), self._done, self._total)

    def conclude(self, drops: Mapping[str, Drop], path: "PathDivergence | None") -> SearchResult:
        """Rank all that was measured."""
        measured = {name: self._measured(name) for name in self.candidates}
        reference, plan = str(self.base.schedule), self.base.plan
        entries = assemble_entries(
            self.candidates,
            measured,
            drops,
            reference=reference,
            denoisers=self.base.denoisers,
            plan=plan,
            path=path,
        )
        models = costliest_first(self.base.denoisers, plan.length)
        resolved = replace(self.settings, length=plan.length, noise=self.base.noise.name)
        return SearchResult(
            entries=entries,
            reference=reference,
            models=tuple(models),
            judge={"name": self.judge.name, "context_length": metrics.context_length(self.judge.model)},
            settings=resolved.to_dict(),
            space=_space_facts(self.space),
            rounds=self.settings.rounds,
            importance=None if path is None else _path_facts(path),
            correlations=correlate_predictions(entries, measured),
            planner=rank_planner(entries),
        )

    def _measured(self, name: str) -> MeasuredSamples:
        return MeasuredSamples.join(self.journal[unit.name] for unit in self._finished[name])


def _check_scorable(length: int, judge: Judge) -> None:
    """Raise SettingError where no token has another before it, so that a judge can score none."""
    context = metrics.context_length(judge.model)
    if length < 2 or context == 1:
        raise SettingError(
            f"length is {length} and the judge reads {context or 'any number of'} tokens at once; it scores no token "
            "without one before it: sample at least 2"
        )


def _space_facts(space: SearchSpace) -> dict[str, Any]:
    return {
        "steps": space.num_steps,
        "num_segments": space.num_segments,
        "segment_lengths": list(space.segment_lengths),
        "segment_counts": dict(space.segment_counts),
        "num_schedules": len(space),
    }


def _path_facts(path: "PathDivergence") -> dict[str, Any]:
    return {
        "condition": path.name,
        "steps": path.num_steps,
        "length": path.length,
        "num_samples": path.num_samples,
    }
