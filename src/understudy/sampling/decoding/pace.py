"""How many positions a step reveals: blocks, the steps of each, and the positions of each step.

Rules with a fixed number of steps N reveal at least one position of every sequence in every step. Shapes: L length,
F free positions of a sequence.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from understudy.schedule import apportion


def equal_split(masked: int, steps: int) -> list[int]:
    """Positions revealed by each of a block's steps: masked // steps, and one more in the first masked % steps.

    `get_num_transfer_tokens` of LLaDA (Nie et al. 2025, arXiv 2502.09992).

    >>> equal_split(10, 4)
    [3, 3, 2, 2]
    """
    share, rest = divmod(masked, steps)
    return [share + (step < rest) for step in range(steps)]


def timestep_split(masked: int, steps: int) -> list[int]:
    """Positions revealed by each of a block's steps: floor(m·(1 − s/t)) of the m still masked, and all in the last.

    The rule of Dream (Ye et al. 2025, arXiv 2508.15487) for a step from time t to s, on times that fall evenly from 1
    to 0 (its own stop at 0.001) and without rounding: 1 − s/t is then one over the number of steps left.

    >>> timestep_split(10, 4)
    [2, 2, 3, 3]
    """
    counts: list[int] = []
    for left in range(steps, 0, -1):
        counts.append((masked - sum(counts)) // left)
    return counts


PACES: Mapping[str, Callable[[int, int], list[int]]] = MappingProxyType(
    {"equal": equal_split, "timestep": timestep_split}
)
"""How the positions of a block are spread over its steps, by name."""


def reach_threshold(scores: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Indices of the scores (C,) that are at least `threshold`, or of the highest alone where none is; ascending.

    Parallel decoding of Fast-dLLM (Wu et al. 2025, arXiv 2505.22618). Of equal scores the first counts as the highest.
    """
    reached = np.flatnonzero(scores >= threshold)
    return reached if len(reached) else np.array([scores.argmax()])


def highest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the `count` highest scores of (C,), ascending; of equal scores the first go first."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def block_indices(free: NDArray[np.bool_], block_length: int) -> NDArray[np.int64]:
    """Block of each position (n, L), counted from 0 at a sequence's first free position.

    free: bool (n, L), at least one true in a row. Blocks are `block_length` wide and the last may be cut short. Those
    of a prefix are negative and hold nothing to reveal; so may others be, between given tokens.
    """
    first = free.argmax(axis=1)[:, None]
    return np.asarray((np.arange(free.shape[1]) - first) // block_length)


def steps_of_blocks(free_of_blocks: Sequence[int], num_steps: int) -> list[int]:
    """Divide N steps over blocks with the given numbers of free positions, each at least 1.

    Every block gets one step; the others go in proportion to the positions that a block has beyond its first, by
    `apportion`. So blocks of equal size get equal steps, as LLaDA's do, where N is a multiple of their number; the
    total is N; and no block gets more steps than it has positions. num_steps: number of blocks … F.

    >>> steps_of_blocks([8, 8, 4], 10)
    [4, 4, 2]
    """
    spare = num_steps - len(free_of_blocks)
    beyond = [free - 1 for free in free_of_blocks]
    if spare == 0:
        return [1] * len(free_of_blocks)
    return [1 + steps for steps in apportion([Fraction(count, sum(beyond)) for count in beyond], spare)]


def reveal_counts(free_of_blocks: Sequence[int], num_steps: int, pace: str) -> list[int]:
    """Positions that each of the N steps reveals, at least 1 each and F together, block after block."""
    steps = steps_of_blocks(free_of_blocks, num_steps)
    return [count for masked, own in zip(free_of_blocks, steps, strict=True) for count in PACES[pace](masked, own)]
