"""What a planner is asked: what each step costs and harms by each model, and what a schedule must keep to.

Shapes: N steps, K models, the reference first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import SettingError
from understudy.schedule import MAX_STEPS, ModelSchedule

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PlanningProblem:
    """Divergence and cost of every step by every model.

    keys: of the K models, the reference first. divergence: (N, K), at least 0, in nats per sequence; the reference's
    column is 0. costs: (N, K), at least 0, expected cost of a step for one sequence, in `unit`. SettingError where
    shapes do not fit, a value is negative or not finite, or the reference diverges from itself.
    """

    keys: tuple[str, ...]
    divergence: Floats
    costs: Floats
    unit: str = "units"

    def __post_init__(self) -> None:
        shape = self.divergence.shape
        if len(set(self.keys)) != len(self.keys) or not self.keys:
            raise SettingError(f"the keys of a planning problem are {list(self.keys)}; give each model once")
        if len(shape) != 2 or not 1 <= shape[0] <= MAX_STEPS or shape[1] != len(self.keys):
            raise SettingError(f"divergences have shape {shape}; it must be (steps, models), {len(self.keys)} models")
        if self.costs.shape != shape:
            raise SettingError(f"costs have shape {self.costs.shape}; they must have that of the divergences, {shape}")
        for name, values in (("divergence", self.divergence), ("cost", self.costs)):
            wrong = values[~(np.isfinite(values) & (values >= 0))]
            if wrong.size:
                raise SettingError(f"a {name} is {wrong[0]}; all must be finite and at least 0")
        if self.divergence[:, 0].any():
            raise SettingError(
                f"the reference {self.keys[0]} has divergences other than 0; give the reference's column as zeros"
            )

    @property
    def num_steps(self) -> int:
        """N."""
        return len(self.divergence)

    @property
    def reference_cost(self) -> float:
        """Cost of the reference making every step."""
        return float(self.costs[:, 0].sum())

    def assignment(self, schedule: ModelSchedule) -> NDArray[np.int64]:
        """Index of the key of each step (N,). SettingError where the schedule has other steps or keys."""
        if schedule.num_steps != self.num_steps:
            raise SettingError(f"the schedule has {schedule.num_steps} steps, the problem {self.num_steps}; resize it")
        unknown = [key for key in schedule.keys if key not in self.keys]
        if unknown:
            raise SettingError(f"the schedule names {unknown[0]}; the planning problem knows {', '.join(self.keys)}")
        return np.array([self.keys.index(key) for key in schedule.steps()])

    def cost_of(self, schedule: ModelSchedule) -> float:
        """Cost of a schedule. Errors as of `assignment`."""
        return float(self.costs[np.arange(self.num_steps), self.assignment(schedule)].sum())

    def divergence_of(self, schedule: ModelSchedule) -> float:
        """Total divergence of a schedule. Errors as of `assignment`."""
        return float(self.divergence[np.arange(self.num_steps), self.assignment(schedule)].sum())


@dataclass(frozen=True)
class ForcedSteps:
    """Steps `start` to `stop` − 1, counted from 0, belong to `key`."""

    key: str
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise SettingError(
                f"steps {self.start} to {self.stop} are forced to {self.key}; a range rises, from 0 or later"
            )


@dataclass(frozen=True)
class Limits:
    """What a schedule must keep to besides its cost.

    max_switches: most changes of model from one step to the next. min_run: least length of every segment, the first and
    the last too. forced: steps that belong to one model. light_steps: exact number of steps that the reference does not
    make. min_steps, max_steps: least and most steps by key. SettingError for a number below 0, or a run below 1.
    """

    max_switches: int | None = None
    min_run: int = 1
    forced: tuple[ForcedSteps, ...] = ()
    light_steps: int | None = None
    min_steps: Mapping[str, int] = field(default_factory=dict)
    max_steps: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {"max_switches": self.max_switches, "light_steps": self.light_steps}
        for name, bounds in (("min_steps", self.min_steps), ("max_steps", self.max_steps)):
            counts |= {f"{name} of {key}": count for key, count in bounds.items()}
        for name, count in counts.items():
            if count is not None and count < 0:
                raise SettingError(f"{name} is {count}; it must be at least 0")
        if self.min_run < 1:
            raise SettingError(f"min_run is {self.min_run}; it must be at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "max_switches": self.max_switches,
            "min_run": self.min_run,
            "forced": [{"key": part.key, "start": part.start, "stop": part.stop} for part in self.forced],
            "light_steps": self.light_steps,
            "min_steps": dict(self.min_steps),
            "max_steps": dict(self.max_steps),
        }

    def allowed(self, keys: tuple[str, ...], num_steps: int) -> NDArray[np.bool_]:
        """Which steps may be whose (N, K). SettingError for keys or steps that are not there, or a step of two keys."""
        for key in (*(part.key for part in self.forced), *self.min_steps, *self.max_steps):
            if key not in keys:
                raise SettingError(f"a limit names model {key}; the models here are {', '.join(keys)}")
        allowed = np.ones((num_steps, len(keys)), dtype=bool)
        for part in self.forced:
            if part.stop > num_steps:
                raise SettingError(
                    f"steps {part.start} to {part.stop} are forced to {part.key}, but there are {num_steps} steps; "
                    f"end the range at {num_steps} or before"
                )
            allowed[part.start : part.stop, [index for index, key in enumerate(keys) if key != part.key]] = False
        twice = np.flatnonzero(~allowed.any(axis=1))
        if twice.size:
            raise SettingError(f"step {twice[0]} is forced to two models; let the forced ranges not overlap")
        return allowed

    def counted(self, keys: tuple[str, ...]) -> "tuple[StepCount, ...]":
        """The limits on numbers of steps that can bind, each over a group of keys."""
        found = []
        for index, key in enumerate(keys):
            least, most = self.min_steps.get(key, 0), self.max_steps.get(key, math.inf)
            if least > 0 or most < math.inf:
                found.append(StepCount(f"steps of {key}", _group(len(keys), [index]), least, most))
        if self.light_steps is not None:
            lights = _group(len(keys), range(1, len(keys)))
            found.append(StepCount("light steps", lights, self.light_steps, self.light_steps))
        return tuple(found)


@dataclass(frozen=True, eq=False)
class StepCount:
    """At least `least` and at most `most` steps are made by the models where `group` (K,) is 1."""

    name: str
    group: NDArray[np.int64]
    least: float
    most: float


def _group(num_keys: int, members: "list[int] | range") -> NDArray[np.int64]:
    group = np.zeros(num_keys, dtype=np.int64)
    group[list(members)] = 1
    return group
