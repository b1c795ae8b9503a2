"""A comparison as tables of text and as a sentence: what terminal and page show alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.evaluation import Comparison, ScheduleEvaluation


@dataclass(frozen=True)
class TextTable:
    """A heading, column titles, rows of cells, and a note below. The first column names the row.

    A line end in a cell or title is a good place to break it where there is little room, and a space elsewhere.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def quality_table(comparison: Comparison) -> TextTable:
    """What judge and counts say of each schedule, with its intervals."""
    scores, reference = comparison.reference.scores, comparison.reference.name
    return TextTable(
        f"Quality, {scores.num_samples} samples each",
        ("schedule", "judge perplexity\n[95 %]", "difference in\nnats per token", "entropy\n(nats)", "distinct-2"),
        tuple(_quality_row(entry, entry is comparison.reference) for entry in comparison.entries),
        f"Perplexity: lower is less surprising to judge {scores.judge}, better at equal entropy only. Differences are "
        f"to {reference}, paired by seed. In brackets: 95 % bootstrap over samples. Entropy: mean ± standard error.",
    )


def cost_table(comparison: Comparison) -> TextTable:
    """Passes made, FLOPs saved in every convention, and wall time of each schedule."""
    heavy = comparison.models[0]
    return TextTable(
        "Cost",
        (
            "schedule",
            "passes\nby model",
            "nominal,\nblocks",
            "nominal,\nwith head",
            "executed,\nto dense",
            f"executed,\nto {heavy} alone",
            "seconds",
        ),
        tuple(_cost_row(entry) for entry in comparison.entries),
        f"FLOPs saved. Nominal: full passes, against {heavy} alone. Executed, to dense: against {heavy} at every step "
        f"and position, as the published sampler runs; to {heavy} alone: against {heavy} run as lazily, so what the "
        "schedule saves.",
    )


def summarise(comparison: Comparison) -> str:
    """Say in two or three sentences what can be read from a comparison, and what cannot."""
    reference, others = comparison.reference, comparison.entries[1:]
    num_samples = reference.scores.num_samples
    if not others or reference.nll_difference is None:
        return f"{num_samples} samples of one schedule each: nothing is compared, and a single sample has no interval."
    same = [_costing(entry) for entry in others if entry.within_noise]
    apart = [_apart(entry) for entry in others if not entry.within_noise]
    judged = [f"{_joined(same)} cannot be told from {reference.name} by these samples"] if same else []
    judged += [f"{_joined(apart)} than {reference.name}"] if apart else []
    widths = [(e.nll_difference.high - e.nll_difference.low) / 2 for e in others if e.nll_difference is not None]
    verdict = "; ".join(judged)
    return (
        f"{verdict[0].upper()}{verdict[1:]}. {num_samples} samples resolve differences of about ±{max(widths):.2f} "
        "nats per token here: within noise means not told apart, not equal, and more samples tell more apart."
    )


def _quality_row(entry: ScheduleEvaluation, is_reference: bool) -> tuple[str, ...]:
    scores = entry.scores
    interval = "" if scores.gen_ppl_ci95 is None else "\n[{:.1f}, {:.1f}]".format(*scores.gen_ppl_ci95)
    error = "" if scores.entropy_se is None else f" ± {scores.entropy_se:.2f}"
    return (
        entry.name,
        f"{scores.gen_ppl:.1f}{interval}",
        "reference" if is_reference else _difference(entry),
        f"{scores.entropy:.2f}{error}",
        "–" if scores.distinct_2 is None else f"{scores.distinct_2:.2f}",
    )


def _difference(entry: ScheduleEvaluation) -> str:
    paired = entry.nll_difference
    if paired is None:
        return "unknown: one sample"
    verdict = "\nwithin noise" if paired.within_noise else ""
    return f"{paired.difference:+.3f}\n[{paired.low:+.3f}, {paired.high:+.3f}]{verdict}"


def _cost_row(entry: ScheduleEvaluation) -> tuple[str, ...]:
    flops = entry.result.flops
    saved = (flops.nominal_blocks_saved, flops.nominal_saved, flops.executed_saved, flops.schedule_saved)
    passes = ",\n".join(f"{key} {count}" for key, count in sorted(entry.result.nfe.items()))
    return (entry.name, passes, *(f"{share:.1%}" for share in saved), f"{entry.result.seconds:.1f}")


def _costing(entry: ScheduleEvaluation) -> str:
    return f"{entry.name} ({1 - entry.relative_cost:.0%} of the executed FLOPs saved)"


def _apart(entry: ScheduleEvaluation) -> str:
    difference = entry.nll_difference.difference if entry.nll_difference is not None else 0.0
    verdict = "more" if difference > 0 else "less"
    return f"{_costing(entry)} is {verdict} surprising by {abs(difference):.2f} nats per token"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
