"""Pictures of trade-offs read from files: quality against executed FLOPs, and quality against entropy."""

from typing import TYPE_CHECKING

from understudy.report.canvas import GRID, INK, clean, new_figure, png_bytes
from understudy.report.compared import Compared
from understudy.report.comparison_figure import LINES, MARKERS, draw_frontier
from understudy.report.cost_frontier import CostFrontier, CostPoint
from understudy.report.label_places import NamedBar, place_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PREFIXES = ((1e18, "exa"), (1e15, "peta"), (1e12, "tera"), (1e9, "giga"), (1e6, "mega"))


def render_temperatures(comparison: Compared) -> bytes:
    """Draw one line per schedule through its temperatures. SettingError where matplotlib is not installed."""
    figure = new_figure((8.2, 5))
    draw_frontier(figure.subplots(), comparison)
    return png_bytes(figure)


def describe_temperatures(comparison: Compared) -> str:
    """What the picture shows, in words."""
    heats = ", ".join(f"{heat:g}" for heat in comparison.temperatures)
    names = ", ".join(entry.name for entry in comparison.schedules[:8])
    return f"Judge perplexity against token entropy at temperatures {heats}, a line for each schedule: {names}."


def render_costs(frontier: CostFrontier) -> bytes:
    """Draw perplexity against FLOPs a sample, a line per shape through its numbers of steps.

    SettingError where matplotlib is not installed.
    """
    figure = new_figure((9.4, 5.4))
    axes = figure.subplots()
    unit, name = next((pair for pair in PREFIXES if frontier.points[0].flops >= pair[0]), (1.0, ""))
    best = frontier.best
    if best:
        axes.plot(
            [point.flops / unit for point in best],
            [point.gen_ppl for point in best],
            color=GRID,
            linewidth=9,
            solid_capstyle="round",
            zorder=0,
            label="frontier",
        )
    shapes = dict.fromkeys(point.shape for point in sorted(frontier.points, key=lambda point: -point.flops))
    for index, shape in enumerate(shapes):
        _draw_shape(axes, [point for point in frontier.points if point.shape == shape], index, unit)
    bounds = [point.bounds for point in frontier.points]
    costs = [point.flops for point in frontier.points]
    if max(costs) > 4 * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    if max(high for _, high in bounds) > 3 * min(low for low, _ in bounds):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.set_xlabel(f"executed {name}FLOPs a sample", color=INK)
    axes.set_ylabel("judge perplexity (lower: less surprising)", color=INK)
    axes.set_title(f"Quality against cost; bars: 95 %, {_numbers(frontier)}", loc="left", fontsize=10.5, color=INK)
    axes.tick_params(which="minor", colors=INK, labelsize=8)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    axes.margins(0.08)
    clean(axes)
    steps = {point.num_steps for point in frontier.points}
    if len(steps) > 1:
        bars = [NamedBar(str(p.num_steps), p.flops / unit, p.gen_ppl, *p.bounds) for p in _labelled(frontier)]
        place_names(axes, bars, size=8)
    return png_bytes(figure)


def describe_costs(frontier: CostFrontier) -> str:
    """What the picture shows, in words."""
    if not frontier.best:
        return f"Judge perplexity against executed FLOPs of {len(frontier.points)} schedules, of too few samples each."
    ends = frontier.best[0], frontier.best[-1]
    spoken = " to ".join(
        f"{point.entry.result.schedule} ({point.flops:.2e} FLOPs, perplexity {point.gen_ppl:.1f})" for point in ends
    )
    return (
        f"Judge perplexity against executed FLOPs of {len(frontier.points)} schedules; the frontier goes from {spoken}."
    )


def _numbers(frontier: CostFrontier) -> str:
    """What the numbers beside points are; one number of steps for all is said once."""
    steps = {point.num_steps for point in frontier.points}
    return "numbers: steps" if len(steps) > 1 else f"{steps.pop()} steps each"


def _labelled(frontier: CostFrontier) -> list[CostPoint]:
    """Points that their steps are written beside, the best first; one of those that lie at the same place."""
    places = {(point.flops, point.gen_ppl, point.num_steps): point for point in reversed(frontier.points)}
    return sorted(places.values(), key=lambda point: (not point.is_best, point.gen_ppl))


def _draw_shape(axes: "Axes", points: list[CostPoint], index: int, unit: float) -> None:
    """One shape: its points by cost."""
    ends = [[abs(end - point.gen_ppl) for end in point.bounds] for point in points]
    axes.errorbar(
        [point.flops / unit for point in points],
        [point.gen_ppl for point in points],
        yerr=list(zip(*ends, strict=True)),
        fmt=MARKERS[index % len(MARKERS)] + ("-", "--", ":")[index // len(LINES) % 3],
        color=LINES[index % len(LINES)],
        linewidth=1.2,
        capsize=2.5,
        elinewidth=1,
        markersize=5.5,
        label=points[0].shape,
    )
