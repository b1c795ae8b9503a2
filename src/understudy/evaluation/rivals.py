"""The rival that every schedule has: the heavy model alone in fewer steps, at the same cost."""

from collections.abc import Mapping
from typing import Unpack

from understudy.denoisers import Denoiser
from understudy.flops import reference_key
from understudy.sampling import SamplingOptions, SamplingTask
from understudy.schedule import ModelSchedule


def fewer_steps(
    denoisers: Mapping[str, Denoiser], schedule: ModelSchedule | str, **options: Unpack[SamplingOptions]
) -> ModelSchedule:
    """The costliest model alone, in as many steps as cost what the samples of `schedule` cost.

    options: those of `SamplingTask.create`; ancestral sampling. What is compared are executed FLOPs of the samples
    asked for, which plans tell without running a model: these steps cost no more, and one step more would, within 1 and
    the steps of `schedule`. That model alone is its own rival. Raises the errors of `SamplingTask.create`.
    """
    task = SamplingTask.create(denoisers, schedule, **options)
    heavy = reference_key(denoisers, task.plan.length)
    if task.schedule.keys == (heavy,):
        return task.schedule
    options["steps"] = None

    def cost(steps: int) -> float:
        return SamplingTask.create(denoisers, ModelSchedule.parse(f"{heavy}{steps}"), **options).flops.executed

    low, high = 1, task.schedule.num_steps  # in fewer steps more tokens share a pass
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= task.flops.executed else (low, middle - 1)
    return ModelSchedule.parse(f"{heavy}{low}")
