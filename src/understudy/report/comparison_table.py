"""A comparison as tables of text and as a sentence: what terminal and page show alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from understudy.metrics import FEW_SAMPLES, WIDENED_BELOW, PairedDifference
from understudy.report.compared import Compared, ComparedEntry, relative_flops
from understudy.report.wording import too_few

__all__ = ["TextTable", "cost_table", "diversity_table", "quality_table", "summarise"]


@dataclass(frozen=True)
class TextTable:
    """A heading, column titles, rows of cells, and a note below. The first column names the row.

    A line end in a cell or title is a good place to break it where there is little room, and a space elsewhere.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


Cells = Callable[[ComparedEntry], str]


def quality_table(comparison: Compared) -> TextTable:
    """What the judge says of each schedule, with its intervals, beside entropy; one temperature after the other."""
    scores, reference = comparison.reference.scores, comparison.reference.name
    has_frontier = len(comparison.temperatures) > 1
    columns: dict[str, Cells] = {
        "schedule": lambda entry: entry.label,
        "judge perplexity\n[95 %]": _perplexity,
        "difference in\nnats per token": lambda entry: _difference(entry, entry.nll_difference, reference),
    }
    if has_frontier:
        columns["at equal\nentropy"] = lambda entry: _difference(entry, entry.frontier_difference, reference)
    columns["entropy\n(nats)"] = _entropy
    same = ", at the same temperature or on its line over temperatures" if has_frontier else ""
    return _table(
        comparison,
        f"Quality, {scores.num_samples} samples each",
        columns,
        f"Perplexity: lower is less surprising to judge {scores.judge}{_protocol(scores.protocol)}, better at "
        f"equal entropy only. Differences are to {reference}{same}, paired by seed. In brackets: 95 % bootstrap over "
        f"samples{_widened(scores.num_samples)}. Entropy: mean ± standard error.",
    )


def diversity_table(comparison: Compared) -> TextTable:
    """How varied the samples of each schedule are, and what they share with the training text where that is known."""
    scores = comparison.reference.scores
    columns: dict[str, Cells] = {
        "schedule": lambda entry: entry.label,
        "distinct-1": lambda entry: _number(entry.scores.distinct_1),
        "distinct-2": lambda entry: _number(entry.scores.distinct_2),
        "repeated\n4-grams": lambda entry: f"{entry.scores.repetition:.1%}",
    }
    notes = ["Repeated: of a sample's 4-grams, those that occurred in it before."]
    if scores.self_bleu is not None:
        columns["self-BLEU"] = lambda entry: _number(entry.scores.self_bleu, 1)
        notes.append("Self-BLEU: 100 where samples are alike.")
    if scores.ngram_overlap is not None:
        columns["8-grams\nin training text"] = lambda entry: _number(entry.scores.ngram_overlap, 4)
    if scores.mauve is not None:
        columns["MAUVE"] = lambda entry: _number(entry.scores.mauve, 3)
        notes.append("MAUVE: 1 where the judge's features cannot tell samples from held-out text.")
    return _table(comparison, "Diversity", columns, " ".join(notes))


def _table(comparison: Compared, title: str, columns: dict[str, Cells], note: str) -> TextTable:
    rows = tuple(tuple(cell(entry) for cell in columns.values()) for entry in comparison.entries)
    return TextTable(title, tuple(columns), rows, note)


def cost_table(comparison: Compared) -> TextTable:
    """Passes made, FLOPs of a sample, FLOPs saved in every convention, and wall time of each schedule."""
    heavy = comparison.models[0]
    return TextTable(
        "Cost",
        (
            "schedule",
            "passes\nby\nmodel",
            "FLOPs\na\nsample",
            "saved:\nnominal,\nblocks",
            "nominal,\nwith\nhead",
            "executed",
            "by the\nschedule\nalone",
            "seconds",
        ),
        tuple(_cost_row(entry) for entry in comparison.schedules),
        f"FLOPs a sample: executed. Saved, against {heavy} at as many steps: nominal, by full passes; executed, by the "
        f"passes made, against dense ones of {heavy}, as the published sampler runs; by the schedule alone, by the "
        f"same passes, against {heavy} making all of them.",
    )


def summarise(comparison: Compared) -> str:
    """Say in two or three sentences what can be read from a comparison, and what cannot."""
    reference = comparison.reference
    others = [entry for entry in comparison.entries if entry.name != reference.name]
    num_samples = reference.scores.num_samples
    if reference.nll_difference is None:
        return f"{num_samples} samples of one schedule each: nothing is compared, and a single sample has no interval."
    if not others:
        return f"{num_samples} samples of one schedule: there is nothing to compare it with."
    if len(comparison.temperatures) > 1:
        return " ".join(_along_frontier(comparison, name) for name in dict.fromkeys(entry.name for entry in others))
    same = [_costing(entry, reference) for entry in others if entry.within_noise]
    apart = [_apart(entry, reference) for entry in others if not entry.within_noise]
    judged = [f"{_joined(same)} cannot be told from {reference.name} by these samples"] if same else []
    judged += [f"{_joined(apart)} than {reference.name}"] if apart else []
    widths = [(e.nll_difference.high - e.nll_difference.low) / 2 for e in others if e.nll_difference is not None]
    verdict = "; ".join(judged)
    if num_samples < FEW_SAMPLES:
        return f"{verdict[0].upper()}{verdict[1:]}, but {too_few(num_samples)}; take {FEW_SAMPLES} or more to compare."
    few = ", and so few settle large ones at best" if num_samples < WIDENED_BELOW else ""
    return (
        f"{verdict[0].upper()}{verdict[1:]}. {num_samples} samples resolve differences of about ±{max(widths):.2g} "
        f"nats per token here{few}: within noise means not told apart, not equal, and more samples tell more apart."
    )


def _along_frontier(comparison: Compared, name: str) -> str:
    """What equal entropy says of one schedule."""
    reference = comparison.reference.name
    found = [entry.frontier_difference for entry in comparison.entries if entry.name == name]
    known = [paired for paired in found if paired is not None]
    if not known:
        return f"{name} has no entropy that {reference} reaches too: take more temperatures."
    worse, better = sum(paired.low > 0 for paired in known), sum(paired.high < 0 for paired in known)
    same = len(known) - worse - better
    values = [paired.difference for paired in known]
    return (
        f"At equal entropy, {name} differs from {reference} by {min(values):+.3f} to {max(values):+.3f} nats per "
        f"token: worse at {worse}, better at {better}, within noise at {same} of {len(known)} temperatures that can be "
        "compared."
    )


def _perplexity(entry: ComparedEntry) -> str:
    interval = entry.scores.gen_ppl_ci95
    return f"{entry.scores.gen_ppl:.1f}" + ("" if interval is None else "\n[{:.1f}, {:.1f}]".format(*interval))


def _entropy(entry: ComparedEntry) -> str:
    error = entry.scores.entropy_se
    return f"{entry.scores.entropy:.2f}" + ("" if error is None else f" ± {error:.2f}")


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _protocol(name: str) -> str:
    return {"ids": "", "retokenized": ", texts encoded anew", "published": ", published protocol"}[name]


def _difference(entry: ComparedEntry, paired: PairedDifference | None, reference: str) -> str:
    if entry.name == reference:
        return "reference"
    if paired is None:
        return "unknown: one sample" if entry.nll_difference is None else "no such entropy"
    verdict = "\nwithin noise" if paired.within_noise else ""
    return f"{paired.difference:+.3f}\n[{paired.low:+.3f}, {paired.high:+.3f}]{verdict}"


def _cost_row(entry: ComparedEntry) -> tuple[str, ...]:
    flops = entry.result.flops
    saved = (flops.nominal_blocks_saved, flops.nominal_saved, flops.executed_saved, flops.schedule_saved)
    passes = ",\n".join(f"{key} {count}" for key, count in sorted(entry.result.nfe.items()))
    executed = f"{flops.executed / entry.scores.num_samples:.3g}".replace("e+", "e")
    return (entry.name, passes, executed, *(f"{share:z.1%}" for share in saved), f"{entry.result.seconds:.1f}")


def _widened(num_samples: int) -> str:
    return ", widened as Student's t for so few" if num_samples < WIDENED_BELOW else ""


def _costing(entry: ComparedEntry, reference: ComparedEntry) -> str:
    """Its name and what it costs or saves of what the reference executed, whatever the steps of either."""
    share = relative_flops(entry, reference)
    if abs(share - 1) < 0.005:
        return f"{entry.name} (at the FLOPs of {reference.name})"
    if share < 1:
        return f"{entry.name} (saves {1 - share:.0%} of the FLOPs of {reference.name})"
    times = f"{share:.2f}" if share < 1.05 else f"{share:.2g}"
    return f"{entry.name} (costs {times} times the FLOPs of {reference.name})"


def _apart(entry: ComparedEntry, reference: ComparedEntry) -> str:
    difference = entry.nll_difference.difference if entry.nll_difference is not None else 0.0
    verdict = "more" if difference > 0 else "less"
    return f"{_costing(entry, reference)} is {verdict} surprising by {abs(difference):.2f} nats per token"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
