"""When the light model works: intervals of time t, 1 = all masked, from a plan or a schedule."""

from __future__ import annotations

from pathlib import Path

from understudy.errors import SettingError
from understudy.planning import Plan
from understudy.schedule import ModelSchedule

ALWAYS = ((0.0, 1.0),)
PERCENT_STEPS = 1000  # of a schedule given in shares


def light_intervals(schedule: ModelSchedule, key: str) -> tuple[tuple[float, float], ...]:
    """Give the intervals (low, high) of t, in ascending order, in which the model under `key` makes the steps.

    Step k of N leads from t = 1 − k/N to 1 − (k + 1)/N. SettingError where it makes none.

    >>> light_intervals(ModelSchedule.parse("L1,H2,L1"), "L")
    ((0.0, 0.25), (0.75, 1.0))
    """
    found, start, total = [], 0, schedule.num_steps
    for segment in schedule.segments:
        end = start + segment.count
        if segment.key == key:
            found.append(((total - end) / total, (total - start) / total))
        start = end
    if not found:
        raise SettingError(f"no step of {schedule} is made by {key!r}, only by {', '.join(schedule.keys)}; name one")
    return tuple(reversed(found))


def read_schedule(source: str) -> ModelSchedule:
    """Read the schedule of a plan's file (`.json`), or one in its notation.

    DataError where there is no plan in the file, ScheduleError where the notation is wrong.
    """
    if source.endswith(".json") or Path(source).is_file():
        return Plan.load(source).schedule
    return ModelSchedule.parse(source, PERCENT_STEPS if "%" in source else None)
