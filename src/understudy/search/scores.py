"""What was measured of a schedule, sample by sample, and how two schedules compare on the samples they share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy import metrics
from understudy.metrics import PairedDifference


@dataclass(frozen=True)
class MeasuredSamples:
    """The first n samples of a schedule. nll_sums, entropies: float64 (n,), nats; counts: int64 (n,), scored tokens.

    nfe: passes by key over all samples; seconds: time spent on sampling and judging them.
    """

    nll_sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    entropies: NDArray[np.float64]
    nfe: Mapping[str, int]
    seconds: float

    @classmethod
    def join(cls, units: Iterable[Mapping[str, Any]]) -> "MeasuredSamples":
        """Put finished units (`measuring.measure`) of one schedule together, in the order of their samples."""
        parts = list(units)
        keys = [key for part in parts for key in part["nfe"]]
        return cls(
            np.concatenate([np.array(part["nll_sums"], dtype=np.float64) for part in parts]),
            np.concatenate([np.array(part["counts"], dtype=np.int64) for part in parts]),
            np.concatenate([np.array(part["entropies"], dtype=np.float64) for part in parts]),
            {key: sum(part["nfe"].get(key, 0) for part in parts) for key in dict.fromkeys(keys)},
            round(sum(part["seconds"] for part in parts), 3),
        )

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood in nats per token, over the tokens of all samples."""
        return float(self.nll_sums.sum() / self.counts.sum())

    def difference_to(self, reference: "MeasuredSamples") -> PairedDifference:
        """Mean NLL less that of `reference`, on the samples that both have, with the paired bootstrap's interval."""
        shared = min(len(self), len(reference))
        return metrics.paired_bootstrap_difference(
            (reference.nll_sums[:shared], reference.counts[:shared]), (self.nll_sums[:shared], self.counts[:shared])
        )

    def entropy_difference_to(self, reference: "MeasuredSamples") -> PairedDifference:
        """Mean token entropy less that of `reference`, as `difference_to`; below 0 where samples are duller."""
        shared = min(len(self), len(reference))
        changes = self.entropies[:shared] - reference.entropies[:shared]
        low, high = metrics.percentiles(metrics.resampled_means(changes[None])[0], num_samples=shared)
        return PairedDifference(float(changes.mean()), low, high)
