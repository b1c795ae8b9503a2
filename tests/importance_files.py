"""Analyses made up for tests: known curves of path divergence, no model run."""

import numpy as np

from understudy.costs import CostTable, PassTime
from understudy.importance import Importance, PathDivergence

SHAPES = {
    "H": {"width": 768, "blocks": 12, "vocab_size": 50258},
    "L": {"width": 768, "blocks": 4, "vocab_size": 50258},
    "M": {"width": 768, "blocks": 2, "vocab_size": 50258},
}


def hump(num_steps, *, centre=0.6, width=0.2, floor=0.15):
    """A curve over steps with one hump, highest at `centre` of the time; the mean is about 1."""
    time = (np.arange(num_steps) + 0.5) / num_steps
    curve = floor + np.exp(-(((time - centre) / width) ** 2))
    return curve / curve.mean()


def make_path(curves, *, name="unconditional", num_bins=20, samples=64, noise=0.0, length=256, free=None, seed=0):
    """A path divergence with these curves by key (N,), nats per sequence and step; noise is relative, of each step."""
    keys = tuple(curves)
    truth = np.array([curves[key] for key in keys])
    raw = truth * (1 + noise * np.random.default_rng(seed).standard_normal(truth.shape))
    bins = np.unique(np.linspace(0, truth.shape[1], min(num_bins, truth.shape[1]) + 1).round().astype(np.int64))
    means = np.add.reduceat(raw, bins[:-1], axis=1)
    errors = 0.05 * means.ravel()
    return PathDivergence(
        name=name,
        num_steps=truth.shape[1],
        length=length,
        free_positions=length if free is None else free,
        num_samples=samples,
        keys=keys,
        per_step=raw,
        step_variances=(0.05 * raw) ** 2,
        bins=bins,
        bin_means=means,
        covariance=np.diag(errors**2),
    )


def make_importance(*paths, shapes=SHAPES, noise="loglinear"):
    """An analysis of H against the models of the paths."""
    keys = ("H", *paths[0].keys) if paths else ("H",)
    models = {key: {"path": f"runs/{key}", "shape": shapes.get(key)} for key in keys}
    return Importance(
        reference="H",
        models=models,
        noise=noise,
        held_out=None,
        paths=paths,
        settings={"seed": 0},
        command="understudy analyze",
        environment={},
    )


def pair_importance(num_steps=64, *, total=8.0, **options):
    """Heavy and light, one hump, `total` nats for light alone."""
    return make_importance(make_path({"L": hump(num_steps) * total / num_steps}, **options))


def trio_importance(num_steps=64, *, total=8.0, **options):
    """Heavy, light and a yet lighter model that lies further off, most of all early."""
    light = hump(num_steps) * total / num_steps
    return make_importance(make_path({"L": light, "M": light * np.linspace(3, 1.3, num_steps)}, **options))


def make_table(*, length=256, shapes=None):
    """Pass times at batch size 8."""
    times = {"H": 16.0, "L": 6.0, "M": 4.0}
    passes = {key: {8: PassTime(8, value, value, value, 7)} for key, value in times.items()}
    return CostTable(length, 64, passes, shapes or {}, {"processor": "an abacus", "device": "cpu"})
