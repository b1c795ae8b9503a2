"""From an analysis and a budget to a plan."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from understudy.costs import CostTable
from understudy.environment import describe_environment
from understudy.errors import SettingError
from understudy.flops import expected_report
from understudy.importance import Importance, PathDivergence
from understudy.noise import noise_schedule
from understudy.planning.costing import Convention, check_table, model_shapes, planning_problem
from understudy.planning.frontier import frontier
from understudy.planning.plan import DivergenceCurve, FrontierEntry, Plan, Prediction
from understudy.planning.problem import Limits, PlanningProblem
from understudy.planning.solver import Solution, solve
from understudy.schedule import NAMED, ModelSchedule, NamedConstructor, apportion

MOST_POINTS = 200  # of a curve or frontier in a plan


@dataclass(frozen=True)
class Budget:
    """Exactly one of: light_steps, which the reference does not make; light_fraction, the same as a share of the steps;
    saved, the least share in [0, 1] of the reference's FLOPs in `convention`; milliseconds, the most for a sample.

    convention: "blocks" (nominal), "head" (nominal with head) or "executed", which is against the reference under the
    same reveal plan. In light steps it is what the frontier is drawn in. SettingError unless one is given, in range.
    """

    light_steps: int | None = None
    light_fraction: float | None = None
    saved: float | None = None
    milliseconds: float | None = None
    convention: Convention = "blocks"

    def __post_init__(self) -> None:
        given = [self.light_steps, self.light_fraction, self.saved, self.milliseconds]
        if sum(value is not None for value in given) != 1:
            raise SettingError("give one budget: light steps, a light fraction, a share of FLOPs or milliseconds")
        if self.convention not in ("blocks", "head", "executed"):
            raise SettingError(f"the convention is {self.convention!r}; it must be blocks, head or executed")
        for name, share in (("light fraction", self.light_fraction), ("share to save", self.saved)):
            if share is not None and not 0 <= share <= 1:
                raise SettingError(f"the {name} is {share}; it must be from 0 to 1 (a quarter is 0.25)")
        if self.milliseconds is not None and not 0 < self.milliseconds < math.inf:
            raise SettingError(f"the budget is {self.milliseconds} milliseconds; it must be above 0 and finite")

    def light_count(self, num_steps: int) -> int | None:
        """Light steps that are asked for, None in other budgets. SettingError for more than there are."""
        if self.light_fraction is not None:
            return apportion([self.light_fraction, 1 - self.light_fraction], num_steps)[0]
        if self.light_steps is not None and not 0 <= self.light_steps <= num_steps:
            raise SettingError(f"light steps are {self.light_steps}; with {num_steps} steps they go from 0 to that")
        return self.light_steps


@dataclass(frozen=True)
class _Planner:
    """One plan in the making."""

    importance: Importance
    path: PathDivergence
    problem: PlanningProblem
    costs: tuple[CostTable, int] | None

    def predict(self, name: str, schedule: ModelSchedule) -> Prediction:
        """Everything that is known of a schedule."""
        shapes, noise = model_shapes(self.importance), noise_schedule(self.importance.noise)
        value, error = self.path.judging.path_kl(schedule)
        cost, path = self.problem.cost_of(schedule), self.path
        where = {"length": path.length, "free_positions": path.free_positions}
        milliseconds = time_saved = None
        if self.costs is not None:
            table, batch_size = self.costs
            alone = ModelSchedule.single(schedule.num_steps, self.problem.keys[0])
            milliseconds, whole = (
                table.sample_milliseconds(entry, noise, batch_size, path.free_positions) for entry in (schedule, alone)
            )
            time_saved = 1 - milliseconds / whole
        return Prediction(
            name=name,
            schedule=schedule,
            light_steps=schedule.num_steps - schedule.counts.get(self.problem.keys[0], 0),
            cost=cost,
            saved=self.saved(cost),
            path_kl=value,
            path_kl_se=error,
            per_token=value / path.free_positions,
            flops=None if shapes is None else expected_report(shapes, schedule, noise, **where),
            milliseconds=milliseconds,
            time_saved=time_saved,
        )

    def saved(self, cost: float) -> float:
        """Share of the reference's cost."""
        return 1 - cost / self.problem.reference_cost if self.problem.reference_cost else 0.0

    def named(self, light: int | None, most_cost: float | None) -> tuple[Prediction, ...]:
        """The rules with a name, one light model at a time, with `light` steps or the fewest that keep to a cost.

        Those that cannot keep to it are left out, and those that need no light step at all.
        """
        reference, *lights = self.problem.keys
        rows = []
        for key in lights:
            for name, rule in NAMED.items():
                make = _rule(rule, self.problem.num_steps, key, reference)
                count = light if most_cost is None else self._fewest(make, most_cost)
                if count:
                    rows.append(self.predict(name if len(lights) == 1 else f"{name} of {key}", make(count)))
        return tuple(rows)

    def _fewest(self, make: Callable[[int], ModelSchedule], most_cost: float) -> int | None:
        """Fewest light steps with which a rule keeps to a cost, None where it cannot."""
        low, high = 0, self.problem.num_steps
        allowed = most_cost + 1e-12 * float(self.problem.costs.max(axis=1).sum())
        if self.problem.cost_of(make(high)) > allowed:
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.problem.cost_of(make(middle)) <= allowed else (middle + 1, high)
        return high

    def frontier(self) -> tuple[FrontierEntry, ...]:
        """The frontier with its predictions, thinned."""
        points = frontier(self.problem)
        return tuple(
            FrontierEntry(
                schedule=points[index].schedule,
                cost=points[index].cost,
                saved=self.saved(points[index].cost),
                divergence=points[index].divergence,
                path_kl=self.path.judging.path_kl(points[index].schedule)[0],
            )
            for index in _thinned(len(points))
        )

    def describe(self, solution: Solution) -> dict[str, Any]:
        """What a plan says of its schedule and of the problem."""
        return {
            "prediction": self.predict("plan", solution.schedule),
            "frontier": self.frontier(),
            "curve": self.curve(),
            "keys": self.problem.keys,
            "unit": self.problem.unit,
            "divergence": solution.divergence,
            "lower_bound": solution.lower_bound,
            "is_exact": solution.is_exact,
        }

    def curve(self) -> DivergenceCurve:
        """What was planned on, thinned."""
        steps = _thinned(self.problem.num_steps)
        values = {
            key: tuple(self.problem.divergence[steps, index].tolist())
            for index, key in enumerate(self.problem.keys)
            if index
        }
        return DivergenceCurve(tuple(steps), values)


def make_plan(
    importance: Importance,
    budget: Budget,
    limits: Limits | None = None,
    *,
    steps: int | None = None,
    condition: str | None = None,
    costs: tuple[CostTable, int] | None = None,
    source: str | None = None,
    command: str | None = None,
) -> Plan:
    """Give the best schedule for a budget, its prediction, and the named rules and the frontier beside it.

    Where the analysis holds halves of its trajectories, schedules are chosen on the first and all predictions are made
    from the second, which is independent of the choice.

    limits: besides the budget; its light_steps must be left to the budget. steps: N, that of the analysis unless given.
    condition: as of `Importance.path`. costs: a cost table and the batch size to read it at, which a budget in
    milliseconds needs and others report in. source: name of the importance file, command: how the plan was asked for,
    both for the record. Errors as of `planning_problem` and `solve`.
    """
    limits = limits or Limits()
    if limits.light_steps is not None:
        raise SettingError("light steps are limited and budgeted; give them as the budget only")
    path = importance.path(condition)
    if costs is not None:
        check_table(costs[0], importance, path)
    convention = _convention(importance, budget)
    problem = planning_problem(importance, convention, steps=steps, condition=condition, costs=costs)
    planner = _Planner(importance, path, problem, costs)
    light, most_cost = budget.light_count(problem.num_steps), budget.milliseconds
    if budget.saved is not None:
        most_cost = (1 - budget.saved) * problem.reference_cost
    solution = solve(problem, most_cost, replace(limits, light_steps=light))
    return Plan(
        named=planner.named(light, most_cost),
        convention=convention,
        settings=_settings(budget, limits, path, problem.num_steps, costs),
        importance=source,
        command=command,
        environment=describe_environment(),
        **planner.describe(solution),
    )


def _convention(importance: Importance, budget: Budget) -> Convention:
    """How costs are counted: as the budget has it; steps where it needs no FLOPs and there are none."""
    if budget.milliseconds is not None:
        return "milliseconds"
    return "steps" if budget.saved is None and model_shapes(importance) is None else budget.convention


def _rule(rule: NamedConstructor, num_steps: int, light: str, heavy: str) -> Callable[[int], ModelSchedule]:
    """A named rule as a function of its number of light steps."""
    return lambda count: rule(num_steps, count / num_steps, light=light, heavy=heavy)


def _thinned(count: int) -> list[int]:
    """At most `MOST_POINTS` indices below `count`, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int).tolist()))


def _settings(
    budget: Budget, limits: Limits, path: PathDivergence, num_steps: int, costs: tuple[CostTable, int] | None
) -> dict[str, Any]:
    """What was asked for, and of what."""
    asked = {name: value for name, value in vars(budget).items() if value is not None}
    bounds = {name: value for name, value in limits.to_dict().items() if name != "light_steps"}
    return {
        "steps": num_steps,
        "condition": path.name,
        "length": path.length,
        "free_positions": path.free_positions,
        "analysed_steps": path.num_steps,
        "analysed_samples": path.num_samples,
        "choosing_samples": path.choosing.num_samples if path.halves else None,
        "judging_samples": path.judging.num_samples if path.halves else None,
        "budget": asked,
        "limits": bounds,
        "batch_size": None if costs is None else costs[1],
        "place": None if costs is None else costs[0].place,
        "timed_steps": None if costs is None else costs[0].steps,
    }
