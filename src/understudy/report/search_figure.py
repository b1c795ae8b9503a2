"""The picture of a search: a heat map over two light segments, else schedules in order with their intervals."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from understudy.report.authorship import model_colours
from understudy.report.canvas import GRID, INK, PAPER, clean, new_figure, png_bytes, write_picture
from understudy.report.search_reading import short_schedule, shown_ranks
from understudy.search import SearchEntry, SearchResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS = 60  # schedules in a sorted plot; those behind them are counted below it


def render_search(result: SearchResult) -> bytes:
    """Give the picture as PNG: a triangle of cells where one model makes two segments of a pair, else sorted rows.

    SettingError where matplotlib is not installed.
    """
    key = paired_key(result)
    if key is None:
        figure = new_figure((9.5, 1.5 + 0.27 * len(_shown(result))))
        _draw_rows(figure, result)
    else:
        count = result.space["num_segments"]
        figure = new_figure((max(6.4, 2.6 + 0.86 * count), max(5.2, 1.9 + 0.74 * count)))
        _draw_triangle(figure, result, key)
    return png_bytes(figure)


def draw_search(result: SearchResult, path: str | Path) -> None:
    """Write the picture. SettingError without matplotlib; DataError when the disk refuses."""
    write_picture(path, render_search(result))


def paired_key(result: SearchResult) -> str | None:
    """Key of the model, not the costliest, that makes two segments beside one other model; None where there is none."""
    counts = result.space["segment_counts"]
    lighter = [key for key, count in counts.items() if count == 2 and key != result.models[0]]
    return lighter[0] if len(counts) == 2 and lighter else None


def _draw_triangle(figure: "Figure", result: SearchResult, key: str) -> None:
    """Cell (i, j): the schedule whose segments i and j are the light ones."""
    count = result.space["num_segments"]
    axes = figure.subplots()
    entries = [entry for entry in result.entries if "space" in entry.origins and entry.segments is not None]
    values: NDArray[np.float64] = np.full((count, count), np.nan)
    for entry in entries:
        values[_places(entry, key)] = entry.nll_difference.difference
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    spread = high - low or 1.0
    picture = axes.imshow(values, cmap=_light_colours(), vmin=low, vmax=low + spread, aspect="auto")
    axes.hlines(np.arange(count - 1) + 0.5, -0.5, count - 0.5, color=PAPER, linewidth=2)
    axes.vlines(np.arange(count - 1) + 0.5, -0.5, count - 0.5, color=PAPER, linewidth=2)
    for entry in entries:
        _label_cell(axes, entry, _places(entry, key), is_planner=_is_planner(entry, result))
    _frame_triangle(axes, result, key, count)
    bar = figure.colorbar(picture, ax=axes, shrink=0.85, pad=0.02)
    bar.set_label(f"NLL less that of {result.reference}, nats per token", color=INK, fontsize=9)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)


def _light_colours() -> Any:
    """From cream to orange, light enough for dark letters."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["YlOrBr"](np.linspace(0.04, 0.6, 256)))


def _places(entry: SearchEntry, key: str) -> tuple[int, int]:
    first, second = (index for index, letter in enumerate(entry.segments or "") if letter == key)
    return first, second


def _label_cell(axes: "Axes", entry: SearchEntry, places: tuple[int, int], *, is_planner: bool) -> None:
    from matplotlib.patches import Rectangle

    row, column = places
    paired = entry.nll_difference
    value = _signed(paired.difference)
    axes.text(column, row - 0.1, value, ha="center", va="center", color=INK, fontsize=9)
    half = f"±{(paired.high - paired.low) / 2:.3f}"
    axes.text(column, row + 0.2, half, ha="center", va="center", color=INK, fontsize=7, alpha=0.85)
    if entry.rank == 1 or (entry.rank_range is not None and entry.is_within_noise_of_best):
        width = 2.4 if entry.rank == 1 else 1.2
        frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=width)
        axes.add_patch(frame)
        if entry.rank != 1:
            frame.set_linestyle((0, (3, 2)))
    if is_planner:
        axes.plot(column + 0.34, row - 0.33, marker="*", color=INK, markersize=8, linestyle="none")
    if entry.dropped is not None:
        axes.text(column - 0.42, row - 0.3, f"n {entry.num_samples}", fontsize=6, color=INK, va="center")


def _frame_triangle(axes: "Axes", result: SearchResult, key: str, count: int) -> None:
    best = result.entry(result.reference)
    is_best_a_cell = any(entry.rank == 1 and "space" in entry.origins for entry in result.entries)
    lowest = (
        "solid: lowest; dashed: within noise of it" if is_best_a_cell else "dashed: within noise of rank 1, no cell"
    )
    if result.has_few_samples:
        lowest = f"{'lowest by the estimates' if is_best_a_cell else 'rank 1 is no cell'}; too few samples to tell"
    notes = [f"▭  {lowest}"]
    if result.planner is not None:
        notes.append(_planner_note(result))
    if any(entry.dropped for entry in result.ranked):
        notes.append("n  samples, where halving dropped it")
    notes.append(f"±  half of the 95 % interval, {best.num_samples} samples, paired")
    axes.text(
        0.02, 0.03, "\n".join(notes), transform=axes.transAxes, fontsize=8, color=INK, va="bottom", linespacing=1.5
    )
    ticks = [str(number) for number in range(1, count + 1)]
    axes.set_xticks(range(count), ticks)
    axes.set_yticks(range(count), ticks)
    axes.set_xlabel(f"second segment made by {key}  (1: all masked … {count}: clean)", color=INK)
    axes.set_ylabel(f"first segment made by {key}", color=INK)
    length = result.space["segment_lengths"][0]
    heading = f"Two of {count} segments of {length} steps by {key}, the others by {result.models[0]}"
    axes.set_title(heading, loc="left", fontsize=10.5, color=INK)
    clean(axes)


def _planner_note(result: SearchResult) -> str:
    """What the star is, or where the planner's choice is no cell, how it did."""
    entry = next(entry for entry in result.entries if _is_planner(entry, result))
    if entry.segments is not None and "space" in entry.origins:
        return "★  the planner's choice"
    paired = entry.nll_difference
    figures = f"{_signed(paired.difference)} ±{(paired.high - paired.low) / 2:.3f}"
    return f"No cell is the planner's choice, {short_schedule(entry.schedule)}:\n     {figures}"


def _signed(value: float) -> str:
    return f"{value:+z.3f}".replace("-", "−")


def _draw_rows(figure: "Figure", result: SearchResult) -> None:
    """One row per schedule, in order of rank: who makes which steps, and the difference with its interval."""
    shown = _shown(result)
    strips, dots = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.9))
    _draw_strips(strips, result, shown)
    dots.axvline(0, color=GRID, linewidth=1.2, zorder=0)
    places = _rows(result, shown)
    for row, entry in zip(places, shown, strict=True):
        _draw_dot(dots, row, entry, result)
    hollow = "\nhollow: dropped by halving, on fewer samples" if any(entry.dropped for entry in shown) else ""
    label = f"NLL less that of {result.reference}, nats per token; bars: 95 %, paired{hollow}"
    dots.set_xlabel(label, color=INK, fontsize=9)
    dots.set_title(_rows_title(result), loc="left", fontsize=10.5, color=INK)
    dots.set_ylim(places[-1] + 0.6, -0.6)
    for axes in (strips, dots):
        clean(axes)
        axes.tick_params(left=False)
    strips.spines["bottom"].set_visible(False)
    for axes in (strips, dots):
        axes.spines["left"].set_visible(False)


def _shown(result: SearchResult) -> list[SearchEntry]:
    return [*result.ranked[:MAX_ROWS], *result.beside]


def _rows(result: SearchResult, shown: list[SearchEntry]) -> list[float]:
    """Height of each row; those of other costs stand apart."""
    gap = 0.6 if result.ranked else 0.0
    return [index + (0.0 if entry.is_ranked else gap) for index, entry in enumerate(shown)]


def _rows_title(result: SearchResult) -> str:
    hidden = len(result.ranked) - MAX_ROWS
    more = f"; {hidden} worse ones are not shown" if hidden > 0 else ""
    star = "; ★: the planner's choice" if any(_is_planner(entry, result) for entry in _shown(result)) else ""
    tied = "too few samples to tell apart" if result.has_few_samples else "shaded alike where tied"
    return f"Schedules in order, {tied}{star}{more}"


def _draw_strips(axes: "Axes", result: SearchResult, shown: list[SearchEntry]) -> None:
    from matplotlib.patches import Patch

    colours = model_colours(result.models)
    places = _rows(result, shown)
    for row, entry in zip(places, shown, strict=True):
        start = 0
        for segment in entry.schedule.segments:
            axes.barh(row, segment.count, left=start, height=0.62, color=colours[segment.key], edgecolor=PAPER)
            start += segment.count
    steps = result.space["steps"]
    axes.set_xlim(0, steps)
    axes.set_xticks([0, steps], ["all masked", "clean"])
    axes.set_yticks(places, [_row_name(entry, result) for entry in shown])
    used = [key for key in result.models if any(key in entry.schedule.keys for entry in shown)]
    patches = [Patch(color=colours[key], label=key) for key in used]
    axes.legend(handles=patches, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(used), frameon=False, fontsize=9)


def _row_name(entry: SearchEntry, result: SearchResult) -> str:
    if str(entry.schedule) == result.reference and not entry.is_ranked:
        return "reference"
    mark = "★  " if _is_planner(entry, result) else ""
    return mark + (shown_ranks(entry) if entry.is_ranked else "other cost")


def _draw_dot(axes: "Axes", row: float, entry: SearchEntry, result: SearchResult) -> None:
    paired = entry.nll_difference
    if entry.rank_range is not None:
        starts = sorted({other.rank_range[0] for other in result.ranked if other.rank_range is not None})
        if starts.index(entry.rank_range[0]) % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0, zorder=-1)
    bounds = [[max(0.0, paired.difference - paired.low)], [max(0.0, paired.high - paired.difference)]]
    face = PAPER if entry.dropped is not None else INK
    axes.errorbar(
        paired.difference, row, xerr=bounds, fmt="o", color=INK, markerfacecolor=face, markersize=5, elinewidth=1.2
    )


def _is_planner(entry: SearchEntry, result: SearchResult) -> bool:
    return result.planner is not None and result.planner.schedule == str(entry.schedule)
