"""Shortest paths over steps: what the limits on runs and switches leave, without limits on sums.

A schedule is a path: each step either goes on with the model of the step before, or begins a run of another model,
which then takes at least `min_run` steps at once.

Shapes: Q weightings at a time, N steps, K models, S + 1 numbers of switches (one where they are not limited).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Structure:
    """allowed: (N, K), which model may make which step. min_run: steps of a run at least. max_switches: S, or None."""

    allowed: NDArray[np.bool_]
    min_run: int
    max_switches: int | None

    @property
    def width(self) -> int:
        """Size of the axis of switches."""
        return 1 if self.max_switches is None else self.max_switches + 1

    @cached_property
    def run_allowed(self) -> NDArray[np.bool_]:
        """Whether a model may make the `min_run` steps that begin at a step (N + 1, K)."""
        num_steps, num_keys = self.allowed.shape
        blocked = np.concatenate([np.zeros((1, num_keys), dtype=int), np.cumsum(~self.allowed, axis=0)])
        result = np.zeros((num_steps + 1, num_keys), dtype=bool)
        if self.min_run <= num_steps:
            result[: num_steps + 1 - self.min_run] = blocked[self.min_run :] == blocked[: -self.min_run]
        return result


def prefix_minima(structure: Structure, weights: Floats, per_switch: float = 0.0) -> Floats:
    """Least weight of the first t steps that end in a run of key k, as long as it must be, with at most s switches.

    weights: (Q, N, K), of any sign. per_switch: weight of a change of model. Gives (N + 1, Q, K, S + 1); infinite where
    there is no such beginning.
    """
    num_weightings, num_steps, num_keys = weights.shape
    run, allowed = structure.min_run, structure.allowed
    stepwise = np.where(allowed, weights, np.inf).swapaxes(0, 1)[..., None]  # (N, Q, K, 1)
    runs = _run_weights(structure, weights)
    best = np.full((num_steps + 1, num_weightings, num_keys, structure.width), np.inf)
    if run <= num_steps:
        best[run, ..., 0] = runs[0, ..., 0]
    apart = np.where(np.eye(num_keys, dtype=bool), np.inf, 0.0)[..., None]  # (K to, K from, 1)
    for t in range(run + 1, num_steps + 1):
        current = best[t - 1] + stepwise[t - 1]
        if t >= 2 * run and num_keys > 1:
            others = (best[t - run][:, None] + apart).min(axis=2)
            changed = others + (runs[t - run] + per_switch)
            if structure.max_switches is None:
                current = np.minimum(current, changed)
            else:
                current[..., 1:] = np.minimum(current[..., 1:], changed[..., :-1])
        best[t] = current
    return np.minimum.accumulate(best, axis=-1)


def _run_weights(structure: Structure, weights: Floats) -> Floats:
    """Weight of the `min_run` steps that begin at t (N + 1, Q, K, 1); infinite where a model may not make them all."""
    num_weightings, num_steps, num_keys = weights.shape
    sums = np.zeros((num_steps + 1, num_weightings, num_keys))
    np.cumsum(weights.swapaxes(0, 1), axis=0, out=sums[1:])
    runs = np.full_like(sums, np.inf)
    if structure.min_run <= num_steps:
        last = num_steps + 1 - structure.min_run
        runs[:last] = sums[structure.min_run :] - sums[:last]
    return np.where(structure.run_allowed[:, None], runs, np.inf)[..., None]
