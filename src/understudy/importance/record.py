"""What an analysis found, as values and as a file.

Shapes: T times, N steps, M models besides the reference, B bins of steps, L length.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataError, SettingError
from understudy.schedule import ModelSchedule
from understudy.whole_files import read_json, write_json

FORMAT = "understudy-importance-2"
WITHOUT_HALVES = "understudy-importance-1"  # the same, from before paths held halves
ROUNDING = 1e-6
"""Nats a token below which a divergence is rounding.

It is computed in float32. A log-probability of magnitude about 10, as logits of trained models give, is stored to 5e-7
(2^-21), and a divergence is a mean of differences of two of them. So nothing below it says that two models differ, and
no certificate is less: a true KL, which is never below 0, may come out on either side of 0 by as much.
"""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Estimates over time (T,) with their standard errors (T,), which are over held-out blocks."""

    mean: Floats
    error: Floats

    def to_dict(self) -> dict[str, list[float]]:
        """Lists for JSON."""
        return {"mean": self.mean.tolist(), "error": self.error.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Curve":
        """Inverse of `to_dict`."""
        return cls(np.array(content["mean"], dtype=np.float64), np.array(content["error"], dtype=np.float64))


@dataclass(frozen=True)
class HeldOutCurves:
    """Models on held-out text that is noised to times t.

    times: (T,), ascending in (0, 1). mask_prob: (T,), the share of masked tokens. By model key, in nats per masked
    token unless said otherwise: cross_entropy, of every model; and, of every model but the reference, gap (its
    cross-entropy less the reference's), kl (reference ‖ model), reverse_kl (model ‖ reference), agreement (share of
    masked tokens whose most likely token is the same). bound: the negative ELBO of each model in nats per token of the
    sequence, with its standard error. num_blocks, length: of the text.
    """

    times: Floats
    mask_prob: Floats
    cross_entropy: Mapping[str, Curve]
    gap: Mapping[str, Curve]
    kl: Mapping[str, Curve]
    reverse_kl: Mapping[str, Curve]
    agreement: Mapping[str, Curve]
    bound: Mapping[str, tuple[float, float]]
    num_blocks: int
    length: int

    def kl_per_sequence(self, key: str) -> Curve:
        """KL(reference ‖ model) summed over masked tokens, in nats per token of the sequence: t·KL with 1 − α = t."""
        curve = self.kl[key]
        return Curve(self.mask_prob * curve.mean, self.mask_prob * curve.error)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        curves = {
            name: {key: curve.to_dict() for key, curve in getattr(self, name).items()} for name in _HELD_OUT_CURVES
        }
        return {
            "times": self.times.tolist(),
            "mask_prob": self.mask_prob.tolist(),
            **curves,
            "bound": {key: list(pair) for key, pair in self.bound.items()},
            "num_blocks": self.num_blocks,
            "length": self.length,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "HeldOutCurves":
        """Inverse of `to_dict`."""
        curves = {
            name: {key: Curve.from_dict(curve) for key, curve in content[name].items()} for name in _HELD_OUT_CURVES
        }
        return cls(
            times=np.array(content["times"], dtype=np.float64),
            mask_prob=np.array(content["mask_prob"], dtype=np.float64),
            bound={key: (float(pair[0]), float(pair[1])) for key, pair in content["bound"].items()},
            num_blocks=int(content["num_blocks"]),
            length=int(content["length"]),
            **curves,
        )


_HELD_OUT_CURVES = ("cross_entropy", "gap", "kl", "reverse_kl", "agreement")


@dataclass(frozen=True)
class PathDivergence:
    """Path KL of every step on the reference's own trajectories, in nats per sequence.

    With P the law of trajectories under the reference and Q under a schedule, KL(P ‖ Q) is the sum over the steps that
    another model makes of D_k = r_k · E_{x ~ P at t_k} Σ_{i masked} KL(p_ref(·|x, i) ‖ p_model(·|x, i)), r_k being the
    probability that a masked token is revealed. No law of the samples alone can lie further apart than that.

    name: what was given ("unconditional", "prefix 32"). keys: the M models. per_step: (M, N), D_k estimated without
    bias; step_variances: (M, N), of these estimates. bins: (B + 1,), steps at which the bins begin and end. bin_means:
    (M, B), nats per sequence and bin; covariance: (M·B, M·B), of these means, model by model. halves: the same of two
    disjoint halves of the trajectories, which are independent, so that what is chosen by one can be judged by the
    other; empty where there are fewer than four trajectories, or the file is older than halves.
    """

    name: str
    num_steps: int
    length: int
    free_positions: int
    num_samples: int
    keys: tuple[str, ...]
    per_step: Floats
    step_variances: Floats
    bins: NDArray[np.int64]
    bin_means: Floats
    covariance: Floats
    halves: tuple["PathDivergence", ...] = ()

    @property
    def rounding(self) -> float:
        """Nats a sequence below which path KL is rounding: each of the tokens drawn is compared once."""
        return ROUNDING * self.free_positions

    @property
    def choosing(self) -> "PathDivergence":
        """What schedules are chosen by: the first half, or all where there are no halves."""
        return self.halves[0] if self.halves else self

    @property
    def judging(self) -> "PathDivergence":
        """What a chosen schedule is judged by: the second half, or all where there are no halves."""
        return self.halves[1] if self.halves else self

    def path_kl(self, schedule: ModelSchedule) -> tuple[float, float]:
        """KL(P ‖ Q) of a schedule, and its standard error over samples. Keys not in `keys` count as the reference.

        Over another number of steps than was analysed, each analysed step counts by the share of its time that the
        schedule gives to each model: the density of divergence in time stays, which is exact for small steps.
        """
        shares = self._shares(schedule)
        variance = max(0.0, float(self.covariance_of(shares[None])[0, 0]))
        return float((shares * self.per_step).sum()), float(np.sqrt(variance))

    def _shares(self, schedule: ModelSchedule) -> Floats:
        """Share of each analysed step that each model makes (M, N), in [0, 1]."""
        steps = np.array(schedule.steps())
        if schedule.num_steps == self.num_steps:
            return np.array([steps == key for key in self.keys], dtype=np.float64)
        edges = np.arange(schedule.num_steps + 1) / schedule.num_steps
        where = np.arange(self.num_steps + 1) / self.num_steps
        times = [np.append(0.0, np.cumsum(steps == key)) / schedule.num_steps for key in self.keys]
        return np.array([np.diff(np.interp(where, edges, time)) for time in times]) * self.num_steps

    def covariance_of(self, shares: Floats) -> Floats:
        """Covariance (K, K) of K sums over steps, each a share (K, M, N) of every analysed step.

        Exact where shares are the same all over each bin. Within a bin, steps are taken to covary all alike: of its
        variance, what single steps do not explain goes with the share of its pairs of steps.
        """
        starts, sizes = self.bins[:-1], np.tile(np.diff(self.bins), len(self.keys))
        alone = np.add.reduceat(self.step_variances, starts, axis=1).ravel()
        of_pair = (np.diag(self.covariance) - alone) / np.maximum(sizes * (sizes - 1), 1)
        taken = np.add.reduceat(shares, starts, axis=2).reshape(len(shares), -1)  # (K, M·B)
        weights = taken / sizes
        between = self.covariance - np.diag(np.diag(self.covariance))
        flat = shares.reshape(len(shares), -1)
        own = np.repeat(of_pair, sizes)  # what one step, paired with itself, must not count
        same = (flat * (self.step_variances.ravel() - own)) @ flat.T
        return np.asarray(same + (taken * of_pair) @ taken.T + weights @ between @ weights.T)

    def smooth(self, num_steps: int | None = None) -> Floats:
        """D_k of any number of steps (M, N'), in nats per sequence, with the noise of single steps smoothed away.

        Linear between the bins' centres, level beyond the first and last of them; over another number of steps the
        density in time stays, which is exact for small steps.
        """
        count = self.num_steps if num_steps is None else num_steps
        centres = (self.bins[:-1] + self.bins[1:]) / 2 / self.num_steps
        density = self.bin_means / np.diff(self.bins) * self.num_steps
        where = (np.arange(count) + 0.5) / count
        return np.array([np.interp(where, centres, row) for row in density]) / count

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        arrays = {name: value.tolist() for name, value in values.items() if isinstance(value, np.ndarray)}
        return {**values, **arrays, "keys": list(self.keys), "halves": [half.to_dict() for half in self.halves]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "PathDivergence":
        """Inverse of `to_dict`."""
        fields: dict[str, Any] = {name: content[name] for name in cls.__dataclass_fields__ if name != "halves"}
        for name in ("per_step", "step_variances", "bin_means", "covariance"):
            fields[name] = np.array(fields[name], dtype=np.float64)
        fields["halves"] = tuple(cls.from_dict(half) for half in content.get("halves", ()))
        if len(fields["halves"]) not in (0, 2):
            raise ValueError(f"{len(fields['halves'])} halves")
        return cls(**{**fields, "keys": tuple(fields["keys"]), "bins": np.array(fields["bins"], dtype=np.int64)})


@dataclass(frozen=True)
class Importance:
    """All that an analysis found. `reference` is the key of the model that the others are held against.

    models: by key, the reference first, where each came from, its `sha256`, and its `shape` (width, blocks, vocab_size)
    or None. data: of the held-out text, where it came from, its blocks and their digest. held_out: None where there was
    no text. paths: one for each condition, unconditional first. settings, command,
    environment: how it was made.
    """

    reference: str
    models: Mapping[str, Mapping[str, Any]]
    noise: str
    held_out: HeldOutCurves | None
    paths: tuple[PathDivergence, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)

    def path(self, name: str | None = None) -> PathDivergence:
        """Give the path divergence of a condition, the first unless named. SettingError where it was not measured."""
        if not self.paths:
            raise SettingError("the importance file holds no trajectories; analyze again with --num-samples above 0")
        found = [path for path in self.paths if name is None or path.name == name]
        if not found:
            known = ", ".join(repr(path.name) for path in self.paths)
            raise SettingError(f"condition {name!r} was not measured, only {known}; choose one of them")
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "command": self.command,
            "reference": self.reference,
            "models": {key: dict(model) for key, model in self.models.items()},
            "noise": self.noise,
            "data": dict(self.data),
            "held_out": None if self.held_out is None else self.held_out.to_dict(),
            "paths": [path.to_dict() for path in self.paths],
            "settings": dict(self.settings),
            "environment": dict(self.environment),
        }

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Importance":
        """Read a file. DataError where it is missing, damaged or something else."""
        mend = "write one by `understudy analyze --output importance.json`"
        content = read_json(Path(path), mend=mend)
        if content.get("format") not in (FORMAT, WITHOUT_HALVES):
            raise DataError(f"{str(path)!r} is no importance file ({FORMAT}); {mend}")
        try:
            held_out = content["held_out"]
            return cls(
                reference=content["reference"],
                models=content["models"],
                noise=content["noise"],
                data=content["data"],
                held_out=None if held_out is None else HeldOutCurves.from_dict(held_out),
                paths=tuple(PathDivergence.from_dict(entry) for entry in content["paths"]),
                settings=content["settings"],
                command=content["command"],
                environment=content["environment"],
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{str(path)!r} is a damaged importance file ({error!r}); {mend}") from error
