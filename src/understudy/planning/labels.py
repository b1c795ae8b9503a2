"""Label setting: all schedules from the last step to the first, without those that cannot be best.

A label is the end of a schedule: the steps from t on, begun by a model that goes on from before t. It is dropped where
another end of the same state is no worse in cost and value; where no beginning keeps the limits; and where no beginning
brings it below the best schedule known, which Lagrangian bounds tell.

Shapes: E labels, Q multipliers, N steps, K models.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.planning.multipliers import ROUNDING, charge, priced
from understudy.planning.paths import prefix_minima
from understudy.planning.scaling import ScaledProblem

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MODEL, SWITCHES, COST, VALUE, PARENT, IS_CHANGE, COUNTS = range(7)  # rows of labels (7 or more, E), whole numbers


@dataclass(frozen=True)
class Found:
    """The best schedule found: index of the model of every step, its exact value and cost in the problem's units.

    is_complete: whether none that is as good or better, and below the ceiling, was left out.
    """

    models: tuple[int, ...]
    value: int
    cost: int
    is_complete: bool


class TooManyLabelsError(Exception):
    """A search that would take too long; never leaves the planner."""


class LabelSearch:
    """Searches the schedules of a problem with given multipliers (Q, G), narrowly or for all."""

    def __init__(self, problem: ScaledProblem, multipliers: Floats) -> None:
        self._problem = problem
        self._multipliers = multipliers
        self._charge = charge(problem, multipliers)
        self._num_steps, self._num_models = problem.value.shape
        # Beginnings in each weighting: the priced values, the cost, and every counted sum at its least and its most.
        counted = problem.sums[1:]
        weights = np.concatenate([priced(problem, multipliers), problem.sums[:1], counted, -counted])
        self._prefixes = prefix_minima(problem.structure, weights)
        run = problem.structure.min_run
        self._run_value, self._run_cost = (_run_sums(array, run) for array in (problem.value, problem.cost))
        self._start = np.zeros((COUNTS + len(problem.counts), self._num_models), dtype=np.int64)
        self._start[MODEL] = np.arange(self._num_models)

    def run(self, *, ceiling: float = np.inf, width: int | None = None, most_labels: float = np.inf) -> Found | None:
        """Give the best schedule, None where there is none. TooManyLabelsError where `most_labels` do not reach.

        ceiling: only schedules of at most this value, the largest total called 1, are looked for. width: most labels
        kept at a step, those of the best bounds; all where None.
        """
        run, total, is_complete = self._problem.structure.min_run, 0, True
        thin_out = _least if self._problem.budget is None else _undominated
        levels, traces = {self._num_steps: self._start}, {self._num_steps: _trace(self._start)}
        for t in range(self._num_steps - 1, run - 1, -1):
            labels, bounds = self._prune(self._extend(levels, t), t, ceiling)
            kept = thin_out(labels, self._states(labels))
            if width is not None and len(kept) > width:
                kept = kept[np.sort(np.argpartition(bounds[kept], width)[:width])]
                is_complete = False
            levels[t], traces[t] = labels[:, kept], _trace(labels[:, kept])
            levels.pop(t + run, None)
            total += len(kept)
            if total > most_labels:
                raise TooManyLabelsError
        return self._choose(levels[run], traces, is_complete)

    def _extend(self, levels: dict[int, Integers], t: int) -> Integers:
        """Labels at t: those at t + 1 with a step more, and those a run later with that run and a change before it."""
        problem, structure = self._problem, self._problem.structure
        nearer = _with_parents(levels[t + 1], is_change=False)
        nearer = nearer[:, structure.allowed[t, nearer[MODEL]]]
        self._add(nearer, 1, problem.value[t], problem.cost[t])
        if t + structure.min_run > self._num_steps:
            return np.asarray(nearer)
        farther = _with_parents(levels[t + structure.min_run], is_change=True)
        is_possible = structure.run_allowed[t, farther[MODEL]]
        if structure.max_switches is not None:
            is_possible &= farther[SWITCHES] < structure.max_switches
        farther = farther[:, is_possible]
        self._add(farther, structure.min_run, self._run_value[t], self._run_cost[t])
        farther[SWITCHES] += 1
        farther[VALUE] += 1
        parts = []
        for model in range(self._num_models):
            changed = farther[:, farther[MODEL] != model]
            changed[MODEL] = model
            parts.append(changed)
        # Changes come first, and so win ties: the earlier change is the better one.
        return np.asarray(np.concatenate([*parts, nearer], axis=1))

    def _add(self, labels: Integers, steps: int, value: Integers, cost: Integers) -> None:
        """Let the model of each label make `steps` more of value and cost (K,) in all."""
        models = labels[MODEL]
        labels[VALUE] += value[models]
        labels[COST] += cost[models]
        labels[COUNTS:] += steps * self._problem.groups[:, models]

    def _prune(self, labels: Integers, t: int, ceiling: float) -> tuple[Integers, Floats]:
        """Drop what cannot be begun within the limits or below the ceiling; gives the rest and their bounds."""
        problem, count = self._problem, len(self._multipliers)
        most_switches = problem.structure.max_switches
        left = 0 if most_switches is None else most_switches - labels[SWITCHES]
        beginnings = self._prefixes[t][:, labels[MODEL], left]  # (weightings, E)
        sums = np.concatenate([labels[COST : COST + 1] * problem.cost_one, labels[COUNTS:] / self._num_steps])
        prices = self._multipliers @ sums + beginnings[:count] - self._charge[:, None]
        bounds = labels[VALUE] * problem.value_one + prices.max(axis=0)
        least, most = (limit[:, None] for limit in problem.sum_limits)
        lowest = sums + beginnings[count : count + len(sums)]
        highest = sums[1:] - beginnings[count + len(sums) :]
        is_kept = np.isfinite(bounds) & (bounds <= ceiling)
        is_kept &= (lowest <= most + ROUNDING).all(axis=0) & (highest >= least[1:] - ROUNDING).all(axis=0)
        return labels[:, is_kept], bounds[is_kept]

    def _states(self, labels: Integers) -> Integers:
        """One number for each label's model, switches and counts (E,)."""
        states = labels[MODEL]
        if self._problem.structure.max_switches is not None:
            states = states * self._problem.structure.width + labels[SWITCHES]
        for row in labels[COUNTS:]:
            states = states * (self._num_steps + 1) + row
        return np.asarray(states)

    def _choose(self, labels: Integers, traces: dict[int, Integers], is_complete: bool) -> Found | None:
        """Put the first run before the labels at its end, and give the best schedule, of equal ones the first."""
        problem, run = self._problem, self._problem.structure.min_run
        labels = _with_parents(labels, is_change=False)
        labels = labels[:, problem.structure.run_allowed[0, labels[MODEL]]]
        self._add(labels, run, self._run_value[0], self._run_cost[0])
        is_kept = np.ones(labels.shape[1], dtype=bool)
        if problem.budget is not None:
            is_kept &= labels[COST] <= problem.budget
        for limit, counted in zip(problem.counts, labels[COUNTS:], strict=True):
            is_kept &= (counted >= limit.least) & (counted <= limit.most)
        labels = labels[:, is_kept]
        if not labels.shape[1]:
            return None
        value, cost = min(zip(labels[VALUE].tolist(), labels[COST].tolist(), strict=True))
        ties = labels[PARENT, (labels[VALUE] == value) & (labels[COST] == cost)]
        schedules = [tuple(_follow(traces, run, int(tie))) for tie in ties]
        best = min(schedules, key=lambda models: [t for t in range(1, len(models)) if models[t] != models[t - 1]])
        return Found(best, value, cost, is_complete)


def _with_parents(labels: Integers, *, is_change: bool) -> Integers:
    """A copy of labels, each with its own place as parent."""
    copy = labels.copy()
    copy[PARENT], copy[IS_CHANGE] = np.arange(labels.shape[1]), is_change
    return copy


def _trace(labels: Integers) -> Integers:
    """What it takes to follow labels to the last step (3, E)."""
    return labels[[MODEL, PARENT, IS_CHANGE]]


def _follow(traces: dict[int, Integers], run: int, index: int) -> Iterator[int]:
    """Models of all steps of the schedule whose label after the first run has this index."""
    t, last = run, max(traces)
    yield from (int(traces[t][0, index]) for _ in range(run))
    while t < last:
        model, index, is_change = (int(entry) for entry in traces[t][:, index])
        following = run if is_change else 1
        t += following
        yield from (int(traces[t][0, index]) if is_change else model for _ in range(following))


def _undominated(labels: Integers, states: Integers) -> Integers:
    """Places of the labels that no other of their state matches in cost and value; of equal ones the first."""
    order = np.lexsort((labels[VALUE], labels[COST], states))
    states, (_, ranks) = states[order], np.unique(labels[VALUE, order], return_inverse=True)
    # Ranks fall below all earlier ones where a new state begins, so one running minimum serves all states.
    ranks = ranks - np.cumsum(_is_new(states)) * (len(ranks) + 1)
    is_best = np.ones(len(ranks), dtype=bool)
    is_best[1:] = ranks[1:] < np.minimum.accumulate(ranks)[:-1]
    return np.asarray(order[is_best])


def _least(labels: Integers, states: Integers) -> Integers:
    """Place of the label of least value in each state; of equal ones the cheapest, then the first."""
    order = np.lexsort((labels[COST], labels[VALUE], states))
    return np.asarray(order[_is_new(states[order])])


def _is_new(states: Integers) -> NDArray[np.bool_]:
    """Where another state begins (E,)."""
    return np.asarray(np.diff(states, prepend=-1) != 0)


def _run_sums(values: Integers, run: int) -> Integers:
    """Sum of each `run` steps that follow one another (N − run + 1, K)."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    return np.asarray(sums[run:] - sums[:-run])
