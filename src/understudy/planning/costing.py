"""From an analysis to a planning problem: divergences to plan on, and costs in one convention.

Shapes: M models besides the reference, N steps, K = M + 1 models, the reference first.
"""

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from understudy.costs import CostTable
from understudy.errors import DataError, SettingError
from understudy.flops import Shape, expected_step_flops, expected_step_passes, read_shape
from understudy.importance import Importance, PathDivergence
from understudy.noise import noise_schedule
from understudy.planning.problem import PlanningProblem

Floats = NDArray[np.float64]
Convention: TypeAlias = Literal["blocks", "head", "executed", "milliseconds", "steps"]
UNITS = {
    "blocks": "FLOPs of blocks",
    "head": "FLOPs with head",
    "executed": "expected FLOPs executed",
    "milliseconds": "ms a sample",
    "steps": "steps of the reference",
}


def planning_problem(
    importance: Importance,
    convention: Convention,
    *,
    steps: int | None = None,
    condition: str | None = None,
    costs: tuple[CostTable, int] | None = None,
) -> PlanningProblem:
    """Give what to plan on: smoothed path divergences and the expected cost of each step, for one sequence.

    Divergences are of `PathDivergence.choosing`, the half of the trajectories that schedules are chosen by.

    convention: "blocks" and "head", nominal FLOPs of a full pass at every step, without and with the output head;
    "executed", those of the lazy pass times the probability that the step reveals something; "milliseconds", the same
    probability times the pass time in `costs`, a cost table and the batch size to read it at; "steps", 1 for a step of
    the reference and 0 for others. steps: N, that of the analysis unless given. condition: as of `Importance.path`.

    SettingError where shapes or pass times of a model are missing, lengths differ, or the condition was not measured.
    """
    if convention not in get_args(Convention):
        raise SettingError(f"the convention is {convention!r}; it must be one of {', '.join(get_args(Convention))}")
    path = importance.path(condition)
    keys = (importance.reference, *path.keys)
    count = path.num_steps if steps is None else steps
    if count < 1:
        raise SettingError(f"steps is {count}; it must be at least 1")
    smooth = np.maximum(path.choosing.smooth(count), 0.0)  # an estimate without bias can fall below
    divergence = np.concatenate([np.zeros((1, count)), smooth]).T
    return PlanningProblem(
        keys, divergence, _costs(importance, path, keys, convention, count, costs), UNITS[convention]
    )


def model_shapes(importance: Importance) -> dict[str, Shape] | None:
    """Shapes of all models, None unless all are known. DataError where one is damaged."""
    shapes = _known_shapes(importance)
    return shapes if len(shapes) == len(importance.models) else None


def _known_shapes(importance: Importance) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for key, model in importance.models.items():
        content = model.get("shape")
        if content is None:
            continue
        try:
            shapes[key] = read_shape(content)
        except (AttributeError, TypeError, DataError) as error:
            raise DataError(
                f"the shape of model {key} in the importance file is damaged ({error}); analyze again"
            ) from error
    return shapes


def _costs(
    importance: Importance,
    path: PathDivergence,
    keys: tuple[str, ...],
    convention: Convention,
    count: int,
    costs: tuple[CostTable, int] | None,
) -> Floats:
    """Expected cost of each step by each model (N, K)."""
    if convention == "steps":
        return np.tile(np.array([key == keys[0] for key in keys], dtype=np.float64), (count, 1))
    noise = noise_schedule(importance.noise)
    if convention == "milliseconds":
        if costs is None:
            raise SettingError("planning in milliseconds needs pass times; give a cost table of `understudy bench`")
        table, batch_size = costs
        check_table(table, importance, path)
        times = [table.pass_time(key, batch_size).per_sequence for key in keys]
        return np.outer(expected_step_passes(count, noise, path.free_positions), times)
    shapes = model_shapes(importance)
    if shapes is None:
        raise SettingError("the importance file lacks the shape of a model, so FLOPs are unknown; plan in light steps")
    if convention == "executed":
        each = [
            expected_step_flops(shapes[key], count, noise, length=path.length, free_positions=path.free_positions)
            for key in keys
        ]
        return np.stack(each, axis=1)
    passes = [shapes[key].pass_flops(path.length) for key in keys]
    return np.tile([float(cost.blocks if convention == "blocks" else cost.total) for cost in passes], (count, 1))


def check_table(table: CostTable, importance: Importance, path: PathDivergence) -> None:
    """Raise SettingError where pass times are of another length than the analysis, or of models of other shapes."""
    if table.length != path.length:
        raise SettingError(
            f"the cost table was measured at length {table.length}, the analysis at {path.length}; measure again by "
            f"`understudy bench --length {path.length}`"
        )
    for key, shape in _known_shapes(importance).items():
        measured = table.shapes.get(key, shape)
        if measured != shape:
            raise SettingError(
                f"the cost table measured {key} as {_shape_text(measured)}, and {_shape_text(shape)} was analysed; "
                "measure the same models by `understudy bench`"
            )


def _shape_text(shape: Shape) -> str:
    return f"{shape.blocks}x{shape.width} over {shape.vocab_size} tokens"
