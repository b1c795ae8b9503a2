"""Student's t, for whole degrees of freedom: how far a mean of few samples may stray."""

import math

import numpy as np

from understudy.errors import SettingError


def student_quantile(probability: float, degrees: int) -> float:
    """Give the t below which a share `probability` in [0.5, 1) of Student's law with `degrees` ≥ 1 lies.

    2.228 for 0.975 and 10. By bisection on the closed form of Abramowitz and Stegun (1964), 26.7.3 and 26.7.4;
    accurate to 1e-9 relatively where 1 − probability is above 1e-9. SettingError outside of the ranges.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise SettingError(
            f"Student's t is asked for probability {probability} and {degrees} degrees of freedom; it takes 0.5 up to, "
            "not including, 1, and at least one degree: take more samples"
        )
    low, high = 0.0, 1.0
    while _within(high, degrees) < 2 * probability - 1:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):  # no number lies between
            break
        low, high = (middle, high) if _within(middle, degrees) < 2 * probability - 1 else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """P(|T| ≤ t)."""
    angle = math.atan2(t, math.sqrt(degrees))
    is_odd = degrees % 2
    # Terms (1/2)·(3/4)·…·cos^2k for even degrees, (2/3)·(4/5)·…·cos^(2k + 1) for odd ones.
    steps = np.arange(1, (degrees - is_odd) // 2)
    factors = (2 * steps - 1 + is_odd) / (2 * steps + is_odd) * math.cos(angle) ** 2
    total = 1 + float(np.cumprod(factors).sum())
    if not is_odd:
        return math.sin(angle) * total
    rest = math.sin(angle) * math.cos(angle) * total if degrees > 1 else 0.0
    return 2 / math.pi * (angle + rest)
