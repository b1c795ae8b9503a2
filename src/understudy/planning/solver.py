"""The schedule of least divergence within a budget and limits, exactly."""

from dataclasses import dataclass, replace

from understudy.errors import SettingError
from understudy.planning.infeasible import check_structure, check_sums, exclusion
from understudy.planning.labels import Found, LabelSearch, TooManyLabelsError
from understudy.planning.multipliers import ROUNDING, best_multipliers, lower_bounds
from understudy.planning.problem import Limits, PlanningProblem
from understudy.planning.scaling import ScaledProblem
from understudy.schedule import ModelSchedule

NARROW = 64  # labels of a step that the first search keeps
FEW_LABELS, MANY_LABELS = 300_000, 20_000_000  # of a full search: half a second, half a minute and half a gigabyte
RISING = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # ceilings, between the bound and what is known


@dataclass(frozen=True)
class Solution:
    """A schedule, its total divergence and cost, and a divergence below which none within the limits lies.

    is_exact: whether the schedule is proven to be the best; the lower bound is then its own divergence.
    """

    schedule: ModelSchedule
    divergence: float
    cost: float
    lower_bound: float
    is_exact: bool


def solve(problem: PlanningProblem, budget: float | None = None, limits: Limits | None = None) -> Solution:
    """Give the schedule of least total divergence whose cost is at most `budget` and that keeps to `limits`.

    budget: in the problem's unit, None for no limit on cost; a cost that is above it by less than 1e-12 of the dearest
    schedule's meets it. Exact, with limits and for any number of models: no schedule has a divergence smaller by 1e-12
    of the largest total. Of equal ones the one of fewest switches is taken, then the cheapest, then that whose first
    change comes earliest; nothing is left to chance.

    The method: shortest paths over steps with Lagrangian multipliers for cost and counts give a lower bound; label
    setting with dominance finds the rest, each label bounded by the multipliers' shortest paths. The problem holds the
    knapsack problem, so no method is fast on all. At 1000 steps 50 to 300 thousand labels are usual, about a second;
    where 20 million do not reach, the best schedule known is given with `is_exact` false and the lower bound.

    SettingError where no schedule keeps to budget and limits, with the limit that binds.
    """
    limits = limits or Limits()
    check_structure(problem, limits)
    check_sums(problem, ScaledProblem.create(problem, budget, limits), budget)
    # Limits on the steps of a key rarely bind, and cost time where they do not: each comes in once it is broken.
    binding = replace(limits, min_steps={}, max_steps={})
    while True:
        solution = _solve(problem, budget, binding)
        counts = {key: solution.schedule.counts.get(key, 0) for key in problem.keys}
        fewer = {key: least for key, least in limits.min_steps.items() if counts[key] < least}
        more = {key: most for key, most in limits.max_steps.items() if counts[key] > most}
        if not fewer and not more:
            return solution
        binding = replace(binding, min_steps={**binding.min_steps, **fewer}, max_steps={**binding.max_steps, **more})


def _solve(problem: PlanningProblem, budget: float | None, limits: Limits) -> Solution:
    scaled = ScaledProblem.create(problem, budget, limits)
    multipliers = best_multipliers(scaled)
    lowest = float(lower_bounds(scaled, multipliers[:1])[0])
    if lowest > 1 + ROUNDING:  # above all that a schedule can come to
        raise SettingError(exclusion(scaled, multipliers[0]))
    found = _search(LabelSearch(scaled, multipliers), lowest, scaled.value_one)
    if found is None:
        raise SettingError(exclusion(scaled, multipliers[0]))
    schedule = ModelSchedule.from_keys(problem.keys[model] for model in found.models)
    divergence, largest = problem.divergence_of(schedule), float(problem.divergence.max(axis=1).sum())
    bound = divergence if found.is_complete else min(divergence, max(0.0, lowest * largest))
    return Solution(schedule, divergence, problem.cost_of(schedule), bound, found.is_complete)


def _search(search: LabelSearch, lowest: float, value_one: float) -> Found | None:
    """Find the best schedule, None where there is none; `lowest` is a bound on its value."""
    narrow = search.run(width=NARROW)
    if narrow is not None and narrow.is_complete:
        return narrow
    highest = 1.0 if narrow is None else narrow.value * value_one
    # What the narrow search found is mostly near the best. Where it is not, a full search below it would keep far too
    # much: the ceiling then rises from the bound until there is a schedule below it.
    attempts = [(1.0, FEW_LABELS), *((share, MANY_LABELS) for share in RISING)]
    for share, most_labels in attempts:
        ceiling = lowest + share * (highest - lowest)
        try:
            found = search.run(ceiling=ceiling, most_labels=most_labels)
        except TooManyLabelsError:
            if most_labels == MANY_LABELS:
                return narrow
            continue
        if share == 1.0 or (found is not None and found.value * value_one <= ceiling):
            return found
    return narrow
