"""Random order at a fixed pace: a rule that asks no model, and so is a plan like any other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.noise import NoiseSchedule
from understudy.reveal import GIVEN, RevealPlan


def random_order_plan(
    plan: RevealPlan, blocks: NDArray[np.int64], counts: Sequence[Sequence[int]], noise: NoiseSchedule
) -> RevealPlan:
    """Reveal the free positions of each block in random order, `counts[i][k]` of sample i at step k.

    `remasking="random"` of LLaDA (Nie et al. 2025, arXiv 2502.09992). plan: a first-hitting plan, whose reveal times
    say the order within a block; with one block and one position a step, both reveal the same tokens in the same order.
    blocks: int64 (n, L). counts: n times N numbers, F in all of each sample. Step k looks at the time at which a share
    k/N of the tokens is expected to be clean.
    """
    if plan.hits is None:
        raise ValueError("the order is read from a plan that was drawn one by one")
    num_steps = len(counts[0])
    reveal_step = np.full_like(plan.reveal_step, GIVEN)
    for sample, row in enumerate(plan.reveal_step):
        free = np.flatnonzero(row != GIVEN)
        order = free[np.lexsort((plan.hits[sample, free], blocks[sample, free]))]
        reveal_step[sample, order] = np.repeat(np.arange(num_steps), counts[sample])
    return RevealPlan(noise.inverse(np.arange(num_steps + 1) / num_steps), reveal_step, plan.uniforms)
