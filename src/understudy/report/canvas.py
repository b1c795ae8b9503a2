"""What all pictures share: the paper they are drawn on, its colours, and how they become files.

Drawn on a canvas of their own, through matplotlib's objects: nothing global is touched, no display is needed.
"""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import SettingError
from understudy.whole_files import check_writable, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PAPER, GRID = "#22262B", "#FFFFFF", "#D9DDE2"


def can_draw() -> bool:
    """Whether pictures can be made, that is whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_can_draw(path: Path) -> None:
    """Raise, before any work is done, where a picture could not be made or written later.

    SettingError without matplotlib, DataError for a place that cannot be written to.
    """
    if not can_draw():
        raise SettingError("pictures need matplotlib: pip install 'understudy[plot]', or ask for none")
    check_writable(path)


def new_figure(size: tuple[float, float]) -> "Figure":
    """Give an empty figure of so many inches. SettingError where matplotlib, the extra `plot`, is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingError("pictures need matplotlib: pip install 'understudy[plot]'") from error
    figure = Figure(figsize=size, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: "Figure") -> bytes:
    """Give a figure as the bytes of a PNG, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": "understudy"})
    return buffer.getvalue()


def write_picture(path: str | Path, png: bytes) -> None:
    """Write a picture, whole or not at all. DataError when the disk refuses."""
    write_bytes(Path(path), png)


def clean(axes: Any, *, size: float = 9) -> None:
    """Leave only what carries information: two quiet spines and the ticks, their labels of so many points."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=INK, labelsize=size)
