"""What is known of the models before anything runs: where they differ over time, and what a schedule would cost.

Shapes: B bins of steps, T times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from understudy.denoisers import Denoiser
from understudy.errors import SettingError
from understudy.flops import expected_passes, expected_report
from understudy.importance import HeldOutCurves, Importance, PathDivergence
from understudy.noise import NoiseSchedule
from understudy.planning import Budget, make_plan
from understudy.planning.costing import model_shapes
from understudy.schedule import ModelSchedule

TWO_SIDED_95 = 1.96  # standard errors
MAX_PLANNED_STEPS = 4096  # a frontier has as many points as steps, before it is thinned


@dataclass(frozen=True, eq=False)  # one per server: told apart by identity, which the cache below needs
class Knowledge:
    """An importance file as the studio shows it."""

    importance: Importance

    @property
    def path(self) -> PathDivergence | None:
        """The path divergence to plan on, None where no trajectories were analysed."""
        return self.importance.paths[0] if self.importance.paths else None

    @property
    def can_plan(self) -> bool:
        """Whether there is something to draw a frontier from."""
        return self.path is not None and model_shapes(self.importance) is not None

    def curves(self) -> dict[str, Any]:
        """KL per masked token over time, and path KL over steps, both with 95 % bands, for the importance tab."""
        held_out, path = self.importance.held_out, self.path
        return {
            "reference": self.importance.reference,
            "command": self.importance.command,
            "held_out": None if held_out is None else _held_out(held_out),
            "path": None if path is None else _path(path),
        }

    def path_kl(self, schedule: ModelSchedule) -> dict[str, float] | None:
        """Predicted path KL of a schedule in nats per sequence, as a plan predicts it; None where it cannot be told."""
        if self.path is None or not set(schedule.keys) <= {self.importance.reference, *self.path.keys}:
            return None
        mean, error = self.path.judging.path_kl(schedule)
        return {"mean": mean, "error": error, "length": self.path.length}

    def frontier(self, steps: int, light_share: float) -> dict[str, Any]:
        """Planned points of every cost and the named rules at one share of light steps, for the frontier tab.

        Raises SettingError without trajectories, or for more than `MAX_PLANNED_STEPS` steps.
        """
        if steps > MAX_PLANNED_STEPS:
            raise SettingError(f"steps is {steps}; the studio plans for at most {MAX_PLANNED_STEPS}")
        return _frontier(self, steps, light_share)


@lru_cache(maxsize=64)
def _frontier(knowledge: Knowledge, steps: int, light_share: float) -> dict[str, Any]:
    """As `Knowledge.frontier`; planning takes a tenth of a second, and every visitor asks for the same."""
    plan = make_plan(knowledge.importance, Budget(light_fraction=light_share), steps=steps)
    return {
        "steps": steps,
        "light_share": light_share,
        "convention": plan.convention,
        "length": plan.settings["length"],
        "analysed_steps": plan.settings["analysed_steps"],
        "planned": [
            {"schedule": str(point.schedule), "saved": point.saved, "path_kl": point.path_kl} for point in plan.frontier
        ],
        "named": [
            {"name": rule.name, "schedule": str(rule.schedule), "saved": rule.saved, "path_kl": rule.path_kl}
            for rule in (plan.prediction, *plan.named)
        ],
    }


def expected_cost(
    denoisers: Mapping[str, Denoiser], schedule: ModelSchedule, noise: NoiseSchedule, *, length: int, wanted: int
) -> dict[str, Any]:
    """What one sample is expected to cost: passes by key and FLOPs in all conventions."""
    report = expected_report(denoisers, schedule, noise, length=length, free_positions=wanted)
    return {"passes": expected_passes(schedule, noise, wanted), "flops": report.to_dict()}


def _held_out(curves: HeldOutCurves) -> dict[str, Any]:
    return {
        "times": curves.times.tolist(),
        "num_blocks": curves.num_blocks,
        "length": curves.length,
        "kl": {key: _banded(curve.mean, curve.error) for key, curve in curves.kl.items()},
    }


def _path(path: PathDivergence) -> dict[str, Any]:
    """Nats per sequence and step, by bins: single steps are too noisy to look at."""
    num_bins, widths = len(path.bins) - 1, np.diff(path.bins)
    errors = np.sqrt(np.maximum(np.diag(path.covariance), 0)).reshape(len(path.keys), num_bins)
    return {
        "num_steps": path.num_steps,
        "length": path.length,
        "num_samples": path.num_samples,
        "bins": path.bins.tolist(),
        "divergence": {
            key: _banded(path.bin_means[index] / widths, errors[index] / widths) for index, key in enumerate(path.keys)
        },
    }


def _banded(mean: Any, error: Any) -> dict[str, list[float]]:
    """Estimates with the two ends of their 95 % intervals; a divergence is not below 0."""
    low, high = np.maximum(mean - TWO_SIDED_95 * error, 0), mean + TWO_SIDED_95 * error
    return {"mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()}
