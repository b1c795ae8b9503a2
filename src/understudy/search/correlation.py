"""Rank correlations that know ties, and how sure they are. S schedules, n samples, R resamples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy import metrics

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """A correlation in [−1, 1] with its interval; None where one side does not vary, so that there is none.

    The interval alone is None where there are too few samples for one.
    """

    value: float | None
    ci95: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"value": self.value, "ci95": None if self.ci95 is None else list(self.ci95)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "RankCorrelation":
        """Inverse of `to_dict`."""
        interval = content["ci95"]
        return cls(content["value"], None if interval is None else (interval[0], interval[1]))


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks (S,) from 1 of the values (S,), smallest first; equal values share the mean of their ranks."""
    numbers = np.asarray(values, dtype=np.float64)
    _, which, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return np.asarray((ends - (sizes - 1) / 2)[which], dtype=np.float64)


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's ρ: the correlation of the average ranks (S,). None where either side does not vary."""
    ranks = [average_ranks(values) for values in (first, second)]
    a, b = (values - values.mean() for values in ranks)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / scale, -1, 1)) if scale else None


def kendall(first: ArrayLike, second: ArrayLike) -> float | None:
    """Kendall's τ-b (1945): pairs in the same order less pairs in opposite order, ties counted on either side.

    (C − D) / √((P − T₁)(P − T₂)) with P pairs, C concordant, D discordant, T tied in the first or second (S,). None
    where either side does not vary.
    """
    a, b = (_pair_signs(values) for values in (first, second))
    scale = np.sqrt(np.count_nonzero(a) * float(np.count_nonzero(b)))
    return float(np.clip(a @ b / scale, -1, 1)) if scale else None


def _pair_signs(values: ArrayLike) -> Floats:
    """Which way each of the S(S − 1)/2 pairs is ordered: −1, 0 or 1."""
    numbers = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(len(numbers), k=1)
    return np.sign(numbers[second] - numbers[first])


def correlate(
    measure: Callable[[ArrayLike, ArrayLike], float | None], predicted: Floats, measured: Floats, resampled: Floats
) -> RankCorrelation:
    """Correlation of predictions (S,) with measurements (S,), and its interval over measurements (S, R) resampled.

    The resamples hold the noise of the measurement twice, so the interval leans towards 0; it says nothing of the
    predictions' own errors.
    """
    value = measure(predicted, measured)
    spread = [measure(predicted, column) for column in resampled.T]
    found = [number for number in spread if number is not None]
    return RankCorrelation(value, metrics.percentiles(np.array(found)) if found and value is not None else None)
