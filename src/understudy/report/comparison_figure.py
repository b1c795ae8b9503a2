"""The picture of a comparison: quality against cost, or against entropy, and who makes which steps."""

from typing import TYPE_CHECKING

from understudy.report.authorship import model_colours
from understudy.report.canvas import GRID, INK, clean, new_figure, png_bytes
from understudy.report.compared import Compared, ComparedEntry, relative_flops
from understudy.report.label_places import NamedBar, place_names
from understudy.report.strips import draw_strip, role

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart with every common form of colour blindness, and by their markers without colour.
LINES = ("#22262B", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DODGE = 0.012  # relative cost; points closer than this are moved so far apart


def render_comparison(comparison: Compared) -> bytes:
    """Give the picture as PNG: with several temperatures, quality against entropy. SettingError without matplotlib."""
    rows = len(comparison.schedules)
    figure = new_figure((11, max(4.2, 2.4 + 0.42 * rows)))
    quality, strips = figure.subplots(1, 2, width_ratios=(1.15, 1))
    (_draw_quality if len(comparison.temperatures) == 1 else draw_frontier)(quality, comparison)
    _draw_strips(strips, comparison)
    if len(comparison.temperatures) == 1:
        _name_points(quality, comparison)
    return png_bytes(figure)


def _draw_quality(axes: "Axes", comparison: Compared) -> None:
    entries = comparison.entries
    heights = [_bounds(entry) for entry in entries]
    low, high = min(a for a, _ in heights), max(b for _, b in heights)
    axes.axhline(comparison.reference.scores.gen_ppl, color=GRID, linewidth=1.2, zorder=0)
    for entry in entries:
        _draw_point(axes, entry, _cost(entry, entries) + _shift(entry, entries))
    costs = [_cost(entry, entries) for entry in entries]
    spread = max(0.1, max(costs) - min(costs))
    axes.set_xlim(min(costs) - 0.16 * spread, max(costs) + 0.16 * spread)
    if high > 3 * low:
        axes.set_yscale("log")
    else:
        margin = 0.14 * (high - low) or 0.1 * high
        axes.set_ylim(low - margin, high + margin)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    is_moved = any(_shift(entry, entries) for entry in entries)
    remark = "; like ones drawn side by side" if is_moved else ""
    axes.set_xlabel(f"FLOPs executed, relative to {comparison.reference.name}{remark}")
    axes.set_ylabel("judge perplexity (lower: less surprising)")
    scores = comparison.reference.scores
    axes.set_title(f"Quality against cost ({scores.num_samples} samples each, bars: 95 %)", loc="left", fontsize=10.5)
    clean(axes)


def draw_frontier(axes: "Axes", comparison: Compared) -> None:
    """One line per schedule through its temperatures: at equal entropy, the lower one is better."""
    for index, schedule in enumerate(comparison.schedules):
        entries = [entry for entry in comparison.entries if entry.name == schedule.name]
        entries.sort(key=lambda entry: entry.temperature)
        entropies, levels = [entry.scores.entropy for entry in entries], [entry.scores.gen_ppl for entry in entries]
        ends = [[abs(end - entry.scores.gen_ppl) for end in _bounds(entry)] for entry in entries]
        axes.errorbar(
            entropies,
            levels,
            yerr=list(zip(*ends, strict=True)),
            fmt=MARKERS[index % len(MARKERS)] + ("-", "--", ":")[index // len(LINES) % 3],
            color=LINES[index % len(LINES)],
            capsize=2.5,
            elinewidth=1,
            markersize=5,
            label=schedule.name,
        )
        for entry in entries if index == 0 else ():
            axes.annotate(
                f"T={entry.temperature:g}",
                (entry.scores.entropy, entry.scores.gen_ppl),
                xytext=(6, -10),
                textcoords="offset points",
                fontsize=8,
                color=INK,
            )
    bounds = [_bounds(entry) for entry in comparison.entries]
    if max(high for _, high in bounds) > 3 * min(low for low, _ in bounds):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.set_xlabel("token entropy of a sample, nats (higher: more varied)")
    axes.set_ylabel("judge perplexity (lower: less surprising)")
    scores = comparison.reference.scores
    axes.set_title(
        f"Quality against entropy ({scores.num_samples} samples each, bars: 95 %)", loc="left", fontsize=10.5
    )
    axes.legend(frameon=False, fontsize=9)
    clean(axes)


def _bounds(entry: ComparedEntry) -> tuple[float, float]:
    """Lower and upper end of an entry's bar."""
    return entry.scores.gen_ppl_ci95 or (entry.scores.gen_ppl, entry.scores.gen_ppl)


def _cost(entry: ComparedEntry, entries: tuple[ComparedEntry, ...]) -> float:
    """Where a point lies: FLOPs relative to the first entry, the reference."""
    return relative_flops(entry, entries[0])


def _shift(entry: ComparedEntry, entries: tuple[ComparedEntry, ...]) -> float:
    """How far a point moves sideways, so that bars of equal cost do not cover each other; cheaper ones left."""
    own = _cost(entry, entries)
    cluster = [other for other in entries if abs(_cost(other, entries) - own) < DODGE]
    cluster.sort(key=lambda other: _cost(other, entries))
    return (cluster.index(entry) - (len(cluster) - 1) / 2) * DODGE


def _name_points(axes: "Axes", comparison: Compared) -> None:
    """Write each schedule's name beside its point, the best first, so that it has the first pick of places."""
    entries = comparison.entries
    bars = [
        NamedBar(entry.name, _cost(entry, entries) + _shift(entry, entries), entry.scores.gen_ppl, *_bounds(entry))
        for entry in sorted(entries, key=lambda entry: entry.scores.gen_ppl)
    ]
    place_names(axes, bars)


def _draw_point(axes: "Axes", entry: ComparedEntry, cost: float) -> None:
    low, high = _bounds(entry)
    ppl = entry.scores.gen_ppl
    axes.errorbar(
        cost, ppl, yerr=[[ppl - low], [high - ppl]], fmt="o", color=INK, markersize=7, capsize=3, elinewidth=1.4
    )


def _draw_strips(axes: "Axes", comparison: Compared) -> None:
    """One bar per schedule, from the first step to the last, coloured and lettered by model."""
    from matplotlib.patches import Patch

    colours = model_colours(comparison.models)
    for row, entry in enumerate(comparison.schedules):
        schedule = entry.result.schedule
        draw_strip(axes, row, schedule, colours)
        axes.text(0, row - 0.31, entry.name, ha="left", va="bottom", fontsize=9.5, color=INK)
        axes.text(1, row - 0.31, str(schedule)[:40], ha="right", va="bottom", fontsize=8, color=INK, alpha=0.7)
    axes.set_ylim(len(comparison.schedules) - 0.5, -0.75)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["t = 1\nall masked", "t = 0.5", "t = 0\nclean"])
    axes.set_yticks([])
    axes.set_title("Who makes which denoising step", loc="left", fontsize=10.5)
    used = [
        key for key in comparison.models if any(key in entry.result.schedule.keys for entry in comparison.schedules)
    ]
    patches = [Patch(color=colours[key], label=role(key)) for key in used]
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=len(used), frameon=False)
    clean(axes)
    axes.spines["left"].set_visible(False)
