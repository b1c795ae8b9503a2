"""A plan: a schedule, what it saves, what it is predicted to do to the text, and what that certifies.

Shapes: N steps, P points of a curve.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from understudy.errors import DataError, UnderstudyError, one_line
from understudy.flops import FlopsReport
from understudy.importance.record import ROUNDING
from understudy.metrics.student import student_quantile
from understudy.schedule import ModelSchedule
from understudy.whole_files import read_json, write_json

FORMAT = "understudy-plan-1"
CONFIDENCE = 0.95  # one-sided
NORMAL = 1.645  # standard errors, where the number of samples is not known


@dataclass(frozen=True)
class Prediction:
    """What is known of a schedule before it is run.

    light_steps: steps that the reference does not make. cost, saved: in the plan's convention, for one sequence, and as
    a share of the reference alone. path_kl, path_kl_se: nats per sequence, and the standard error over samples;
    per_token: nats per token drawn. flops: in all conventions, None where shapes are unknown. milliseconds, time_saved:
    of a sample, None without a cost table.
    """

    name: str
    schedule: ModelSchedule
    light_steps: int
    cost: float
    saved: float
    path_kl: float
    path_kl_se: float
    per_token: float
    flops: FlopsReport | None
    milliseconds: float | None
    time_saved: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "schedule": str(self.schedule), "flops": self.flops and self.flops.to_dict()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Prediction":
        """Inverse of `to_dict`."""
        flops = content["flops"]
        parsed = {
            "schedule": ModelSchedule.parse(content["schedule"]),
            "flops": None if flops is None else FlopsReport(**flops),
        }
        return cls(**{**content, **parsed})


@dataclass(frozen=True)
class Certificate:
    """What the estimate of a path KL (nats per sequence, with its standard error) says of the texts.

    P_x0 and Q_x0 being the laws of the texts of the reference alone and of the schedule, KL(P_x0 ‖ Q_x0) is at most the
    path KL (data processing); so total variation, the most by which the probability of anything can differ, is at most
    √(KL/2) (Pinsker) and at most √(1 − exp(−KL)) (Bretagnolle and Huber 1979), which is tighter above about 1.6 nats
    and below 1 for every KL. They hold for the true path KL, which is known by an estimate only; so they are stated at
    `upper`, the end of its one-sided 95 % interval.

    rounding: nats a sequence below which the estimate is rounding (`importance.record.ROUNDING`), 0 where no step was
    handed over; `upper` is never less, and so never below 0, as no KL is.
    num_samples: trajectories that the estimate is a mean over, None where that is not known. chosen_on: trajectories
    that the schedule was chosen on, others than these; None where it was chosen by the same. What is exact: a schedule
    that was chosen on other trajectories is fixed as far as these are concerned, so its estimate is unbiased, however
    many schedules were weighed; and `upper` is above the true path KL with 95 % probability, exactly for normal means
    over trajectories and ever more nearly for others the more there are. For one chosen by the same trajectories
    neither holds: steps come out lowest by luck in part, so the estimate is too low, the more so the fewer trajectories
    there are. extrapolated_from: steps of the analysis where the schedule has others, else None: the confidence then
    holds for the analysed grid, and the rest is an approximation, whose error is in no figure.
    """

    reference: str
    path_kl: float
    path_kl_se: float
    extrapolated_from: int | None = None
    num_samples: int | None = None
    chosen_on: int | None = None
    rounding: float = 0.0

    @property
    def upper(self) -> float:
        """Upper end of the one-sided 95 % interval of the path KL, by Student's t where the samples are known.

        At least `rounding`, and at least 0.
        """
        quantile = NORMAL if self.num_samples is None else student_quantile(CONFIDENCE, self.num_samples - 1)
        return max(self.path_kl + quantile * self.path_kl_se, self.rounding, 0.0)

    @property
    def total_variation(self) -> float:
        """The tighter of Pinsker's bound and that of Bretagnolle and Huber at `upper`, in [0, 1].

        Below 1 up to 36 nats; above, what it lies below 1 by is less than a float64 can show.
        """
        return min(math.sqrt(self.upper / 2), self._bretagnolle_huber)

    @property
    def _bretagnolle_huber(self) -> float:
        return math.sqrt(-math.expm1(-self.upper))

    @property
    def sentence(self) -> str:
        """The bound in words, with what it rests on."""
        nominal = "nominally " if self.chosen_on is None else ""
        quantile = "normal quantile" if self.num_samples is None else "Student's t"
        bound = (
            f"KL(P_x0 || Q_x0) <= {self.upper:.4g} nats a sequence, with {nominal}95 % confidence "
            f"({self._estimate}; {quantile}): the texts are no further than this from those of {self.reference} alone, "
            f"whatever is asked of them; nothing is more or less probable by more than {self._most_apart}."
        )
        return " ".join(part for part in (bound, self._extrapolation, self.kind) if part)

    @property
    def _estimate(self) -> str:
        if self.rounding and self.upper <= self.rounding:
            return f"all that is estimated, {self.path_kl:.2g} ± {self.path_kl_se:.1g}, is within float32 rounding"
        return f"{self.path_kl:.4g} ± {self.path_kl_se:.2g}"

    @property
    def _most_apart(self) -> str:
        """Total variation and whose bound it is; near 1 by what it lies below it."""
        if self._bretagnolle_huber >= math.sqrt(self.upper / 2):
            return f"{self.total_variation:.3g} (Pinsker)"
        below = math.exp(-self.upper) / (1 + self._bretagnolle_huber)
        shown = f"{self.total_variation:.3g}" if below >= 0.005 else f"1 - {below:.2g}"
        return f"{shown} (Bretagnolle-Huber)"

    @property
    def _extrapolation(self) -> str:
        if self.extrapolated_from is None:
            return ""
        return (
            f"The confidence holds for the analysed grid of {self.extrapolated_from} steps; that this schedule, of "
            "another number of steps, has as much path KL is an approximation, whose error is in no figure."
        )

    @property
    def kind(self) -> str:
        """Which kind of certificate this is, in words."""
        if self.chosen_on is not None:
            return (
                f"The schedule was chosen on {self.chosen_on} trajectories and is certified on {self.num_samples} "
                "others, so that choosing it does not flatter it."
            )
        enough = "" if self.num_samples is None or self.num_samples >= 4 else ", with 4 trajectories or more,"
        return (
            "The schedule was chosen by the same trajectories that certify it, which flatters it: the more so, the "
            f"fewer there are. Analyze again{enough} for a certificate on trajectories held back."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self),
            "path_kl_upper95": self.upper,
            "total_variation": self.total_variation,
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class FrontierEntry:
    """A point of the frontier: its cost and share saved, the divergence it was planned on, its predicted path KL."""

    schedule: ModelSchedule
    cost: float
    saved: float
    divergence: float
    path_kl: float


@dataclass(frozen=True)
class DivergenceCurve:
    """Smoothed divergence over steps: `steps` (P,) counted from 0, and by key nats per sequence and step (P,)."""

    steps: tuple[int, ...]
    divergence: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Plan:
    """The best schedule for a budget, and all that a report needs to show it.

    prediction: of the schedule. named: of the rules with a name at the same budget. frontier: from the reference alone
    to the cheapest schedule, without limits, thinned. curve: what was planned on. keys: the reference first. unit: of
    costs, convention: how they are counted. divergence: smoothed, of the schedule; lower_bound: below which no schedule
    within the limits lies, the same where is_exact.

    Steps were chosen on smoothed divergences of one half of the trajectories; predictions, those of the frontier too,
    come from the raw, unbiased sums of the other half, and so are free of the luck of the choice. From an analysis
    without halves both come from all trajectories, and the luck of the bins' means remains; `certificate` says which.
    """

    prediction: Prediction
    named: tuple[Prediction, ...]
    frontier: tuple[FrontierEntry, ...]
    curve: DivergenceCurve
    keys: tuple[str, ...]
    convention: str
    unit: str
    divergence: float
    lower_bound: float
    is_exact: bool
    settings: Mapping[str, Any]
    importance: str | None
    command: str | None
    environment: Mapping[str, Any]

    @property
    def schedule(self) -> ModelSchedule:
        """The schedule that was planned."""
        return self.prediction.schedule

    @property
    def certificate(self) -> Certificate:
        """What the prediction certifies."""
        analysed = self.settings.get("analysed_steps")
        origin = None if analysed == self.schedule.num_steps else analysed
        chosen, judged = (self.settings.get(f"{name}_samples") for name in ("choosing", "judging"))
        return Certificate(
            reference=self.keys[0],
            path_kl=self.prediction.path_kl,
            path_kl_se=self.prediction.path_kl_se,
            extrapolated_from=origin,
            num_samples=self.settings.get("analysed_samples") if judged is None else judged,
            chosen_on=chosen,
            rounding=self.rounding if self.prediction.light_steps else 0.0,
        )

    @property
    def rounding(self) -> float:
        """Nats a sequence below which predicted path KL is rounding."""
        return ROUNDING * float(self.settings.get("free_positions") or 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "command": self.command,
            "importance": self.importance,
            "schedule": str(self.schedule),
            "reference": self.keys[0],
            "keys": list(self.keys),
            "convention": self.convention,
            "unit": self.unit,
            "divergence": self.divergence,
            "lower_bound": self.lower_bound,
            "is_exact": self.is_exact,
            "prediction": self.prediction.to_dict(),
            "certificate": self.certificate.to_dict(),
            "named": [entry.to_dict() for entry in self.named],
            "frontier": [{**asdict(entry), "schedule": str(entry.schedule)} for entry in self.frontier],
            "curve": {
                "steps": list(self.curve.steps),
                "divergence": {key: list(values) for key, values in self.curve.divergence.items()},
            },
            "settings": dict(self.settings),
            "environment": dict(self.environment),
        }

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all. DataError when the disk refuses."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a file. DataError where it is missing, damaged or something else."""
        mend = "write one by `understudy plan --output plan.json`"
        content = read_json(Path(path), mend=mend)
        if content.get("format") != FORMAT:
            raise DataError(f"{str(path)!r} is no plan ({FORMAT}); {mend}")
        try:
            return cls._from_dict(content)
        except (KeyError, TypeError, ValueError, AttributeError, UnderstudyError) as error:
            found = f"no entry {error}" if isinstance(error, KeyError) else one_line(error)
            raise DataError(f"{str(path)!r} is a damaged plan ({found}); {mend}") from error

    @classmethod
    def _from_dict(cls, content: Mapping[str, Any]) -> "Plan":
        plain = ("convention", "unit", "divergence", "lower_bound", "is_exact", "settings", "importance", "command")
        entries = ({**entry, "schedule": ModelSchedule.parse(entry["schedule"])} for entry in content["frontier"])
        curve = content["curve"]
        return cls(
            prediction=Prediction.from_dict(content["prediction"]),
            named=tuple(Prediction.from_dict(entry) for entry in content["named"]),
            frontier=tuple(FrontierEntry(**entry) for entry in entries),
            curve=DivergenceCurve(
                tuple(curve["steps"]), {key: tuple(values) for key, values in curve["divergence"].items()}
            ),
            keys=tuple(content["keys"]),
            environment=content["environment"],
            **{name: content[name] for name in plain},
        )
