"""Noise schedules: how likely a token is to be clean at time t.

Time runs from t = 1, where every token is masked, to t = 0, where every token is clean. A noise schedule is
the function alpha(t) = P(token clean at t), with alpha(0) = 1 and alpha(1) = 0 exactly, falling in between.
Everything here is numpy in float64: times, probabilities and weights are drawn and compared before they meet
a network.

Every method takes a float or an array of any shape, and gives back the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.errors import SettingError

Array = NDArray[np.float64]
T = TypeVar("T", float, NDArray[np.float64])


class NoiseSchedule(ABC):
    """The probability alpha(t) that a token is clean at time t, and what follows from it.

    A schedule defines `_mask_prob`, `_alpha`, `_alpha_derivative` and `_inverse` on float64 arrays that are
    known to be in [0, 1]. The mask probability is a primitive beside alpha, not `1 - alpha`, so that both
    keep their relative precision where they are small.

    SettingError if a time or a probability is outside [0, 1] or not a number.
    """

    name: ClassVar[str]

    def alpha(self, t: T) -> T:
        """Give the probability that a token is clean at time t in [0, 1]."""
        return _like(t, self._alpha(_checked(t, "t")))

    def mask_prob(self, t: T) -> T:
        """Give the probability 1 - alpha(t) that a token is masked at t in [0, 1], precise near t = 0."""
        return _like(t, self._mask_prob(_checked(t, "t")))

    def inverse(self, alpha: T) -> T:
        """Give the time t at which a token is clean with probability `alpha` in [0, 1]."""
        return _like(alpha, self._inverse(_checked(alpha, "alpha")))

    def alpha_derivative(self, t: T) -> T:
        """Give d alpha / dt at t in [0, 1]; never positive."""
        return _like(t, self._alpha_derivative(_checked(t, "t")))

    def loss_weight(self, t: T) -> T:
        """Give the weight -alpha'(t) / (1 - alpha(t)) of the cross-entropy at t in (0, 1].

        The negative ELBO of a sequence is the integral over t of this weight times the expected cross-entropy
        summed over masked tokens (arXiv:2406.07524, arXiv:2406.04329). It grows without bound as t falls to
        0, so t = 0 is a SettingError.
        """
        times = _checked_positive(t)
        return _like(t, -self._alpha_derivative(times) / self._mask_prob(times))

    def reveal_prob(self, t: T, s: T) -> T:
        """Give the probability (alpha(s) - alpha(t)) / (1 - alpha(t)) that a token masked at t is clean at s.

        0 <= s <= t <= 1 and t > 0; arrays broadcast. Exactly 1 at s = 0, where nothing may stay masked.
        SettingError if s is above t or t is 0.
        """
        start, end = _checked_positive(t), _checked(s, "s")
        if not np.all(end <= start):
            raise SettingError("s is above t; time runs downwards, so s must be at most t")
        masked = self._mask_prob(start)
        # Where the curve is flat, the sine of some platform could fall by a rounding: no negative probabilities.
        return _like(t, np.maximum(masked - self._mask_prob(end), 0.0) / masked)

    def grid(self, num_steps: int, t_end: float = 0.0) -> Array:
        """Give the num_steps + 1 times of a sampler, from 1 down to `t_end`, evenly spaced in t.

        `num_steps` is at least 1 and `t_end` in [0, 1). Both ends are exact, and with `t_end` 0 the k-th time
        is the float64 nearest to (num_steps - k) / num_steps. SettingError if an argument is outside its
        range.
        """
        if num_steps < 1:
            raise SettingError(f"the number of steps is {num_steps}; it must be at least 1")
        if not 0.0 <= t_end < 1.0:
            raise SettingError(f"the end of the time grid is {t_end}; it must be at least 0 and below 1")
        remaining = np.arange(num_steps, -1, -1, dtype=np.float64) / num_steps
        return t_end + (1.0 - t_end) * remaining

    @abstractmethod
    def _alpha(self, t: Array) -> Array: ...

    @abstractmethod
    def _mask_prob(self, t: Array) -> Array: ...

    @abstractmethod
    def _inverse(self, alpha: Array) -> Array: ...

    @abstractmethod
    def _alpha_derivative(self, t: Array) -> Array: ...


@dataclass(frozen=True)
class LogLinear(NoiseSchedule):
    """alpha(t) = 1 - t: on an even grid, every step reveals the same expected number of tokens.

    MDLM's schedule (arXiv:2406.07524), whose code has alpha(t) = 1 - (1 - eps) t with eps = 1e-3, so that a
    thousandth of the tokens is clean even at t = 1. Here eps is 0, so that sampling really starts from all
    masks; the loss weight is 1/t for every eps, so models trained with one serve under the other.

    >>> LogLinear().alpha(0.25), LogLinear().loss_weight(0.25)
    (0.75, 4.0)
    """

    name: ClassVar[str] = "loglinear"

    def _alpha(self, t: Array) -> Array:
        return 1.0 - t

    def _mask_prob(self, t: Array) -> Array:
        return t.copy()

    def _inverse(self, alpha: Array) -> Array:
        return 1.0 - alpha

    def _alpha_derivative(self, t: Array) -> Array:
        return -np.ones_like(t)


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """alpha(t) = 1 - cos(pi/2 (1 - t)): few reveals per step at first, with little context, more later.

    The cosine schedule of MD4 (arXiv:2406.04329).

    >>> round(Cosine().alpha(0.5), 6)
    0.292893
    """

    name: ClassVar[str] = "cosine"

    def _alpha(self, t: Array) -> Array:
        # 1 - cos(x) = 2 sin(x/2)**2 keeps the digits of a small alpha; near t = 0 it would miss 1 by two
        # roundings, and there 1 - sin is exact at the end.
        return np.where(t < 0.5, 1.0 - self._mask_prob(t), 2.0 * np.sin(np.pi / 4 * (1.0 - t)) ** 2)

    def _mask_prob(self, t: Array) -> Array:
        # cos(pi/2 (1 - t)) as a sine, which is exactly 0 at t = 0; cos(pi/2) in float64 is 6e-17.
        return np.asarray(np.sin(np.pi / 2 * t))

    def _inverse(self, alpha: Array) -> Array:
        # The two branches undo those of `_alpha`, each where it is well conditioned.
        early = 1.0 - 4 / np.pi * np.arcsin(np.sqrt(alpha / 2))
        late = 2 / np.pi * np.arcsin(1.0 - alpha)
        return np.where(alpha < 0.25, early, late)

    def _alpha_derivative(self, t: Array) -> Array:
        # The cosine of pi/2 t, as a sine that is exactly 0 at t = 1.
        return np.asarray(-np.pi / 2 * np.sin(np.pi / 2 * (1.0 - t)))


NOISE_SCHEDULES: Mapping[str, NoiseSchedule] = MappingProxyType(
    {schedule.name: schedule for schedule in (LogLinear(), Cosine())}
)
"""The noise schedules by name."""


def noise_schedule(name: str) -> NoiseSchedule:
    """Give the noise schedule of that name; SettingError, with the names there are, if there is none.

    >>> noise_schedule("cosine")
    Cosine()
    """
    try:
        return NOISE_SCHEDULES[name]
    except KeyError:
        names = ", ".join(NOISE_SCHEDULES)
        raise SettingError(f"there is no noise schedule {name!r}; choose one of: {names}") from None


def _checked(values: ArrayLike, what: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    # Written so that a NaN fails it too.
    is_inside = (array >= 0.0) & (array <= 1.0)
    if not np.all(is_inside):
        raise SettingError(f"{what} = {array[~is_inside].flat[0]} is outside the range from 0 to 1")
    return array


def _checked_positive(t: ArrayLike) -> Array:
    times = _checked(t, "t")
    if not np.all(times > 0.0):
        raise SettingError("t is 0, where no token is masked any more; it must be above 0 and at most 1")
    return times


def _like(_given: T, result: Array) -> T:
    """Give the result as a float if it is a single number, as an array otherwise."""
    value: Any = result.item() if result.ndim == 0 else result
    return cast("T", value)
