"""Quality against what sampling cost, over the schedules of one or several comparisons, whatever their steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from understudy.metrics import WIDENED_BELOW, PairedDifference
from understudy.report.collection import Source
from understudy.report.compared import SavedComparison, SavedEntry
from understudy.schedule import ModelSchedule

NORMAL_95 = 1.96  # standard errors
MAX_PARTS = 4  # segments of a shape that is spelled out


@dataclass(frozen=True)
class CostPoint:
    """One schedule: executed FLOPs a sample, perplexity with its interval, entropy. is_best: on the frontier.

    shape: the schedule without its number of steps, in percent.
    """

    file: str
    entry: SavedEntry
    shape: str
    flops: float
    is_best: bool = False

    @property
    def num_steps(self) -> int:
        """Denoising steps N."""
        return self.entry.result.schedule.num_steps

    @property
    def gen_ppl(self) -> float:
        """Perplexity under the judge."""
        return self.entry.scores.gen_ppl

    @property
    def is_settled(self) -> bool:
        """Whether there are samples enough for a place on a frontier."""
        return self.entry.scores.num_samples >= WIDENED_BELOW

    @property
    def bounds(self) -> tuple[float, float]:
        """Its 95 % interval; the value itself for a single sample."""
        return self.entry.scores.gen_ppl_ci95 or (self.gen_ppl, self.gen_ppl)


@dataclass(frozen=True)
class CostFrontier:
    """Points that can be compared: of one judge, protocol, length, temperature and pair; the cheapest first.

    common: these settings, as text by name.
    """

    points: tuple[CostPoint, ...]
    common: dict[str, str]

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the points are from."""
        return tuple(dict.fromkeys(point.file for point in sorted(self.points, key=lambda point: point.file)))

    @property
    def best(self) -> tuple[CostPoint, ...]:
        """The frontier: no other point is both cheaper and less surprising, by the estimates.

        Points of fewer than `metrics.WIDENED_BELOW` samples are neither on it nor against it; empty where all are.
        """
        return tuple(point for point in self.points if point.is_best)

    @property
    def least(self) -> CostPoint:
        """The least surprising point, of those with samples enough where there are any."""
        return min(self.best or self.points, key=lambda point: point.gen_ppl)

    @property
    def cheapest_of_equals(self) -> CostPoint:
        """The cheapest point that the samples do not tell from the least surprising, of those with enough of them."""
        return next(point for point in self.points if point.is_settled and not is_told_apart(point, self.least))


def cost_frontiers(sources: Sequence[Source[SavedComparison]]) -> tuple[CostFrontier, ...]:
    """Set entries side by side that share all but schedule and steps, where there are two costs or more.

    Of several temperatures that with most entries, and of these the nearest to 1.
    """
    groups: dict[tuple[tuple[str, str], ...], list[CostPoint]] = {}
    for source in sources:
        for entry in source.content.entries:
            common = tuple(_common(source.content, entry).items())
            flops = entry.result.flops.executed / entry.scores.num_samples
            point = CostPoint(source.name, entry, schedule_shape(entry.result.schedule), flops)
            groups.setdefault(common, []).append(point)
    chosen: dict[tuple[tuple[str, str], ...], CostFrontier] = {}
    for common, points in sorted(groups.items(), key=lambda group: _preference(*group)):
        others = tuple(pair for pair in common if pair[0] != "temperature")
        if len({point.flops for point in points}) > 1:
            chosen.setdefault(others, CostFrontier(_ordered(points), dict(common)))
    return tuple(sorted(chosen.values(), key=lambda frontier: (-len(frontier.points), frontier.files)))


def _preference(common: Sequence[tuple[str, str]], points: Sequence[CostPoint]) -> tuple[int, float]:
    return -len(points), abs(float(dict(common)["temperature"]) - 1)


def is_told_apart(point: CostPoint, least: CostPoint) -> bool:
    """Whether the samples show that `point` is the more surprising.

    By the paired interval where `least` is the reference of its file; else by both standard errors of log perplexity,
    as if the samples were independent. They share their noise under one seed, so that is on the safe side.
    """
    paired = point.entry.nll_difference
    is_paired = point.file == least.file and (least.entry.nll_difference or point) == PairedDifference(0.0, 0.0, 0.0)
    if is_paired and paired is not None:
        return paired.low > 0
    first, second = (_log_error(entry) for entry in (point, least))
    return math.log(point.gen_ppl / least.gen_ppl) > NORMAL_95 * math.hypot(first, second)


def _log_error(point: CostPoint) -> float:
    """Standard error of log perplexity by the width of the interval; infinite for a single sample."""
    low, high = point.bounds
    return math.log(high / low) / (2 * NORMAL_95) if point.entry.scores.gen_ppl_ci95 else math.inf


def schedule_shape(schedule: ModelSchedule) -> str:
    """Shares of the steps in percent, such as L12.5%,H75%,L12.5%; the number of runs where there are many."""
    parts = schedule.segments
    if len(parts) == 1:
        return f"{parts[0].key} alone"
    if len(parts) > MAX_PARTS:
        shares = (f"{count / schedule.num_steps:.0%} {key}" for key, count in sorted(schedule.counts.items()))
        return f"{len(parts)} runs, {', '.join(shares)}"
    return ",".join(f"{part.key}{100 * part.count / schedule.num_steps:.3g}%" for part in parts)


def summarise_costs(frontier: CostFrontier) -> tuple[str, ...]:
    """Say which points are on the frontier, and how far the cost can fall before a loss shows."""
    if not frontier.best:
        most = max(point.entry.scores.num_samples for point in frontier.points)
        return (
            f"No frontier is drawn: of {most} samples the lowest estimates are luck in good part; take {WIDENED_BELOW} "
            "or more.",
        )
    best, least, equal = frontier.best, frontier.least, frontier.cheapest_of_equals
    names = ", ".join(str(point.entry.result.schedule) for point in best[:6]) + (" and more" if len(best) > 6 else "")
    count = sum(point.is_settled for point in frontier.points)
    first = (
        f"{len(best)} of {count} schedules are on the frontier, where none is both cheaper and less surprising by the "
        f"estimates: {names}."
    )
    if len(best) == 1:
        second = f"The cheapest, {least.entry.result.schedule}, is the least surprising too."
    elif equal is least:
        second = f"The least surprising, {least.entry.result.schedule}, is told from all cheaper ones by these samples."
    else:
        second = (
            f"{equal.entry.result.schedule} at {equal.flops / least.flops:.0%} of the FLOPs cannot be told from the "
            f"least surprising, {least.entry.result.schedule}: within noise, which does not mean equal."
        )
    return first, second


def _ordered(points: Sequence[CostPoint]) -> tuple[CostPoint, ...]:
    """By cost, with the frontier marked."""
    lowest, marked = float("inf"), []
    for point in sorted(points, key=lambda point: (point.flops, point.gen_ppl, point.file, point.entry.name)):
        marked.append(replace(point, is_best=point.is_settled and point.gen_ppl < lowest))
        lowest = min(lowest, point.gen_ppl) if point.is_settled else lowest
    return tuple(marked)


def _common(comparison: SavedComparison, entry: SavedEntry) -> dict[str, str]:
    """What two entries must share to be compared."""
    scores, origin = entry.scores, comparison.origin
    settings: dict[str, Any] = dict(origin.get("settings") or {})
    shared = {
        "judge": scores.judge,
        "context": scores.context_length,
        "protocol": scores.protocol,
        "length": comparison.length,
        "temperature": entry.temperature,
        "top_p": settings.get("top_p", 1.0),
        "prefix": settings.get("prefix"),
        "prefixes": settings.get("prefixes"),
        "prefix length": settings.get("prefix_length"),
        "noise": settings.get("noise"),
        "decoding": None if settings.get("decoding") == "ancestral" else settings.get("decoding"),
        "block length": settings.get("block_length"),
        "threshold": settings.get("threshold"),
        "pace": settings.get("pace"),
        "models": ", ".join(f"{key} {path}" for key, path in dict(origin.get("paths") or {}).items())
        or ", ".join(comparison.models),
    }
    return {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in shared.items()
        if value is not None
    }
