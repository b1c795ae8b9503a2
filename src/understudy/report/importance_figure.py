"""The picture of an analysis: where in time the models differ, on held-out text and on the reference's trajectories.

Time runs as sampling does, from t = 1 (all masked) on the left to t = 0. Shaded: ± two standard errors.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.importance import Curve, HeldOutCurves, Importance, PathDivergence
from understudy.report.authorship import model_colours
from understudy.report.canvas import INK, clean, new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", ":", "-.")


def render_importance(importance: Importance) -> bytes:
    """Give the picture as PNG. SettingError where matplotlib is not installed."""
    colours = model_colours(list(importance.models))
    panels: list[Any] = []
    if importance.held_out is not None:
        held_out = importance.held_out
        panels += [lambda axes: _draw_tokens(axes, held_out, importance.reference, colours)]
        panels += [lambda axes: _draw_sequences(axes, held_out, importance.reference, colours)]
    if importance.paths:
        panels += [lambda axes: _draw_paths(axes, importance.paths, importance.reference, colours)]
    figure = new_figure((4.6 * len(panels) + 0.6, 4.7))
    for axes, draw in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        draw(axes)
        axes.set_xlim(1, 0)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xticks([1, 0.75, 0.5, 0.25, 0], ["t = 1\nall masked", "0.75", "0.5", "0.25", "t = 0\nclean"])
        # Below, where it can lie on no curve and on no line.
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(0, -0.15), borderaxespad=0)
        clean(axes)
    return png_bytes(figure)


def _draw_tokens(axes: "Axes", curves: HeldOutCurves, reference: str, colours: dict[str, str]) -> None:
    for key, curve in curves.kl.items():
        _band(axes, curves.times, curve, colours[key], "-", f"KL({reference} ‖ {key})")
        _band(axes, curves.times, curves.gap[key], colours[key], "--", f"cross-entropy, {key} − {reference}")
    axes.set_ylabel("nats per masked token")
    axes.set_title(f"Held-out text, per masked token ({curves.num_blocks} blocks)", loc="left", fontsize=10)


def _draw_sequences(axes: "Axes", curves: HeldOutCurves, reference: str, colours: dict[str, str]) -> None:
    for key, gap in curves.gap.items():
        _band(axes, curves.times, curves.kl_per_sequence(key), colours[key], "-", f"t · KL({reference} ‖ {key})")
        scaled = Curve(curves.mask_prob * gap.mean, curves.mask_prob * gap.error)
        _band(axes, curves.times, scaled, colours[key], "--", f"t · cross-entropy, {key} − {reference}")
    axes.set_ylabel("nats per token of the sequence")
    axes.set_title("Held-out text, all masked tokens", loc="left", fontsize=10)


def _draw_paths(axes: "Axes", paths: Sequence[PathDivergence], reference: str, colours: dict[str, str]) -> None:
    for path, style in zip(paths, STYLES * len(paths), strict=False):
        widths = np.diff(path.bins) / path.num_steps
        middle = 1 - (path.bins[:-1] + path.bins[1:]) / 2 / path.num_steps
        errors = np.sqrt(np.diag(path.covariance)).reshape(path.bin_means.shape)
        scale = widths * path.free_positions
        for key, mean, error in zip(path.keys, path.bin_means, errors, strict=True):
            label = f"{key}, {path.name} ({path.num_samples} samples)"
            _band(axes, middle, Curve(mean / scale, error / scale), colours[key], style, label)
    axes.set_ylabel("nats per token, if made at this time")
    axes.set_title(f"Path KL on {reference}'s own trajectories", loc="left", fontsize=10)


def _band(axes: "Axes", times: Any, curve: Curve, colour: str, style: str, label: str) -> None:
    axes.plot(times, curve.mean, style, color=colour, linewidth=1.8, label=label)
    error = np.nan_to_num(2 * curve.error)
    axes.fill_between(times, curve.mean - error, curve.mean + error, color=colour, alpha=0.18, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.4)
