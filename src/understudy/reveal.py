"""Reveal plans: who is revealed when, drawn before any model runs.

On a grid 1 = t_0 > … > t_N an ancestral step reveals each masked position with a probability that depends on the
noise schedule alone, never on the model. So the step K at which a position is revealed is i.i.d. with
P(K = k) = α(t_{k+1}) − α(t_k) and can be drawn first, together with the uniform u that will pick its token.
That changes no distribution and says beforehand which steps reveal nothing, and so cost nothing.

Shapes: n samples, L length, N steps, E events (a sequence and a step that reveals something in it), F free positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from understudy.errors import SettingError
from understudy.noise import NoiseSchedule
from understudy.schedule import ModelSchedule

GIVEN = -1  # reveal step of a position that the template already holds
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Events:
    """All passes that a plan needs, sorted by sample, then step; event e reveals positions[starts[e]:starts[e + 1]].

    samples, steps: int64 (E,); starts: int64 (E + 1,); positions: int64 (F,).
    """

    samples: NDArray[np.int64]
    steps: NDArray[np.int64]
    starts: NDArray[np.int64]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def num_revealed(self) -> NDArray[np.int64]:
        """Positions revealed by each event (E,), at least 1."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class RevealPlan:
    """The reveal step and the uniform of every position of n samples.

    times: float64 (N + 1,), decreasing from 1; times[k] is the time at which step k looks at the sequence.
    reveal_step: int64 (n, L) in 0 … N − 1; −1 where the position is given; N where it is still masked after the last
        step (only if the grid stops above 0) and a clean-up pass reveals it.
    uniforms: float64 (n, L) in [0, 1); the token is the inverse of p(x0 | xt)'s distribution function there.
    hits: float64 (n, L) or None. None reveals all positions of a step at once; else every position is an event of its
        own, in the order of `hits`: the clean probability alpha at which it is revealed (`draw` with `one_by_one`).

    A sample's row depends on (seed, its index, noise, grid) alone: not on n, nor on any model or schedule. Plans of
    one seed on different grids reveal the positions in the same order.
    """

    times: NDArray[np.float64]
    reveal_step: NDArray[np.int64]
    uniforms: NDArray[np.float64]
    hits: NDArray[np.float64] | None = None

    @classmethod
    def draw(
        cls,
        free: NDArray[np.bool_],
        times: NDArray[np.float64],
        noise: NoiseSchedule,
        *,
        seed: int,
        first_index: int = 0,
        indices: Sequence[int] | None = None,
        one_by_one: bool = False,
    ) -> "RevealPlan":
        """Draw a plan for the free positions.

        free: bool (n, L). times: a grid, such as `noise.grid(num_steps)`. seed: 0 … 2^64 − 1.
        first_index: index of the first sample, so that later samples of one seed can be drawn on their own; indices:
        those of all of them instead, n whole numbers.
        one_by_one: first-hitting sampling (Zheng et al. 2024, arXiv 2409.02908), the limit of ever more steps. Each
        position has a reveal time of its own, at which alpha equals a uniform, and is revealed alone; its step is the
        one that its time falls in, so that the plan without `one_by_one` has the same steps and uniforms.
        Raises SettingError for a grid that does not fall from 1 to at least 0, or a seed out of range.
        """
        _check_grid(times)
        _check_index("seed", seed)
        chosen = range(first_index, first_index + len(free)) if indices is None else indices
        for index in chosen:
            _check_index("the index of a sample", index)
        uniforms = np.empty((*free.shape, 2))
        for i in range(len(free)):
            uniforms[i] = philox_uniforms(int(seed), int(chosen[i]), 2 * free.shape[1]).reshape(-1, 2)
        # P(K <= k) = alpha(t_{k+1}): K is the first step whose clean probability exceeds the uniform.
        clean_after = np.asarray(noise.alpha(times[1:]))
        step = np.searchsorted(clean_after, uniforms[..., 0], side="right").astype(np.int64)
        hits, tokens = (np.ascontiguousarray(uniforms[..., i]) for i in range(2))
        return cls(times, np.where(free, step, GIVEN), tokens, hits if one_by_one else None)

    @property
    def num_samples(self) -> int:
        """Number of sequences n."""
        return len(self.reveal_step)

    @property
    def length(self) -> int:
        """Sequence length L."""
        return int(self.reveal_step.shape[1])

    @property
    def num_steps(self) -> int:
        """Nominal steps N."""
        return len(self.times) - 1

    @cached_property
    def events(self) -> Events:
        """The passes that reveal something."""
        samples, positions = np.nonzero(self.reveal_step != GIVEN)
        steps = self.reveal_step[samples, positions]
        within = () if self.hits is None else (self.hits[samples, positions],)
        order = np.lexsort((positions, *within, steps, samples))
        samples, steps, positions = samples[order], steps[order], positions[order]
        is_first = np.ones(len(order), dtype=bool)
        if self.hits is None:
            is_first[1:] = (np.diff(samples) != 0) | (np.diff(steps) != 0)
        firsts = np.flatnonzero(is_first)
        return Events(samples[firsts], steps[firsts], np.append(firsts, len(order)), positions)

    @cached_property
    def passes_per_sample(self) -> NDArray[np.int64]:
        """Events of each sample (n,): the passes that it needs."""
        return np.bincount(self.events.samples, minlength=self.num_samples)

    def part(self, rows: slice) -> "RevealPlan":
        """The plan of some of the samples; each is what it was."""
        hits = None if self.hits is None else self.hits[rows]
        return RevealPlan(self.times, self.reveal_step[rows], self.uniforms[rows], hits)

    def event_keys(self, schedule: ModelSchedule) -> NDArray[np.str_]:
        """Key of the model that makes each event (E,); the clean-up pass belongs to the last segment's model."""
        if schedule.num_steps != self.num_steps:
            raise SettingError(f"the schedule has {schedule.num_steps} steps and the plan {self.num_steps}")
        by_step = np.array([*schedule.steps(), schedule.segments[-1].key])
        return np.asarray(by_step[self.events.steps])

    def num_passes(self, schedule: ModelSchedule) -> dict[str, int]:
        """Count passes by key, over all samples: the exact NFE, known before the first pass."""
        keys = self.event_keys(schedule)
        return {key: int(np.count_nonzero(keys == key)) for key in schedule.keys}


def philox_uniforms(seed: int, index: int, count: int, stream: int = 0) -> NDArray[np.float64]:
    """Uniforms (count,) in [0, 1) of sample `index`, from raw Philox words: what no numpy release may change.

    seed, index, stream: 0 … 2^64 − 1; different ones are independent, and one may be read up to 2^66 words far. A plan
    reads stream 0; rules that draw anew in every pass read stream 1 and up.
    """
    generator = np.random.Philox(
        key=np.array([seed, index], dtype=np.uint64), counter=np.array([0, stream, 0, 0], dtype=np.uint64)
    )
    return np.asarray(generator.random_raw(count) >> np.uint64(11), dtype=np.float64) * 2.0**-53


def _check_index(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or not 0 <= value <= MAX_SEED:
        raise SettingError(f"{name} is {value}; it must be a whole number between 0 and 2^64 - 1")


def _check_grid(times: NDArray[np.float64]) -> None:
    if len(times) < 2 or times[0] != 1.0 or times[-1] < 0.0 or not np.all(np.diff(times) < 0):
        raise SettingError("a time grid must fall strictly from 1 to a last time of at least 0, over one step or more")
