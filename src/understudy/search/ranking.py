"""Ranks that say how sure they are: schedules that the samples do not tell apart share a range of ranks."""

from collections.abc import Mapping, Sequence

from understudy import metrics
from understudy.search.scores import MeasuredSamples


def ranking_order(measured: Mapping[str, MeasuredSamples], reference: MeasuredSamples) -> list[str]:
    """Give the schedules from best to worst.

    Those with more samples come first: the others were dropped, each behind a better one. Among as many samples the
    lower NLL, less that of `reference` on the same samples, comes first; equal ones stay in the order given.
    """
    return sorted(measured, key=lambda name: standing(measured[name], reference))


def standing(samples: MeasuredSamples, reference: MeasuredSamples) -> tuple[int, float]:
    """What a schedule is ranked by, lower being better: minus its number of samples, its difference to `reference`."""
    shared = len(samples)
    base = reference.nll_sums[:shared].sum() / reference.counts[:shared].sum()
    return -shared, samples.nll - float(base)


def rank_ranges(order: Sequence[str], measured: Mapping[str, MeasuredSamples]) -> dict[str, tuple[int, int]]:
    """Give the first and last rank, from 1, of the tie that each schedule belongs to.

    From the top: the best schedule not yet in a tie leads one, and those after it join until the first whose NLL, by
    the paired 95 % interval on the samples that both have, lies above the leader's; that one leads the next. Within
    noise is no proof of equality, and the last of one tie may be as close to the first of the next as to its leader.
    Fewer than `metrics.FEW_SAMPLES` shared samples tell nothing apart; where the best has no more, there are no ties
    either, and the answer is empty.
    """
    if not order or len(measured[order[0]]) < metrics.FEW_SAMPLES:
        return {}
    ranges: dict[str, tuple[int, int]] = {}
    start = 0
    while start < len(order):
        leader = measured[order[start]]
        end = start + 1
        while end < len(order) and not _is_told(measured[order[end]], leader):
            end += 1
        ranges |= dict.fromkeys(order[start:end], (start + 1, end))
        start = end
    return ranges


def _is_told(samples: MeasuredSamples, leader: MeasuredSamples) -> bool:
    """Whether it is worse beyond noise, on samples enough to say so."""
    is_enough = min(len(samples), len(leader)) >= metrics.FEW_SAMPLES
    return is_enough and samples.difference_to(leader).low > 0
