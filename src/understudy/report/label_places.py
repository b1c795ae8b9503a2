"""Names beside points with error bars, where they cover neither bars nor each other.

Boxes are (left, bottom, right, top) in pixels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from understudy.report.canvas import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

Box: TypeAlias = tuple[float, float, float, float]
GAP = 4.0  # points between a bar and its name
REACHES = (14.0, 24.0, 36.0, 50.0, 66.0, 84.0)  # points, of names that a line leads to
DIRECTIONS = 16
LINE = "#9AA1AA"


@dataclass(frozen=True)
class NamedBar:
    """A point at (x, y) with a bar from `low` to `high`, in the units of the axes, and the name to stand beside it."""

    name: str
    x: float
    y: float
    low: float
    high: float


def place_names(axes: "Axes", bars: Sequence[NamedBar], *, size: float = 9.5) -> "list[Annotation]":
    """Write the names, once all else of the figure is drawn and its limits are set; gives them in the order of `bars`.

    One after the other each takes the nearest place that is free: above its bar, below, beside, else further out with a
    line that leads there. Where none is free it takes the one that covers least.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # layout is what pixels depend on
    point = figure.dpi / 72
    boxes = [_bar_box(axes, bar, point) for bar in bars]
    taken, written = list(boxes), []
    for bar, own in zip(bars, boxes, strict=True):
        name = axes.annotate(
            bar.name,
            (bar.x, bar.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="left",
            va="bottom",
            fontsize=size,
            color=INK,
            zorder=5,
        )
        name.set_in_layout(False)
        extent = name.get_window_extent()
        place, leads = _best_place(axes, own, (extent.width, extent.height), taken, point)
        start = axes.transData.transform((bar.x, bar.y))
        name.xyann = ((place[0] - start[0]) / point, (place[1] - start[1]) / point)
        taken.append(place)
        if leads:
            taken += _line_boxes(own, place)
            _draw_line(axes, own, place)
        written.append(name)
    return written


def _bar_box(axes: "Axes", bar: NamedBar, point: float) -> Box:
    (x, low), (_, high) = (axes.transData.transform((bar.x, end)) for end in (bar.low, bar.high))
    (_, middle) = axes.transData.transform((bar.x, bar.y))
    half = 5 * point  # of a marker, and of the caps at the ends
    return x - half, min(low - point, middle - half), x + half, max(high + point, middle + half)


def _best_place(
    axes: "Axes", own: Box, size: tuple[float, float], taken: Sequence[Box], point: float
) -> tuple[Box, bool]:
    """The first place that covers nothing, else that which covers least, and whether a line leads there."""
    inside = axes.bbox.extents

    def badness(place: tuple[Box, bool]) -> float:
        box, leads = place
        covered = sum(_overlap(box, other if other == own else _grown(other, GAP * point)) for other in taken)
        if leads:
            others = [other for other in taken if other != own]
            covered += sum(_overlap(part, other) for part in _line_boxes(own, box) for other in others)
        width, height = box[2] - box[0], box[3] - box[1]
        return covered + width * height - _overlap(box, (inside[0], inside[1], inside[2], inside[3]))

    places = list(_places(own, size, point))
    return min(places, key=lambda place: (round(badness(place), 3), places.index(place)))


def _places(own: Box, size: tuple[float, float], point: float) -> Iterator[tuple[Box, bool]]:
    """Where a name of this size may stand, the best first, and whether a line must lead there."""
    width, height = size
    left, bottom, right, top = own
    x, y, gap = (left + right) / 2, (bottom + top) / 2, GAP * point
    for middle_x, low in (
        (x, top + gap),
        (x, bottom - gap - height),
        (right + gap + width / 2, y - height / 2),
        (left - gap - width / 2, y - height / 2),
    ):
        yield (middle_x - width / 2, low, middle_x + width / 2, low + height), False
    for reach in REACHES:
        for index in range(DIRECTIONS):
            angle = 2 * math.pi * index / DIRECTIONS
            across, up = math.cos(angle), math.sin(angle)
            middle_x = x + across * ((right - left + width) / 2 + reach * point)
            middle_y = y + up * ((top - bottom + height) / 2 + reach * point)
            yield (
                (middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2),
                True,
            )


def _grown(box: Box, margin: float) -> Box:
    """A box with a margin, so that a name is not read as that of the bar that it nearly touches."""
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def _overlap(first: Box, second: Box) -> float:
    """Area of what two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def _line_ends(own: Box, place: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """From the middle of a bar to the nearest point of a name."""
    x, y = (own[0] + own[2]) / 2, (own[1] + own[3]) / 2
    return (x, y), (min(max(x, place[0]), place[2]), min(max(y, place[1]), place[3]))


def _line_boxes(own: Box, place: Box, parts: int = 12) -> list[Box]:
    """A line as small boxes, its two ends left out."""
    (x, y), (to_x, to_y) = _line_ends(own, place)
    shares = [index / parts for index in range(1, parts)]
    centres = [(x + share * (to_x - x), y + share * (to_y - y)) for share in shares]
    return [(a - 2, b - 2, a + 2, b + 2) for a, b in centres]


def _draw_line(axes: "Axes", own: Box, place: Box) -> None:
    back = axes.transData.inverted()
    start, end = (back.transform(corner) for corner in _line_ends(own, place))
    limits = axes.get_xlim(), axes.get_ylim()
    axes.plot([start[0], end[0]], [start[1], end[1]], color=LINE, linewidth=0.8, zorder=0.5)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
