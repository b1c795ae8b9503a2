"""What evaluations say, as sections of a report: comparisons, quality against cost, scored files."""

from collections.abc import Mapping, Sequence
from typing import Any

from understudy.report.blocks import Block, Section
from understudy.report.collection import Source
from understudy.report.compared import SavedComparison, SavedScores
from understudy.report.comparison_table import TextTable, cost_table, diversity_table, quality_table, summarise
from understudy.report.cost_frontier import CostFrontier, CostPoint, summarise_costs
from understudy.report.frontier_figure import (
    describe_costs,
    describe_temperatures,
    render_costs,
    render_temperatures,
)
from understudy.report.origins import judged_by, listed, origin_of, picture
from understudy.report.placement_figure import describe_placements, render_placements
from understudy.report.search_reading import short_schedule
from understudy.report.wording import counted, sentences, with_bounds, with_error


def comparison_section(source: Source[SavedComparison], name: str) -> Section:
    """Bars by placement, the frontier over temperatures where there are several, tables. name: of the pictures."""
    comparison = source.content
    caption = "Left: who makes which steps, in sampling order. Right: what it costs in quality, least first."
    blocks: list[Block] = [
        *picture(f"{name}-placements", lambda: render_placements(comparison), describe_placements(comparison), caption)
    ]
    if len(comparison.temperatures) > 1:
        alt, caption = describe_temperatures(comparison), "At equal entropy the lower line is the better one."
        blocks += picture(f"{name}-temperatures", lambda: render_temperatures(comparison), alt, caption)
    blocks += [quality_table(comparison), diversity_table(comparison), cost_table(comparison)]
    blocks.append(_origin(source.name, comparison.origin))
    return Section(source.name, _facts(comparison), sentences(summarise(comparison)), tuple(blocks))


def _facts(comparison: SavedComparison) -> str:
    scores, steps = comparison.reference.scores, {e.result.schedule.num_steps for e in comparison.entries}
    parts = [f"{len(comparison.schedules)} schedules of {listed(sorted(steps))} steps"]
    parts += [f"{scores.num_samples} samples each, {comparison.length} tokens"]
    if len(comparison.temperatures) > 1 or comparison.temperatures != (1.0,):
        parts += [f"temperature {listed(list(comparison.temperatures))}"]
    return "; ".join([*parts, judged_by(scores.judge, scores.context_length, scores.protocol)])


def _origin(file: str, document: Mapping[str, Any]) -> Block:
    facts = {"models": document.get("paths") or "", "bootstrap": document.get("bootstrap") or ""}
    settings, environment = document.get("settings") or {}, document.get("environment") or {}
    return origin_of(file, document.get("command"), settings, environment, **facts)


def cost_section(frontier: CostFrontier, name: str) -> Section:
    """Quality against executed FLOPs, over all files that can be set side by side. name: of the picture."""
    caption = "One line for each placement, through its numbers of steps"
    caption += "; the broad line is the frontier." if frontier.best else "."
    blocks = picture(name, lambda: render_costs(frontier), describe_costs(frontier), caption)
    scores = frontier.points[0].entry.scores
    common = {key: text for key, text in frontier.common.items() if key not in ("judge", "context", "protocol")}
    facts = f"{len(frontier.points)} schedules; {judged_by(scores.judge, scores.context_length, scores.protocol)}"
    shared, files = ", ".join(f"{key} {text}" for key, text in common.items()), ", ".join(frontier.files)
    table = _cost_table(frontier, f"From {files}, where commands and hardware are. All share: {shared}.")
    facts += f"; {common['length']} tokens, temperature {common['temperature']}"
    return Section(counted(list(frontier.files), 3), facts, summarise_costs(frontier), (*blocks, table))


def _cost_table(frontier: CostFrontier, where: str) -> TextTable:
    return TextTable(
        "Schedules by what a sample costs",
        ("schedule", "steps", "FLOPs a sample", "judge perplexity [95 %]", "entropy", "samples", "frontier", "file"),
        tuple(_cost_row(point) for point in frontier.points),
        "FLOPs: executed, all passes made. Perplexity: 95 % bootstrap over samples, lower is better at equal entropy "
        "only. Entropy: mean ± standard error. Frontier: by the estimates, not beyond noise; – : of too few samples to "
        f"say. {where}",
    )


def _cost_row(point: CostPoint) -> tuple[str, ...]:
    scores = point.entry.scores
    return (
        short_schedule(point.entry.result.schedule),
        str(point.num_steps),
        f"{point.flops:.3g}",
        with_bounds(scores.gen_ppl, scores.gen_ppl_ci95, ".1f"),
        with_error(scores.entropy, scores.entropy_se),
        str(scores.num_samples),
        ("yes" if point.is_best else "no") if point.is_settled else "–",
        point.file,
    )


def scores_section(sources: Sequence[Source[SavedScores]]) -> Section:
    """Files of samples that were scored, in one table."""
    rows = [source.content for source in sources]
    table = TextTable(
        "Scores",
        ("samples", "judge perplexity [95 %]", "entropy", "distinct-1", "distinct-2", "repeated 4-grams", "n", "judge"),
        tuple(_scores_row(row) for row in rows),
        "In brackets: 95 % bootstrap over samples. Entropy (nats) and repetition: mean ± standard error. Distinct-n "
        "falls with the number of samples: compare it at equal n.",
    )
    origins = [_origin(source.name, source.content.origin) for source in sources]
    facts = counted([f"{row.samples} ({row.scores.num_samples} samples)" for row in rows], 4)
    return Section("Scored files", facts, _scores_reading(rows), (table, *origins))


def _scores_reading(rows: Sequence[SavedScores]) -> tuple[str, ...]:
    first = rows[0]
    scores = first.scores
    level = with_bounds(scores.gen_ppl, scores.gen_ppl_ci95, ".1f")
    said = f"{first.samples}: perplexity {level} at entropy {with_error(scores.entropy, scores.entropy_se)}"
    if scores.gen_ppl_ci95 is None:
        said += "; a single sample has no interval"
    if len(rows) == 1:
        return (f"{said}. There is nothing to compare it with.",)
    return (f"{said}.", "Files are not paired: compare them by their own intervals, one judge and protocol at a time.")


def _scores_row(row: SavedScores) -> tuple[str, ...]:
    scores = row.scores
    return (
        row.samples,
        with_bounds(scores.gen_ppl, scores.gen_ppl_ci95, ".1f"),
        with_error(scores.entropy, scores.entropy_se),
        f"{scores.distinct_1:.3f}",
        "–" if scores.distinct_2 is None else f"{scores.distinct_2:.3f}",
        with_error(scores.repetition, scores.repetition_se, ".1%"),
        str(scores.num_samples),
        judged_by(scores.judge, scores.context_length, scores.protocol).removeprefix("judge "),
    )
