"""Successive halving: schedules that fall behind are sampled no further, and it is written down why.

Rounds double the number of samples up to the last. After every round but the last some schedules are dropped:

- confident: those that are worse than the best of the round beyond noise. The difference to the best, paired by sample,
  must exceed Student's quantile of its standard error at a level of (1 − confidence) / ((m − 1)·d), for m schedules
  still in and d rounds that drop. The best of all can only be lost where some other schedule seems better than it by
  that much, one of m − 1 ways in each round; so, as far as Student's law holds, the whole search loses it with a
  probability of at most 1 − confidence.
- half: all but the better half, as in Jamieson and Talwalkar 2016 (arXiv 1502.07943), whatever the noise. It is cheaper
  and promises nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from understudy.errors import SettingError
from understudy.metrics.student import student_quantile
from understudy.search.scores import MeasuredSamples

Rule: TypeAlias = Literal["confident", "half"]
RULES: tuple[Rule, ...] = ("confident", "half")
MIN_FIRST_ROUND, MAX_DOUBLINGS = 8, 3


@dataclass(frozen=True)
class Drop:
    """Why a schedule was sampled no further.

    round: from 1, with the num_samples it had by then. best: the schedule of lowest NLL in that round. nll_difference:
    to it, in nats per token, with interval (low, high), each of whose ends holds at confidence end_confidence. reason:
    the same in words.
    """

    round: int
    num_samples: int
    rule: Rule
    best: str
    nll_difference: float
    interval: tuple[float, float]
    end_confidence: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "interval": list(self.interval)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Drop":
        """Inverse of `to_dict`."""
        return cls(**{**content, "interval": tuple(content["interval"])})


def round_sizes(num_samples: int, rule: Rule | None, first_round: int | None = None) -> tuple[int, ...]:
    """Samples that a schedule has after each round, ascending to `num_samples`; a single round without a rule.

    first_round: the fewest samples to decide on, at least 2. Unless given: 8, and at most three doublings. SettingError
    where it is out of range, goes with no rule, or leaves a single round.
    """
    if rule is None:
        if first_round is not None:
            raise SettingError(f"the first round is {first_round} without a halving rule; give confident or half")
        return (num_samples,)
    if rule not in RULES:
        raise SettingError(f"the halving rule is {rule!r}; it must be {' or '.join(RULES)}")
    fewest = MIN_FIRST_ROUND if first_round is None else first_round
    if not 2 <= fewest <= (num_samples + 1) // 2:
        raise SettingError(
            f"halving begins with {fewest} samples and ends with {num_samples}; it must begin with 2 or more and end "
            "with twice as many at least: give another number of samples or another first round"
        )
    sizes = [num_samples]
    while (smaller := -(-sizes[-1] // 2)) >= fewest and (first_round is not None or len(sizes) <= MAX_DOUBLINGS):
        sizes.append(smaller)
    return tuple(reversed(sizes))


def drop_behind(
    measured: Mapping[str, MeasuredSamples], rule: Rule, *, number: int, num_rounds: int, confidence: float
) -> dict[str, Drop]:
    """Say which of the schedules still in are dropped after round `number` of `num_rounds`, and why.

    measured: by schedule, two or more samples each, the same for all. The schedule of lowest NLL is never dropped; of
    equal ones the first counts as better.
    """
    order = sorted(measured, key=lambda name: measured[name].nll)
    best, others = order[0], order[1:]
    if not others:
        return {}
    level = (1 - confidence) / (len(others) * (num_rounds - 1))
    candidates = others if rule == "confident" else order[-(-len(order) // 2) :]
    num_samples = len(measured[best])
    quantile = student_quantile(1 - level, num_samples - 1)
    drops = {}
    for name in candidates:
        difference, error = _paired_error(measured[best], measured[name])
        low, high = difference - quantile * error, difference + quantile * error
        if rule == "confident" and low <= 0:
            continue
        reason = _reason(rule, best, difference, (low, high), num_samples, level, len(order))
        drops[name] = Drop(number, num_samples, rule, best, difference, (low, high), 1 - level, reason)
    return drops


def _paired_error(best: MeasuredSamples, other: MeasuredSamples) -> tuple[float, float]:
    """Difference of mean NLL per token and its standard error, linearised in the two ratios and paired by sample."""
    residuals = _residuals(other) - _residuals(best)
    return other.nll - best.nll, float(residuals.std(ddof=1) / np.sqrt(len(residuals)))


def _residuals(samples: MeasuredSamples) -> NDArray[np.float64]:
    """How far each sample (n,) pulls the mean NLL per token; their mean is 0."""
    return np.asarray((samples.nll_sums - samples.nll * samples.counts) / samples.counts.mean(), dtype=np.float64)


def _reason(
    rule: Rule,
    best: str,
    difference: float,
    interval: Sequence[float],
    num_samples: int,
    level: float,
    num_left: int,
) -> str:
    low, high = interval
    figures = f"{difference:+.3g} nats per token ({low:+.3g} to {high:+.3g}) to {best} on {num_samples} samples"
    if rule == "confident":
        return f"worse than the best beyond {1 - level:.3%}: {figures}"
    verdict = "within noise" if low <= 0 else "beyond noise"
    return f"not in the better half of {num_left}, {verdict}: {figures}"
