"""A planning problem in whole numbers, so that sums are exact and ties are ties.

Shapes: N steps, K models, G sums that are limited.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from understudy.planning.paths import Structure
from understudy.planning.problem import Limits, PlanningProblem, StepCount

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

VALUE_BITS = 60  # divergence in the upper ones, switches below, so that one number orders by both
COST_BITS = 52
COST_TOLERANCE = 1e-12  # of the dearest schedule's cost; a budget that a schedule meets in all digits is met


@dataclass(frozen=True, eq=False)
class ScaledProblem:
    """What is minimised and what is limited, in whole numbers.

    value: (N, K), divergence in units so small that N switches, 1 each, come to less than the least difference. cost:
    (N, K); budget: the most they may come to, None where cost is not limited. value_one, cost_one: what 1 stands for
    when the largest totals are called 1.
    """

    structure: Structure
    value: Integers
    cost: Integers
    budget: int | None
    counts: tuple[StepCount, ...]
    value_one: float
    cost_one: float

    @classmethod
    def create(cls, problem: PlanningProblem, budget: float | None, limits: Limits) -> "ScaledProblem":
        """Round a problem to whole numbers: divergences to 1e-14 of the largest total, costs to 1e-15."""
        allowed = limits.allowed(problem.keys, problem.num_steps)
        switch_bits = problem.num_steps.bit_length()
        value, _ = _round(problem.divergence, VALUE_BITS - switch_bits)
        cost, largest = _round(problem.costs, COST_BITS)
        limit = None
        if budget is not None:
            share = min(2.0, budget / largest) if largest else float(budget >= 0)
            limit = math.floor((share + COST_TOLERANCE) * 2**COST_BITS) + problem.num_steps
        return cls(
            structure=Structure(allowed, limits.min_run, limits.max_switches),
            value=value << switch_bits,
            cost=cost,
            budget=limit,
            counts=limits.counted(problem.keys),
            value_one=2.0**-VALUE_BITS,
            cost_one=2.0**-COST_BITS,
        )

    @cached_property
    def groups(self) -> Integers:
        """Which models each counted limit counts (number of counted limits, K)."""
        rows = [count.group for count in self.counts]
        return np.array(rows, dtype=np.int64).reshape(len(rows), self.value.shape[1])

    @cached_property
    def sums(self) -> Floats:
        """Weights of the limited sums (G, N, K), each with a largest total of about 1: the cost first, then counts."""
        num_steps = len(self.value)
        counts = np.broadcast_to(self.groups[:, None] / num_steps, (len(self.groups), *self.value.shape))
        return np.concatenate([self.cost[None] * self.cost_one, counts])

    @cached_property
    def sum_limits(self) -> tuple[Floats, Floats]:
        """Least and most of each limited sum (G,); infinite where there is no limit."""
        num_steps = len(self.value)
        most = math.inf if self.budget is None else self.budget * self.cost_one
        least_counts = [count.least / num_steps if count.least > 0 else -math.inf for count in self.counts]
        return np.array([-math.inf, *least_counts]), np.array([most, *(c.most / num_steps for c in self.counts)])


def _round(values: Floats, bits: int) -> tuple[Integers, float]:
    """Whole numbers (N, K) such that the largest total over steps is 2^bits, and that total."""
    largest = float(values.max(axis=1).sum())
    if not largest:
        return np.zeros(values.shape, dtype=np.int64), 0.0
    return np.rint(values / largest * 2.0**bits).astype(np.int64), largest
