"""Which schedules take part in a search, and what an analysis predicts of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from understudy.errors import SettingError
from understudy.sampling import SamplingTask
from understudy.schedule import ModelSchedule
from understudy.search.space import SearchSpace

if TYPE_CHECKING:
    from understudy.importance import Importance, PathDivergence


@dataclass(frozen=True)
class Candidate:
    """A schedule that is measured. origins, segments: as in `SearchEntry`.

    competes: whether it costs as much as the schedules of the space; only those are ranked, and dropped by halving.
    """

    schedule: ModelSchedule
    segments: str | None
    origins: tuple[str, ...]
    competes: bool


def gather_candidates(
    space: SearchSpace, reference: str, plan: ModelSchedule | None = None, also: Sequence[ModelSchedule | str] = ()
) -> dict[str, Candidate]:
    """All schedules by their notation: the reference first, then the space, the plan, and others; each once.

    reference: key of the model that makes all steps of the reference. also: schedules or names of rules
    (`SearchSpace.rule`). SettingError where a schedule has another number of steps than the space.
    """
    others = [space.rule(item, reference) if isinstance(item, str) else item for item in also]
    sources = [
        ("reference", [ModelSchedule.single(space.num_steps, reference)]),
        ("space", list(space.schedules().values())),
        ("plan", [] if plan is None else [plan]),
        ("also", others),
    ]
    origins: dict[ModelSchedule, list[str]] = {}
    for origin, schedules in sources:
        for schedule in schedules:
            if schedule.num_steps != space.num_steps:
                raise SettingError(
                    f"{schedule} has {schedule.num_steps} steps and the search {space.num_steps}; resize one of them"
                )
            origins.setdefault(schedule, []).append(origin)
    return {
        str(schedule): Candidate(
            schedule, space.pattern_of(schedule), tuple(dict.fromkeys(names)), space.holds_cost_of(schedule)
        )
        for schedule, names in origins.items()
    }


def predicting_path(
    importance: "Importance",
    condition: str | None,
    candidates: Mapping[str, Candidate],
    base: SamplingTask,
    digests: Mapping[str, str],
) -> "PathDivergence":
    """Give the analysed trajectories that predict the candidates' path KL.

    base: what is sampled of the reference. digests: of the models' weights, by key, as far as they are known.
    SettingError where the analysis was of another reference, noise, length or other weights, or leaves out a model that
    candidates use; and of another number of free positions, unless a prefix is given, whose length may be any.
    """
    path, reference, noise = importance.path(condition), base.schedule.keys[0], base.noise.name
    used = dict.fromkeys(key for candidate in candidates.values() for key in candidate.schedule.keys)
    missing = [key for key in used if key not in (*path.keys, importance.reference)]
    if importance.reference != reference:
        raise SettingError(
            f"the analysis holds models against {importance.reference}, the search against {reference}; analyze anew "
            "with the same models"
        )
    if missing:
        raise SettingError(f"the analysis knows nothing of model {missing[0]}, only {', '.join(path.keys)}; analyze it")
    if importance.noise != noise:
        raise SettingError(
            f"the analysis was made under {importance.noise} noise and the search samples under {noise}; "
            "give both the same"
        )
    _check_models(importance, used, digests)
    _check_positions(path, base)
    return path


def _check_models(importance: "Importance", used: Iterable[str], digests: Mapping[str, str]) -> None:
    """Raise SettingError where weights are known to be others than those that were analysed."""
    for key in used:
        analysed = importance.models.get(key, {}).get("sha256")
        if None not in (analysed, digests.get(key)) and analysed != digests[key]:
            raise SettingError(
                f"model {key} is not the one that was analysed (its weights differ); analyze anew with the same models"
            )


def _check_positions(path: "PathDivergence", base: SamplingTask) -> None:
    """Raise SettingError where the analysed trajectories have another length, or other tokens given."""
    length, free = base.plan.length, int(np.count_nonzero(base.plan.reveal_step[0] >= 0))
    if path.length != length:
        raise SettingError(
            f"the analysis was made at length {path.length} and the search samples {length}; give both the same"
        )
    if free == length != path.free_positions:
        raise SettingError(
            f"condition {path.name!r} leaves {path.free_positions} of {length} tokens free and the search all; name "
            "another condition, or give a prefix"
        )
