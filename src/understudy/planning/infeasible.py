"""Which limit leaves no schedule, said in one line."""

import numpy as np
from numpy.typing import NDArray

from understudy.errors import SettingError
from understudy.planning.paths import Structure, prefix_minima
from understudy.planning.problem import Limits, PlanningProblem
from understudy.planning.scaling import ScaledProblem

TOLERANCE = 1e-9  # of a count's share of the steps


def check_structure(problem: PlanningProblem, limits: Limits) -> None:
    """Raise SettingError where runs, switches and forced steps leave no schedule, whatever it costs."""
    if limits.min_run > problem.num_steps:
        raise SettingError(f"min_run is {limits.min_run}, but there are {problem.num_steps} steps; take a shorter run")
    allowed = limits.allowed(problem.keys, problem.num_steps)
    free = Structure(allowed, limits.min_run, None)
    needed = prefix_minima(free, np.zeros((1, *allowed.shape)), per_switch=1.0)[-1].min()
    if not np.isfinite(needed):
        raise SettingError(
            f"the forced steps leave no room for runs of {limits.min_run} steps; take a shorter min_run or force other "
            "steps"
        )
    if limits.max_switches is not None and needed > limits.max_switches:
        raise SettingError(
            f"the forced steps need {needed:.0f} switches, but max_switches is {limits.max_switches}; allow more or "
            "force fewer steps"
        )


def check_sums(problem: PlanningProblem, scaled: ScaledProblem, budget: float | None) -> None:
    """Raise SettingError where budget or a count of steps cannot be met, each on its own."""
    counted = scaled.sums[1:]
    paths = prefix_minima(scaled.structure, np.concatenate([scaled.sums[:1], counted, -counted]))
    totals = paths[-1, :, :, -1].min(axis=1)
    least_sums, most_sums = totals[: 1 + len(counted)], -totals[1 + len(counted) :]
    most = scaled.sum_limits[1]
    if budget is not None and least_sums[0] > most[0]:
        cheapest = least_sums[0] * float(problem.costs.max(axis=1).sum())
        raise SettingError(
            f"the budget is {budget:.6g} {problem.unit}, but the cheapest schedule within the limits costs "
            f"{cheapest:.6g}; allow more or loosen the limits"
        )
    for count, lowest, highest in zip(scaled.counts, least_sums[1:], most_sums, strict=True):
        wanted = f"{count.least:.0f}" if count.least == count.most else f"{count.least:.0f} to {count.most:.0f}"
        lowest, highest = (round(float(share) * problem.num_steps) for share in (lowest, highest))
        if lowest > count.most or highest < count.least or count.least > count.most:
            raise SettingError(
                f"the number of {count.name} is to be {wanted}, but {problem.num_steps} steps and the other limits "
                f"allow {lowest} to {highest}; change one of them"
            )


def exclusion(scaled: ScaledProblem, multipliers: NDArray[np.float64]) -> str:
    """What to say where each limit can be met, but not all together: those that the multipliers (G,) price."""
    names = ["budget", *(f"number of {count.name}" for count in scaled.counts)]
    priced = [name for name, price in zip(names, multipliers, strict=True) if price]
    binding = " and the ".join(priced if len(priced) > 1 else names)
    return f"the {binding} cannot be kept together by any schedule within the limits; loosen one of them"
