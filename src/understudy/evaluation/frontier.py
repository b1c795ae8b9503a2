"""Quality at equal entropy: what a schedule gains or loses once it may not win by being dull.

Lower temperatures buy perplexity with entropy (arXiv 2604.02718), so a schedule is set against the curve that the
reference draws over its temperatures. Shapes: T temperatures, R resamples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy import metrics
from understudy.evaluation.scores import SampleScores
from understudy.metrics import PairedDifference

Floats = NDArray[np.float64]


def frontier_difference(reference: Sequence[SampleScores], other: SampleScores) -> PairedDifference | None:
    """Mean NLL per token of `other` minus that of the reference at the entropy of `other`; above 0 where it is worse.

    reference: one schedule at two temperatures or more; between them its NLL is taken as linear in entropy. Samples
    are paired by index and resampled together, entropies too. None where `other` lies outside the entropies of the
    reference, or there are fewer than two samples or temperatures.
    """
    if len(reference) < 2 or other.num_samples < 2:
        return None
    entropies, nlls = np.array([_point(scores) for scores in reference]).T
    entropy, nll = _point(other)
    if not entropies.min() <= entropy <= entropies.max():
        return None
    drawn = np.array([_resampled(scores) for scores in reference])
    own_entropy, own_nll = _resampled(other)
    spread = own_nll - interpolate(drawn[:, 0], drawn[:, 1], own_entropy)
    low, high = metrics.percentiles(spread, num_samples=other.num_samples)
    exact = interpolate(entropies[:, None], nlls[:, None], np.array([entropy]))[0]
    return PairedDifference(float(nll - exact), low, high)


def _point(scores: SampleScores) -> tuple[float, float]:
    return scores.entropy, sum(scores.nll_sums) / sum(scores.counts)


def _resampled(scores: SampleScores) -> tuple[Floats, Floats]:
    """Mean entropy and mean NLL of each resample, (R,) both; equal draws for equal numbers of samples."""
    sums, counts, entropies = metrics.resampled_means(np.array([scores.nll_sums, scores.counts, scores.entropies]))
    return entropies, metrics.ratio(sums, counts)


def interpolate(x: Floats, y: Floats, at: Floats) -> Floats:
    """Value (R,) of each curve through its points x, y (T, R) at `at` (R,), on the line of the last two beyond them."""
    order = np.argsort(x, axis=0, kind="stable")
    x, y = np.take_along_axis(x, order, axis=0), np.take_along_axis(y, order, axis=0)
    left = np.clip((x <= at).sum(axis=0) - 1, 0, len(x) - 2)[None]
    (x0, y0), (x1, y1) = ([np.take_along_axis(v, left + k, axis=0)[0] for v in (x, y)] for k in (0, 1))
    width = x1 - x0
    share = np.divide(at - x0, width, out=np.zeros_like(width), where=width > 0)
    return np.asarray(y0 + share * (y1 - y0))
