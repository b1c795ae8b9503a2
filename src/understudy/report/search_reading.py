"""What can be read from a search, in a few sentences: what terminal and page say alike."""

from understudy.metrics import FEW_SAMPLES
from understudy.report.wording import too_few
from understudy.schedule import ModelSchedule
from understudy.search import PlannerRank, RankCorrelation, SearchEntry, SearchResult


def summarise_search(result: SearchResult) -> str:
    """Say which schedule is best, what ties with it, where the planner's stands, and how predictions did."""
    parts = [_best(result), _chosen(result), _planner(result), _dropped(result)]
    return " ".join(part for part in parts if part)


def shown_ranks(entry: SearchEntry) -> str:
    """Its tie's ranks, such as 2-5; a single one where nothing ties or too few samples say so; else a dash."""
    if entry.rank is None:
        return "–"
    return str(entry.rank) if entry.rank_range is None else _range(entry.rank_range)


def short_schedule(schedule: ModelSchedule) -> str:
    """Its notation, or for more than eight runs of steps the first few and how many there are."""
    runs = schedule.segments
    return str(schedule) if len(runs) <= 8 else f"{','.join(map(str, runs[:4]))},… ({len(runs)} runs)"


def _best(result: SearchResult) -> str:
    ranked = result.ranked
    if not ranked:
        return "Nothing was searched."
    best, *others = ranked
    paired = best.nll_difference
    tied = sum(entry.is_within_noise_of_best for entry in others)
    figures = (
        f"{paired.difference:+z.3f} nats per token ({paired.low:+z.3f} to {paired.high:+z.3f}) to {result.reference}"
    )
    if result.has_few_samples:
        return (
            f"First by the estimates is {short_schedule(best.schedule)}, {paired.difference:+z.3f} nats per token to "
            f"{result.reference}, but {too_few(best.num_samples)}; take {FEW_SAMPLES} or more to rank."
        )
    if not others:
        return f"{short_schedule(best.schedule)} is the only schedule of its cost: {figures}."
    if not tied:
        verdict = f"all {len(others)} others are worse beyond noise" if len(others) > 1 else "the other one is worse"
        return f"Best is {short_schedule(best.schedule)}, {figures}; {verdict}.{_dullness(best)}"
    which = f"all {tied}" if tied == len(others) else f"{tied} of {len(others)}"
    verb = "cannot be told from it: within noise, which does not mean equal" if tied > 1 else "cannot be told from it"
    which_others = f"{which} other{'s' if len(others) > 1 else ''}"
    first = f"First is {short_schedule(best.schedule)}, {figures}, but {which_others} {verb}."
    return f"{first}{_beyond_tie(best, tied)}{_dullness(best)}"


def _chosen(result: SearchResult) -> str:
    """What intervals to the best leave out; nothing where there was no choice, or nothing is claimed."""
    if result.has_few_samples or len(result.ranked) < 2:
        return ""
    return (
        f"No interval counts that the best was chosen among {len(result.ranked)} by these samples: that flatters it, "
        "the more so the more were searched."
    )


def _beyond_tie(best: SearchEntry, tied: int) -> str:
    """Where those stand that cannot be told from the best, unless its tie, which its rank shows, is all of them.

    A tie ends before the first that can be told; of those behind it some may still be within noise.
    """
    end = tied + 1 if best.rank_range is None else best.rank_range[1]
    beyond = tied + 1 - end
    if not beyond:
        return ""
    if end == 1:
        return f" {'It stands' if beyond == 1 else 'They stand'} behind rank 2, which can be told."
    return (
        f" They are its tie, rank{'s' if end > 2 else ''} {_range((2, end))}, and {beyond} further down, behind rank "
        f"{end + 1}, which can be told."
    )


def _dullness(best: SearchEntry) -> str:
    change = best.entropy_difference
    if change.high >= 0:
        return ""
    loss = f"{-change.difference:.3f} nats of entropy"
    return f" Its samples are duller than the reference's, by {loss}, which a judge likes."


def _planner(result: SearchResult) -> str:
    planner, correlations = result.planner, result.correlations
    standing = "" if planner is None else _standing(planner)
    if correlations is None:
        return standing
    agreement = (
        f"over {correlations.num_schedules} schedules predicted path KL and measured quality have rank correlation "
        f"{_correlation('ρ', correlations.spearman)}, {_correlation('τ', correlations.kendall_tau_b)}"
    )
    agreement += "." if correlations.num_samples >= FEW_SAMPLES else ", without an interval from so few samples."
    return f"{standing[:-1]}; {agreement}" if standing else f"O{agreement[1:]}"


def _standing(planner: PlannerRank) -> str:
    name = "The planner's schedule" if planner.source == "plan" else "The schedule of least predicted path KL,"
    name += f" {short_schedule(ModelSchedule.parse(planner.schedule))}" + ("" if planner.source == "plan" else ",")
    if planner.rank is None:
        return f"{name} is of another cost than those searched, and so has no rank."
    ranks = planner.rank_range
    tie = "" if ranks is None or ranks[0] == ranks[1] else f" (tie {_range(ranks)})"
    predicted = "" if planner.predicted_rank is None else f" and {planner.predicted_rank} by predicted path KL"
    return f"{name} ranks {planner.rank}{tie} of {planner.num_ranked} by quality{predicted}."


def _correlation(symbol: str, correlation: RankCorrelation) -> str:
    if correlation.value is None:
        return f"{symbol} undefined"
    if correlation.ci95 is None:
        return f"{symbol} = {correlation.value:.2f}"
    return f"{symbol} = {correlation.value:.2f} ({correlation.ci95[0]:.2f} to {correlation.ci95[1]:.2f})"


def _dropped(result: SearchResult) -> str:
    dropped = [entry.dropped for entry in result.ranked if entry.dropped is not None]
    if not dropped:
        return ""
    rounds = sorted({drop.round for drop in dropped})
    counts = ", ".join(
        f"{sum(drop.round == number for drop in dropped)} after {result.rounds[number - 1]} samples"
        for number in rounds
    )
    return f"Halving by the rule {dropped[0].rule} dropped {counts}."


def _range(ranks: tuple[int, int]) -> str:
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}-{ranks[1]}"
