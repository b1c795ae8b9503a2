"""The picture of a plan: divergence against what is saved, and over time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from understudy.planning import Plan, Prediction
from understudy.report.authorship import model_colours
from understudy.report.canvas import INK, PAPER, clean, new_figure, png_bytes
from understudy.schedule import ModelSchedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MUTED, ACCENT = "#9AA1AA", "#B3344C"
MARKERS = {"sandwich": "s", "first": "<", "last": ">", "middle": "^", "interleaved": "D"}
LABEL_HEIGHT = 0.062  # of the axes; labels stand at least so far apart
LETTER_WIDTH = 0.016  # of the axes, at most
MOST_LETTERS = 16  # of a schedule in the title
COSTS = {
    "blocks": "nominal FLOPs saved, blocks only",
    "head": "nominal FLOPs saved, with head",
    "executed": "executed FLOPs saved by the schedule",
    "milliseconds": "time saved",
    "steps": "steps saved",
}


def render_plan(plan: Plan) -> bytes:
    """Give the picture as PNG. SettingError where matplotlib is not installed."""
    figure = new_figure((11, 4.8))
    trade, curve = figure.subplots(1, 2, width_ratios=(1.1, 1))
    _draw_trade(trade, plan)
    _draw_curve(curve, plan)
    return png_bytes(figure)


def _draw_trade(axes: "Axes", plan: Plan) -> None:
    """Path KL against the share saved: frontier, plan and named rules; all of the frontier small, where it is cut."""
    saved, path_kl = ([getattr(entry, name) for entry in plan.frontier] for name in ("saved", "path_kl"))
    marks = [plan.prediction, *plan.named]
    right, top = _view(plan, marks)
    is_cut = right < max(saved)
    # What lies behind the marks is where their names go; all of it is in the small picture.
    end = max(entry.saved for entry in marks) + 0.03 * right if is_cut else max(saved)
    shown = [*(share for share in saved if share < end), end]
    axes.plot(shown, np.interp(shown, saved, path_kl), color=INK, linewidth=1.6, zorder=1)
    axes.set_xlim(-0.02 * right, right)
    axes.set_ylim(-0.03 * top, top)
    for entry in marks:
        _mark(axes, entry, is_plan=entry is plan.prediction)
    _label_marks(axes, marks, right, top, None if is_cut else (saved, path_kl))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel(COSTS[plan.convention])
    axes.set_ylabel("predicted path KL, nats a sequence (± 1 s.e.)")
    axes.set_title("Divergence against saving: frontier, plan and rules", loc="left", fontsize=10.5)
    clean(axes)
    if is_cut:
        inset = axes.inset_axes((0.09, 0.62, 0.42, 0.33))
        inset.plot(saved, path_kl, color=INK, linewidth=1.2)
        inset.plot(plan.prediction.saved, plan.prediction.path_kl, "*", color=ACCENT, markersize=9)
        inset.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        inset.set_title("all of the frontier", loc="left", fontsize=8.5)
        clean(inset, size=7.5)


def _mark(axes: "Axes", entry: Prediction, *, is_plan: bool) -> None:
    """One schedule with its standard error."""
    axes.errorbar(
        entry.saved,
        entry.path_kl,
        yerr=entry.path_kl_se,
        fmt="*" if is_plan else MARKERS.get(entry.name.split()[0], "o"),
        color=ACCENT if is_plan else INK,
        markerfacecolor=ACCENT if is_plan else PAPER,
        markersize=15 if is_plan else 6.5,
        elinewidth=1.1,
        zorder=4 if is_plan else 3,
    )


def _view(plan: Plan, marks: Sequence[Prediction]) -> tuple[float, float]:
    """Right and upper end: all of the frontier, unless that would crowd the marks into a corner; and room for names."""
    highest = max(entry.path_kl + entry.path_kl_se for entry in marks)
    most = max(entry.saved for entry in marks)
    whole = max(entry.saved for entry in plan.frontier)
    is_long = any(" of " in entry.name for entry in marks)
    right = max(most, 1e-3) * (1.65 if is_long else 1.45)
    if right >= whole or most < 0.02 * whole:
        right, highest = max(1.06 * whole, 1.06 * most), max(highest, *(entry.path_kl for entry in plan.frontier))
        # Names stand above the frontier, and so need room above the marks.
        room = 1 - min(len(marks) * LABEL_HEIGHT, 0.5)
        highest = max(highest, min(entry.path_kl for entry in marks) / room / 1.12)
    return right, 1.12 * highest if highest > 0 else 1.0


def _label_marks(
    axes: "Axes",
    marks: Sequence[Prediction],
    right: float,
    top: float,
    line: tuple[Sequence[float], Sequence[float]] | None,
) -> None:
    """Name every mark in a column beside it, lines leading there, so far apart that all can be read.

    line: the frontier where it goes on behind the marks, which the names stay above. The column is to the right where
    there is room, and else to the left, where a rising frontier is lower.
    """
    ordered = sorted(marks, key=lambda entry: entry.path_kl)
    costs = [entry.saved for entry in marks]
    is_right = max(costs) < (0.75 if line is None else 0.4) * right
    column = max(costs) + 0.07 * right if is_right else min(costs) - 0.07 * right
    lowest = 0.0
    if line is not None:
        widest = max(len(_name(entry)) for entry in marks) * LETTER_WIDTH * right
        beside = np.linspace(column, column + widest if is_right else column - widest, 50)
        lowest = min(float(np.interp(beside, *line).max()) / (1.03 * top) + 0.03, 0.8)
    least = min(LABEL_HEIGHT, (1 - lowest) / len(ordered))
    heights = _spread([entry.path_kl / (1.03 * top) + 0.03 for entry in ordered], least, lowest)
    for entry, height in zip(ordered, heights, strict=True):
        is_plan = entry is marks[0]
        axes.annotate(
            _name(entry),
            (entry.saved, entry.path_kl),
            xytext=(column, (height - 0.03) * 1.03 * top),
            va="center",
            ha="left" if is_right else "right",
            fontsize=9,
            color=ACCENT if is_plan else INK,
            weight="bold" if is_plan else "normal",
            bbox={"boxstyle": "square,pad=0.15", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.85},
            arrowprops={
                "arrowstyle": "-",
                "color": ACCENT if is_plan else MUTED,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 6,
                "relpos": (0 if is_right else 1, 0.5),
            },
            zorder=5,
        )


def _name(entry: Prediction) -> str:
    return f"{entry.name}  {entry.path_kl:.3g}"


def _spread(places: Sequence[float], least: float, lowest: float = 0.0) -> list[float]:
    """Move ascending places apart to a least distance, as groups about their means, and keep them in [lowest, 1]."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _bounds(groups[-2], least, lowest)[1] + least > _bounds(groups[-1], least, lowest)[0]:
            last = groups.pop()
            groups[-1] += last
    return [_bounds(group, least, lowest)[0] + least * index for group in groups for index in range(len(group))]


def _bounds(group: Sequence[float], least: float, lowest: float) -> tuple[float, float]:
    """Where the first and last of a group stand."""
    extent = least * (len(group) - 1)
    start = min(max(sum(group) / len(group) - extent / 2, lowest + least / 2), 1 - least / 2 - extent)
    return start, start + extent


def _draw_curve(axes: "Axes", plan: Plan) -> None:
    """Divergence of each step by model, over the steps that the plan gives to each."""
    from matplotlib.patches import Patch

    colours, schedule = model_colours(plan.keys), plan.schedule
    start = 0
    for segment in schedule.segments:
        axes.axvspan(start, start + segment.count, color=colours[segment.key], alpha=0.16, linewidth=0)
        start += segment.count
    lines = [
        axes.plot(
            [step + 0.5 for step in plan.curve.steps],
            values,
            color=colours[key],
            linewidth=1.8,
            label=f"{plan.keys[0]} to {key}",
        )[0]
        for key, values in plan.curve.divergence.items()
    ]
    patches = [
        Patch(color=colours[key], alpha=0.3, label=f"steps of {key}") for key in plan.keys if key in schedule.counts
    ]
    axes.set_xlim(0, schedule.num_steps)
    axes.set_ylim(0, 1.08 * max((max(values) for values in plan.curve.divergence.values()), default=1.0) or 1.0)
    axes.set_xlabel("step, from all masked to clean")
    axes.set_ylabel("divergence, nats a sequence and step (smoothed)")
    axes.set_title(f"Where the models differ, and {_short(schedule)}", loc="left", fontsize=10.5)
    axes.legend(
        handles=[*lines, *patches],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    clean(axes)


def _short(schedule: ModelSchedule) -> str:
    """The plan, as far as a title holds it."""
    text = str(schedule)
    return f"the plan {text}" if len(text) <= MOST_LETTERS else f"a plan of {len(schedule.segments)} runs"
