"""What comes out of a comparison of schedules."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from understudy import metrics
from understudy.evaluation.scores import SampleScores
from understudy.metrics import PairedDifference
from understudy.sampling import SampleResult


@dataclass(frozen=True)
class SeedScores:
    """What the samples of one seed say alone; the figures of a schedule are those of all its seeds together."""

    seed: int
    num_samples: int
    gen_ppl: float
    entropy: float
    nll_difference: PairedDifference | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), **difference_dict("nll_difference", self.nll_difference)}


@dataclass(frozen=True)
class ScheduleEvaluation:
    """One schedule at one temperature.

    name: of the schedule. label: name and, where several temperatures are compared, temperature: unlike all others.
    nll_difference: to the first schedule at the same temperature; None where one sample cannot say.
    frontier_difference: to the first schedule at the same entropy, in nats per token, by interpolation between its
    temperatures; None with a single temperature, and where the first schedule reaches no such entropy.
    """

    name: str
    label: str
    temperature: float
    result: SampleResult
    scores: SampleScores
    nll_difference: PairedDifference | None
    by_seed: tuple[SeedScores, ...] = ()
    frontier_difference: PairedDifference | None = None

    @property
    def within_noise(self) -> bool | None:
        """Whether these samples leave open that the schedule is as good as the first one."""
        return None if self.nll_difference is None else self.nll_difference.within_noise

    @property
    def relative_cost(self) -> float:
        """Executed FLOPs relative to the heavy model alone under the same plan."""
        return 1 - self.result.flops.schedule_saved

    def to_dict(self, *, per_sample: bool = False) -> dict[str, Any]:
        """Plain values for JSON."""
        result = self.result
        return {
            "name": self.name,
            "schedule": str(result.schedule),
            "temperature": self.temperature,
            "seeds": [entry.seed for entry in self.by_seed],
            **self.scores.to_dict(per_sample=per_sample),
            **difference_dict("nll_difference", self.nll_difference),
            "within_noise": self.within_noise,
            **difference_dict("frontier_difference", self.frontier_difference),
            "by_seed": [entry.to_dict() for entry in self.by_seed],
            "nfe": result.nfe,
            "flops": result.flops.to_dict(),
            "executed_flops_per_sample": result.flops.executed / self.scores.num_samples,
            "seconds": round(result.seconds, 3),
        }


def difference_dict(name: str, paired: PairedDifference | None) -> dict[str, Any]:
    """A difference and its interval under two keys of JSON."""
    return {
        name: None if paired is None else paired.difference,
        f"{name}_ci95": None if paired is None else [paired.low, paired.high],
    }


@dataclass(frozen=True)
class Comparison:
    """Schedules sampled under the same noise and scored by one judge; the first entry is the reference.

    entries: every schedule at the first temperature, then at the next. models: keys of the denoisers, the costliest
    (what FLOPs are relative to) first. settings: what was asked for.
    """

    entries: tuple[ScheduleEvaluation, ...]
    models: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def reference(self) -> ScheduleEvaluation:
        """The schedule that the others are compared with, at the first temperature."""
        return self.entries[0]

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Each temperature once, in the order given."""
        return tuple(dict.fromkeys(entry.temperature for entry in self.entries))

    @property
    def schedules(self) -> tuple[ScheduleEvaluation, ...]:
        """Each schedule once, at the first temperature: what does not depend on it, such as the cost."""
        return tuple(entry for entry in self.entries if entry.temperature == self.reference.temperature)

    def to_dict(self, *, per_sample: bool = False) -> dict[str, Any]:
        """Plain values for JSON."""
        num_samples, length = self.reference.result.tokens.shape
        return {
            "reference": self.reference.name,
            "judge": self.reference.scores.judge,
            "context_length": self.reference.scores.context_length,
            "protocol": self.reference.scores.protocol,
            "num_samples": num_samples,
            "length": length,
            "models": list(self.models),
            "settings": dict(self.settings),
            "bootstrap": {"resamples": metrics.RESAMPLES, "confidence": metrics.CONFIDENCE, "unit": "sample"},
            "schedules": [entry.to_dict(per_sample=per_sample) for entry in self.entries],
        }
