"""Prices for limited sums: Lagrangian multipliers, whose shortest paths bound every schedule from below.

Shapes: Q vectors of multipliers at a time, G limited sums, N steps, K models.
"""

import numpy as np
from numpy.typing import NDArray

from understudy.planning.paths import prefix_minima
from understudy.planning.scaling import ScaledProblem

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FIRST_GRID = 10.0 ** np.linspace(-7, 6, 40)
REFINEMENTS, REFINED_GRID = 5, 16
NEARBY = (1.0, 0.97, 1.03, 0.9, 1.1)
DIRECTIONS, RADII = 24, 4.0 ** -np.arange(-1, 4)  # tried at once where several multipliers move together
ROUNDS, SMALLEST = 40, 1e-7  # relative to the multipliers
ROUNDING = 1e-11  # of the largest totals: more than sums in floating point are wrong by


def charge(problem: ScaledProblem, multipliers: Floats) -> Floats:
    """What the limits give back (Q,): multiplier times the limit that it enforces, the upper one where positive.

    A little more, so that bounds hold although they are rounded.
    """
    least, most = (np.where(np.isfinite(limit), limit, 0.0) for limit in problem.sum_limits)
    given_back = np.maximum(multipliers, 0) @ most + np.minimum(multipliers, 0) @ least
    return np.asarray(given_back + ROUNDING * (1 + np.abs(multipliers).sum(axis=1)))


def priced(problem: ScaledProblem, multipliers: Floats) -> Floats:
    """Value of every step with its limited sums paid for (Q, N, K)."""
    return np.asarray(problem.value * problem.value_one + np.einsum("qg,gnk->qnk", multipliers, problem.sums))


def lower_bounds(problem: ScaledProblem, multipliers: Floats) -> Floats:
    """Value below which no schedule lies (Q,), the largest total called 1; -inf where a limit has the wrong sign."""
    least, most = problem.sum_limits
    is_enforced = ((multipliers <= 0) | np.isfinite(most)) & ((multipliers >= 0) | np.isfinite(least))
    paths = prefix_minima(problem.structure, priced(problem, multipliers), problem.value_one)
    bounds = paths[-1, :, :, -1].min(axis=1) - charge(problem, multipliers)
    return np.asarray(np.where(is_enforced.all(axis=1), bounds, -np.inf))


def best_multipliers(problem: ScaledProblem) -> Floats:
    """Multipliers (Q, G): first those of a high lower bound, zeros where nothing is limited, then some near them.

    Those near by give lower bounds for the whole, but higher ones for the ends of some schedules.

    The bound is concave: each multiplier is taken to its best along grids that narrow, and where there are several they
    are then moved together, since one after the other stops short at an edge. Any multipliers give a valid bound, so
    nothing depends on how good these are but the time that the search takes. The structure must leave some schedule.
    """
    least, most = problem.sum_limits
    active = np.flatnonzero(np.isfinite(least) | np.isfinite(most))
    best = np.zeros(len(least))
    for index in active:
        best = _improve(problem, best, int(index))
    if len(active) > 1 and best.any():
        best = _improve_together(problem, best, active)
    moving = np.flatnonzero(best)
    return np.asarray(np.outer(NEARBY if len(moving) else NEARBY[:1], best))


def _improve(problem: ScaledProblem, start: Floats, index: int) -> Floats:
    """Move one multiplier to where the bound is best, along a grid that narrows."""
    least, most = (limit[index] for limit in problem.sum_limits)
    negative = -FIRST_GRID if np.isfinite(least) else FIRST_GRID[:0]
    positive = FIRST_GRID if np.isfinite(most) else FIRST_GRID[:0]
    grid = np.unique(np.concatenate([negative, [0.0, start[index]], positive]))
    for _ in range(1 + REFINEMENTS):
        candidates = np.repeat(start[None], len(grid), axis=0)
        candidates[:, index] = grid
        found = int(np.argmax(lower_bounds(problem, candidates)))
        result = candidates[found]
        grid = np.linspace(grid[max(found - 1, 0)], grid[min(found + 1, len(grid) - 1)], REFINED_GRID + 1)
    return np.asarray(result)


def _improve_together(problem: ScaledProblem, start: Floats, active: Integers) -> Floats:
    """Move several multipliers at once, in directions drawn anew (always the same) and on along the last success."""
    generator = np.random.default_rng(0)
    best, bound = start, float(lower_bounds(problem, start[None])[0])
    radius, success = 0.5, np.zeros(len(active))
    scale = np.maximum(np.abs(start[active]), 0.05 * np.abs(start).max())
    for _ in range(ROUNDS):
        directions = np.concatenate([generator.standard_normal((DIRECTIONS, len(active))), success[None]])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True) + 1e-300
        moves = (radius * RADII[:, None, None] * directions).reshape(-1, len(active))
        candidates = np.repeat(best[None], len(moves), axis=0)
        candidates[:, active] += scale * moves
        bounds = lower_bounds(problem, candidates)
        found = int(np.argmax(bounds))
        if bounds[found] > bound:
            best, bound, success = candidates[found], float(bounds[found]), moves[found]
            radius = float(np.linalg.norm(success))
        else:
            radius *= RADII[-1]
        if radius < SMALLEST:
            break
    return best
