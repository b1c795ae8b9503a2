"""Which schedules take part in a search, and what an analysis predicts of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.errors import ScheduleError, SettingError
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
    importance: "Importance", condition: str | None, reference: str, candidates: Mapping[str, Candidate], noise: str
) -> "PathDivergence":
    """Give the analysed trajectories that predict the candidates' path KL.

    SettingError where the analysis was of another reference or noise, or leaves out a model that candidates use.
    """
    path = importance.path(condition)
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
    return path


def predict_path_kl(path: "PathDivergence | None", schedule: ModelSchedule) -> tuple[float | None, float | None]:
    """Path KL in nats per sequence and its standard error; None for segments shorter than the analysis's steps."""
    if path is None:
        return None, None
    try:
        same = schedule if schedule.num_steps == path.num_steps else schedule.resized(path.num_steps)
    except ScheduleError:
        return None, None
    return path.path_kl(same)
