"""The strip that shows which model makes which steps of a schedule."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from understudy.report.canvas import PAPER
from understudy.schedule import ModelSchedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERED = 0.05  # of the width; narrower segments have no room for a letter
MOST_EDGES = 40  # segments; with more of them edges would hide the colours


def draw_strip(
    axes: "Axes", row: float, schedule: ModelSchedule, colours: Mapping[str, str], *, height: float = 0.5
) -> None:
    """Draw a schedule from 0, its first step, to 1, its last, coloured and, where there is room, lettered by model."""
    start, edge = 0.0, 1.5 if len(schedule.segments) <= MOST_EDGES else 0.0
    for segment in schedule.segments:
        share = segment.count / schedule.num_steps
        axes.barh(row, share, left=start, height=height, color=colours[segment.key], edgecolor=PAPER, linewidth=edge)
        if share > LETTERED:
            axes.text(start + share / 2, row, segment.key, ha="center", va="center", color=PAPER, weight="bold")
        start += share


def role(key: str) -> str:
    """Say what a key stands for, where convention says so."""
    return {"H": "H, heavy", "L": "L, light"}.get(key, key)
