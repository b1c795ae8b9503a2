"""From measurements to a result: ranks, intervals, predictions and how the two go together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from understudy import metrics
from understudy.denoisers import Denoiser
from understudy.flops import executed_report
from understudy.reveal import RevealPlan
from understudy.search.candidates import Candidate
from understudy.search.correlation import correlate, kendall, spearman
from understudy.search.halving import Drop
from understudy.search.ranking import rank_ranges, ranking_order
from understudy.search.result import Correlations, PlannerRank, SearchEntry
from understudy.search.scores import MeasuredSamples

if TYPE_CHECKING:
    from understudy.importance import PathDivergence


def assemble_entries(
    candidates: Mapping[str, Candidate],
    measured: Mapping[str, MeasuredSamples],
    drops: Mapping[str, Drop],
    *,
    reference: str,
    denoisers: Mapping[str, Denoiser],
    plan: RevealPlan,
    path: "PathDivergence | None",
) -> tuple[SearchEntry, ...]:
    """Rank what competes and describe every schedule; ranked ones first, then the reference and the rest as given."""
    competing = {name: measured[name] for name, candidate in candidates.items() if candidate.competes}
    order = ranking_order(competing, measured[reference])
    ranges = rank_ranges(order, competing)
    beside = [name for name in candidates if name not in competing]
    entries: list[SearchEntry] = []
    for name in (*order, *beside):
        entry = _describe(candidates[name], measured[name], measured[reference], denoisers, plan, path)
        if name in competing:
            entry = replace(
                entry,
                rank=len(entries) + 1,
                rank_range=ranges.get(name),
                difference_to_best=measured[name].difference_to(measured[order[0]]),
                dropped=drops.get(name),
            )
        entries.append(entry)
    return tuple(entries)


def _describe(
    candidate: Candidate,
    samples: MeasuredSamples,
    reference: MeasuredSamples,
    denoisers: Mapping[str, Denoiser],
    plan: RevealPlan,
    path: "PathDivergence | None",
) -> SearchEntry:
    """An entry that is not ranked yet."""
    count = len(samples)
    executed = plan if count == plan.num_samples else _first_samples(plan, count)
    predicted, error = (None, None) if path is None else path.path_kl(candidate.schedule)
    return SearchEntry(
        schedule=candidate.schedule,
        segments=candidate.segments,
        origins=candidate.origins,
        rank=None,
        rank_range=None,
        nll_difference=samples.difference_to(reference),
        difference_to_best=None,
        gen_ppl=metrics.generative_perplexity(samples.nll_sums, samples.counts),
        gen_ppl_ci95=metrics.bootstrap_interval(samples.nll_sums, samples.counts),
        entropy=float(samples.entropies.mean()),
        entropy_difference=samples.entropy_difference_to(reference),
        num_samples=count,
        flops=executed_report(denoisers, candidate.schedule, executed).to_dict(),
        nfe=dict(samples.nfe),
        seconds=samples.seconds,
        predicted_path_kl=predicted,
        predicted_se=error,
        dropped=None,
    )


def _first_samples(plan: RevealPlan, count: int) -> RevealPlan:
    return RevealPlan(plan.times, plan.reveal_step[:count], plan.uniforms[:count])


def correlate_predictions(
    entries: Sequence[SearchEntry], measured: Mapping[str, MeasuredSamples]
) -> Correlations | None:
    """Correlate predicted path KL with measured NLL over the schedules of the space; None for fewer than three.

    Without an interval where they share fewer than `metrics.FEW_SAMPLES` samples.
    """
    known = [entry for entry in entries if "space" in entry.origins and entry.predicted_path_kl is not None]
    if len(known) < 3:  # two are in the same or in opposite order, whatever they are
        return None
    shared = min(entry.num_samples for entry in known)
    tables = [measured[str(entry.schedule)] for entry in known]
    predicted = np.array([entry.predicted_path_kl for entry in known], dtype=np.float64)
    sums = np.stack([table.nll_sums[:shared] for table in tables])
    counts = np.stack([table.counts[:shared] for table in tables]).astype(np.float64)
    # All schedules have the same reference, which no rank depends on.
    nlls = sums.sum(axis=1) / counts.sum(axis=1)
    resampled = metrics.resampled_means(sums) / metrics.resampled_means(counts)
    rho, tau = (correlate(measure, predicted, nlls, resampled) for measure in (spearman, kendall))
    if shared < metrics.FEW_SAMPLES:
        rho, tau = (replace(found, ci95=None) for found in (rho, tau))
    return Correlations(rho, tau, num_schedules=len(known), num_samples=shared)


def rank_planner(entries: Sequence[SearchEntry]) -> PlannerRank | None:
    """Say where the plan stands, or without one the schedule of least predicted path KL in the space."""
    plans = [entry for entry in entries if "plan" in entry.origins]
    known = {str(entry.schedule): kl for entry in entries if (kl := entry.predicted_path_kl) is not None}
    searched = [entry for entry in entries if "space" in entry.origins and str(entry.schedule) in known]
    if not plans and not searched:
        return None
    chosen = plans[0] if plans else min(searched, key=lambda entry: known[str(entry.schedule)])
    ranked = [str(entry.schedule) for entry in entries if entry.is_ranked]
    own = known.get(str(chosen.schedule))
    lower = [name for name in ranked if own is not None and known.get(name, own) < own]
    return PlannerRank(
        source="plan" if plans else "least path KL",
        schedule=str(chosen.schedule),
        rank=chosen.rank,
        rank_range=chosen.rank_range,
        predicted_rank=len(lower) + 1 if own is not None and chosen.is_ranked else None,
        num_ranked=len(ranked),
    )
