"""Where light steps do least harm: a bar for each schedule beside the strip that shows who makes which steps.

As in the first figure of arXiv 2604.02340, with intervals, and with the difference under the same noise in place of the
perplexity where the samples allow it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from understudy.report.authorship import model_colours
from understudy.report.canvas import GRID, INK, PAPER, clean, new_figure, png_bytes
from understudy.report.compared import Compared, ComparedEntry
from understudy.report.strips import draw_strip, role

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ROWS = 40  # schedules; those behind them are counted in the title
MAX_NAME = 26  # characters
BAR = "#8A9099"


def placement_rows(comparison: Compared) -> tuple[ComparedEntry, ...]:
    """Entries of one temperature, 1 where it was sampled and else the first, the least surprising first."""
    heat = 1.0 if 1.0 in comparison.temperatures else comparison.temperatures[0]
    entries = [entry for entry in comparison.entries if entry.temperature == heat]
    return tuple(sorted(entries, key=lambda entry: (_value(entry, is_paired=_is_paired(entries)), entry.name)))


def render_placements(comparison: Compared) -> bytes:
    """Give the picture as PNG. SettingError where matplotlib is not installed."""
    rows = placement_rows(comparison)
    shown = rows[:MAX_ROWS]
    figure = new_figure((11, max(3.2, 1.75 + 0.4 * len(shown))))
    strips, bars = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.35))
    _draw_strips(strips, shown, comparison)
    _draw_bars(bars, shown, comparison, hidden=len(rows) - len(shown))
    strips.set_ylim(len(shown) - 0.45, -0.55)
    for axes in (strips, bars):
        clean(axes)
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
    return png_bytes(figure)


def describe_placements(comparison: Compared) -> str:
    """What the picture shows, in words."""
    rows = placement_rows(comparison)
    parts = [f"{entry.name} {_spoken(entry, comparison, rows)}" for entry in rows[:12]]
    more = f"; and {len(rows) - 12} more" if len(rows) > 12 else ""
    return f"Bars of {_measure(rows, comparison)}, least first: {'; '.join(parts)}{more}."


def _is_paired(entries: Sequence[ComparedEntry]) -> bool:
    """Whether differences can be shown: there are others than the reference, and more than one sample."""
    return len(entries) > 1 and all(entry.nll_difference is not None for entry in entries)


def _value(entry: ComparedEntry, *, is_paired: bool) -> float:
    paired = entry.nll_difference
    return paired.difference if is_paired and paired is not None else entry.scores.gen_ppl


def _bounds(entry: ComparedEntry, *, is_paired: bool) -> tuple[float, float]:
    paired = entry.nll_difference
    if is_paired and paired is not None:
        return paired.low, paired.high
    return entry.scores.gen_ppl_ci95 or (entry.scores.gen_ppl, entry.scores.gen_ppl)


def _measure(rows: Sequence[ComparedEntry], comparison: Compared) -> str:
    if _is_paired(rows):
        return f"NLL less that of {_cut(comparison.reference.name)}, nats per token"
    return "judge perplexity"


def _spoken(entry: ComparedEntry, comparison: Compared, rows: Sequence[ComparedEntry]) -> str:
    is_paired = _is_paired(rows)
    if is_paired and entry.name == comparison.reference.name:
        return "0, the reference"
    value, (low, high) = _value(entry, is_paired=is_paired), _bounds(entry, is_paired=is_paired)
    form = "+.3f" if is_paired else ".1f"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def _draw_strips(axes: "Axes", rows: Sequence[ComparedEntry], comparison: Compared) -> None:
    from matplotlib.patches import Patch

    colours = model_colours(comparison.models)
    for row, entry in enumerate(rows):
        draw_strip(axes, row, entry.result.schedule, colours, height=0.62)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["t = 1\nall masked", "0.5", "t = 0\nclean"])
    axes.set_yticks(range(len(rows)), [_cut(entry.name) for entry in rows])
    used = [key for key in comparison.models if any(key in entry.result.schedule.keys for entry in rows)]
    patches = [Patch(color=colours[key], label=role(key)) for key in used]
    axes.legend(handles=patches, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(used), frameon=False, fontsize=9)


def _draw_bars(axes: "Axes", rows: Sequence[ComparedEntry], comparison: Compared, *, hidden: int) -> None:
    is_paired = _is_paired(rows)
    values = [_value(entry, is_paired=is_paired) for entry in rows]
    bounds = [_bounds(entry, is_paired=is_paired) for entry in rows]
    axes.axvline(0, color=GRID, linewidth=1.2, zorder=0)
    for row, (entry, value, (low, high)) in enumerate(zip(rows, values, bounds, strict=True)):
        if is_paired and entry.name == comparison.reference.name:
            continue
        is_open = is_paired and entry.within_noise
        axes.barh(row, value, height=0.62, color=PAPER if is_open else BAR, edgecolor=BAR, linewidth=1.2, zorder=1)
        ends = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar(value, row, xerr=ends, fmt="none", color=INK, elinewidth=1.3, capsize=3, zorder=2)
    low, high = min(0.0, *(pair[0] for pair in bounds)), max(0.0, *(pair[1] for pair in bounds))
    spread = high - low or 1.0
    for row, (entry, value, (_, end)) in enumerate(zip(rows, values, bounds, strict=True)):
        text = f"{value:+.3f}" if is_paired else f"{value:.1f}"
        is_reference = is_paired and entry.name == comparison.reference.name
        place = max(0.0, value, end) + 0.015 * spread
        axes.text(place, row, "reference" if is_reference else text, va="center", fontsize=9, color=INK)
    axes.set_xlim(low - 0.03 * spread if low < 0 else 0, high + 0.16 * spread)
    axes.set_xlabel(f"{_measure(rows, comparison)}{_key_of_bars(rows, comparison)}", color=INK, fontsize=9)
    axes.set_title(_title(rows, comparison, hidden), loc="left", fontsize=10.5, color=INK)


def _key_of_bars(rows: Sequence[ComparedEntry], comparison: Compared) -> str:
    others = [entry for entry in rows if entry.name != comparison.reference.name]
    hollow = "; hollow: within noise" if _is_paired(rows) and any(entry.within_noise for entry in others) else ""
    return f"{hollow}. Lines: 95 %"


def _title(rows: Sequence[ComparedEntry], comparison: Compared, hidden: int) -> str:
    heat = f", T = {rows[0].temperature:g}" if len(comparison.temperatures) > 1 else ""
    more = f"; {hidden} worse ones are not shown" if hidden else ""
    return f"{rows[0].scores.num_samples} samples each{heat}{more}"


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
