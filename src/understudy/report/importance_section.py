"""What an analysis says, as a section of a report."""

import numpy as np
from numpy.typing import NDArray

from understudy.importance import HeldOutCurves, Importance, PathDivergence
from understudy.importance.record import ROUNDING
from understudy.report.blocks import Block, Section
from understudy.report.collection import Source
from understudy.report.comparison_table import TextTable
from understudy.report.importance_figure import render_importance
from understudy.report.origins import listed, origin_of, picture
from understudy.report.wording import with_error

QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")
MAX_TIMES = 8  # rows of the table over time
TOLD_APART = 2  # standard errors


def importance_section(source: Source[Importance], name: str) -> Section:
    """Curves over time, path KL by quarter of the steps, and what they show beyond noise. name: of the picture."""
    importance = source.content
    alt = f"Curves over time, from all masked to clean: {' '.join(_reading(importance))}"
    caption = "Time runs as sampling does, from t = 1 (all masked) to t = 0. Shaded: ± two standard errors."
    blocks: list[Block] = [*picture(name, lambda: render_importance(importance), alt, caption)]
    if importance.paths:
        blocks.append(_path_table(importance))
    if importance.held_out is not None:
        blocks += [_bound_table(importance.held_out), _time_table(importance.held_out, importance.reference)]
    models = {key: listed(model.get("path")) for key, model in importance.models.items() if model.get("path")}
    origin = origin_of(source.name, importance.command, importance.settings, importance.environment, models=models)
    return Section(source.name, _facts(importance), _reading(importance), (*blocks, origin))


def quarters(path: PathDivergence, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Path KL (4,) of a model in each quarter of the steps, nats a sequence, and the covariance (4, 4) of these.

    The covariance of a single trajectory is not a number.
    """
    row, edges = path.keys.index(key), np.round(np.linspace(0, path.num_steps, 5)).astype(int)
    steps = np.arange(path.num_steps)
    taken = (steps >= edges[:-1, None]) & (steps < edges[1:, None])  # (4, N)
    shares = np.zeros((4, *path.per_step.shape))
    shares[:, row] = taken
    covariance = path.covariance_of(shares) if path.num_samples > 1 else np.full((4, 4), np.nan)
    return taken @ path.per_step[row], covariance


def _facts(importance: Importance) -> str:
    reference, others = importance.reference, [key for key in importance.models if key != importance.reference]
    parts = [f"{', '.join(others)} held against {reference}"]
    if importance.held_out is not None:
        parts.append(f"{importance.held_out.num_blocks} held-out blocks of {importance.held_out.length} tokens")
    parts += [
        f"{path.num_samples} trajectories of {path.num_steps} steps and {path.length} tokens ({path.name})"
        for path in importance.paths
    ]
    return "; ".join([*parts, f"noise {importance.noise}"])


def _reading(importance: Importance) -> tuple[str, ...]:
    """At most a sentence for each of two conditions and models, and one for held-out text."""
    pairs = [(path, key) for path in importance.paths for key in path.keys]
    sentences = [_path_sentence(path, key) for path, key in pairs[:2]]
    if importance.held_out is not None:
        sentences += [_time_sentence(importance.held_out, importance.reference, key) for key in importance.held_out.kl]
    return tuple(sentences[:3])


def _path_sentence(path: PathDivergence, key: str) -> str:
    values, covariance = quarters(path, key)
    most, least = int(values.argmax()), int(values.argmin())
    errors = np.sqrt(np.diag(covariance))
    between = float(np.sqrt(covariance[most, most] + covariance[least, least] - 2 * covariance[most, least]))
    is_apart = values[most] - values[least] > TOLD_APART * between
    verdict = "beyond noise" if is_apart else "within noise, so not told apart"
    if values[most] - values[least] <= path.rounding:
        verdict = f"within the rounding of divergences ({path.rounding:.1g}), so not told apart,"
    return (
        f"{path.name.capitalize()}, steps made by {key} cost most path KL in the {QUARTERS[most]} of the steps "
        f"({with_error(values[most], errors[most])} nats a sequence) and least in the {QUARTERS[least]} "
        f"({with_error(values[least], errors[least])}): {verdict} with {path.num_samples} trajectories."
    )


def _time_sentence(curves: HeldOutCurves, reference: str, key: str) -> str:
    scaled = curves.kl_per_sequence(key)
    most, least = int(scaled.mean.argmax()), int(scaled.mean.argmin())
    high, low = (with_error(scaled.mean[index], scaled.error[index]) for index in (most, least))
    is_apart = scaled.mean[most] - scaled.mean[least] > TOLD_APART * float(np.hypot(*scaled.error[[most, least]]))
    verdict = "beyond noise" if is_apart else "within noise"
    if scaled.mean[most] - scaled.mean[least] <= ROUNDING:
        verdict = f"within the rounding of divergences ({ROUNDING:.1g})"
    return (
        f"On held-out text t · KL({reference} ‖ {key}) is highest at t = {curves.times[most]:.2f} ({high} nats a "
        f"token) and lowest at t = {curves.times[least]:.2f} ({low}), {verdict} with {curves.num_blocks} blocks."
    )


def _path_table(importance: Importance) -> TextTable:
    rows = []
    for path in importance.paths:
        for key in path.keys:
            values, covariance = quarters(path, key)
            error = float(np.sqrt(covariance.sum()))
            cells = [with_error(values.sum(), error)]
            cells += [with_error(values.sum() / path.free_positions, error / path.free_positions)]
            errors = np.sqrt(np.diag(covariance))
            cells += [with_error(value, own) for value, own in zip(values, errors, strict=True)]
            rows.append((f"{key}, {path.name}", *cells, str(path.num_samples)))
    return TextTable(
        "Path KL, were all these steps made by the model",
        ("model and condition", "all steps", "a token", *QUARTERS, "trajectories"),
        tuple(rows),
        f"Nats a sequence, ± one standard error over trajectories of {importance.reference}; quarters of the steps in "
        "sampling order, from all masked to clean. The sum over the steps that a schedule hands over bounds "
        "how far its texts can lie from the reference's.",
    )


def _bound_table(curves: HeldOutCurves) -> TextTable:
    return TextTable(
        "Negative ELBO on held-out text",
        ("model", "nats a token", "blocks"),
        tuple((key, with_error(value, error), str(curves.num_blocks)) for key, (value, error) in curves.bound.items()),
        "± one standard error over blocks, of each model alone; the models read the same blocks.",
    )


def _time_table(curves: HeldOutCurves, reference: str) -> TextTable:
    columns = ["t", f"loss {reference}"]
    for key in curves.kl:
        columns += [f"loss {key} − {reference}", f"KL({reference} ‖ {key})", f"t · KL({reference} ‖ {key})"]
        columns += [f"same best token, {key}"]
    rows = []
    for index in np.unique(np.linspace(0, len(curves.times) - 1, MAX_TIMES).round().astype(int))[::-1]:
        loss = curves.cross_entropy[reference]
        cells = [f"{curves.times[index]:.2f}", with_error(loss.mean[index], loss.error[index])]
        for key, kl in curves.kl.items():
            shown = (curves.gap[key], kl, curves.kl_per_sequence(key))
            cells += [with_error(curve.mean[index], curve.error[index]) for curve in shown]
            same = curves.agreement[key]
            cells.append(with_error(same.mean[index], same.error[index], ".1%"))
        rows.append(tuple(cells))
    note = "Nats a masked token (t · KL: a token of the sequence), ± one standard error over blocks."
    return TextTable("Held-out text over time", tuple(columns), tuple(rows), note)
