"""Every trade of divergence for cost that no other beats: the convex frontier, without limits."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from understudy.planning.problem import PlanningProblem
from understudy.schedule import ModelSchedule


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """A schedule on the frontier, with its cost and total divergence. assignment: (N,), index of each step's key."""

    cost: float
    divergence: float
    keys: tuple[str, ...]
    assignment: NDArray[np.int8]

    @cached_property
    def schedule(self) -> ModelSchedule:
        """The schedule; made when it is asked for, since a frontier has as many as steps and models."""
        return ModelSchedule.from_keys(self.keys[index] for index in self.assignment)


@dataclass(frozen=True)
class _Move:
    """Handing a step to a cheaper model. slope: divergence for each unit of cost saved."""

    slope: float
    step: int
    model: int


def frontier(problem: PlanningProblem) -> tuple[FrontierPoint, ...]:
    """Give the schedules on the convex frontier of cost and divergence, from the reference alone to the cheapest.

    Of each step the lower convex hull over models is taken, beginning at the reference, and the moves along all hulls
    are made in the order of what they cost in divergence for what they save; of equal moves the earlier step first. So
    each point has the least divergence of all schedules that cost no more, and divergence is convex in cost. Schedules
    between the points can be optimal for budgets between theirs, above the line that joins them (`solve` finds them).
    """
    moves = sorted(
        (move for step in range(problem.num_steps) for move in _hull(problem, step)),
        key=lambda move: (move.slope, move.step),
    )
    assignment = np.zeros(problem.num_steps, dtype=np.int8)
    cost, divergence = problem.reference_cost, 0.0
    points = [FrontierPoint(cost, divergence, problem.keys, assignment.copy())]
    for move in moves:
        before, after = (move.step, assignment[move.step]), (move.step, move.model)
        cost += float(problem.costs[after] - problem.costs[before])
        divergence += float(problem.divergence[after] - problem.divergence[before])
        assignment[move.step] = move.model
        points.append(FrontierPoint(cost, divergence, problem.keys, assignment.copy()))
    return tuple(points)


def _hull(problem: PlanningProblem, step: int) -> list[_Move]:
    """The moves from the reference to the cheapest model along a step's lower convex hull, slopes rising."""
    costs, divergence = problem.costs[step], problem.divergence[step]
    current = 0
    moves: list[_Move] = []
    while True:
        cheaper = [model for model in range(len(costs)) if costs[model] < costs[current]]
        if not cheaper:
            return moves
        slopes = {
            model: float((divergence[model] - divergence[current]) / (costs[current] - costs[model]))
            for model in cheaper
        }
        # Of models on one line the cheapest, in one move.
        current = min(cheaper, key=lambda model: (slopes[model], costs[model]))
        moves.append(_Move(slopes[current], step, current))
