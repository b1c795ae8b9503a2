"""A comparison of schedules as tables and pictures see it: just made, or read from a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from understudy.errors import DataError, UnderstudyError, one_line
from understudy.evaluation import SampleScores, read_evaluation
from understudy.evaluation.scores import PER_SAMPLE
from understudy.flops import FlopsReport
from understudy.metrics import PairedDifference
from understudy.schedule import ModelSchedule

PROTOCOLS = ("ids", "retokenized", "published")


class ComparedRun(Protocol):
    """What sampling a schedule took; `SampleResult` is one."""

    @property
    def schedule(self) -> ModelSchedule:
        """Who made which steps."""
        ...

    @property
    def nfe(self) -> Mapping[str, int]:
        """Passes by key, over all samples."""
        ...

    @property
    def flops(self) -> FlopsReport:
        """FLOPs in every convention."""
        ...

    @property
    def seconds(self) -> float:
        """Wall time of all samples."""
        ...


class ComparedEntry(Protocol):
    """One schedule at one temperature; `ScheduleEvaluation` is one, and says what each is."""

    @property
    def name(self) -> str:
        """Name of the schedule."""
        ...

    @property
    def label(self) -> str:
        """Name and, among several, temperature."""
        ...

    @property
    def temperature(self) -> float:
        """What divided the logits."""
        ...

    @property
    def result(self) -> ComparedRun:
        """What sampling took."""
        ...

    @property
    def scores(self) -> SampleScores:
        """What the judge and the counts say."""
        ...

    @property
    def nll_difference(self) -> PairedDifference | None:
        """To the reference at the same temperature; None where one sample cannot say."""
        ...

    @property
    def frontier_difference(self) -> PairedDifference | None:
        """To the reference at the same entropy; None where it has no such entropy."""
        ...

    @property
    def within_noise(self) -> bool | None:
        """Whether the samples leave open that it is as good as the reference."""
        ...


class Compared(Protocol):
    """Schedules under the same noise, the first being the reference; `Comparison` is one."""

    @property
    def entries(self) -> tuple[ComparedEntry, ...]:
        """Every schedule at the first temperature, then at the next."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Keys, the costliest first."""
        ...

    @property
    def reference(self) -> ComparedEntry:
        """The first entry."""
        ...

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Each temperature once."""
        ...

    @property
    def schedules(self) -> tuple[ComparedEntry, ...]:
        """Each schedule once, at the first temperature."""
        ...


@dataclass(frozen=True)
class SavedRun:
    """What a file says of the sampling of a schedule."""

    schedule: ModelSchedule
    nfe: Mapping[str, int]
    flops: FlopsReport
    seconds: float


@dataclass(frozen=True)
class SavedEntry:
    """One schedule at one temperature, as a file has it."""

    name: str
    label: str
    temperature: float
    result: SavedRun
    scores: SampleScores
    nll_difference: PairedDifference | None
    frontier_difference: PairedDifference | None

    @property
    def within_noise(self) -> bool | None:
        """Whether these samples leave open that the schedule is as good as the first one."""
        return None if self.nll_difference is None else self.nll_difference.within_noise


@dataclass(frozen=True)
class SavedComparison:
    """A comparison read from a file of `understudy evaluate --schedule … --output`; `origin`: the rest of the file."""

    entries: tuple[SavedEntry, ...]
    models: tuple[str, ...]
    length: int
    origin: Mapping[str, Any]

    @property
    def reference(self) -> SavedEntry:
        """The schedule that the others are compared with, at the first temperature."""
        return self.entries[0]

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Each temperature once, in the order given."""
        return tuple(dict.fromkeys(entry.temperature for entry in self.entries))

    @property
    def schedules(self) -> tuple[SavedEntry, ...]:
        """Each schedule once, at the first temperature."""
        return tuple(entry for entry in self.entries if entry.temperature == self.reference.temperature)


@dataclass(frozen=True)
class SavedScores:
    """A file of samples that was scored: its scores, the samples' path, and the rest of the file."""

    scores: SampleScores
    samples: str
    origin: Mapping[str, Any]


def relative_flops(entry: ComparedEntry, reference: ComparedEntry) -> float:
    """FLOPs executed for a sample relative to those of the reference, whatever the steps of either."""
    own, base = (each.result.flops.executed / each.scores.num_samples for each in (entry, reference))
    return own / base if base else 1.0


def load_scores(path: str | Path) -> SavedComparison | SavedScores:
    """Read a file of `understudy evaluate --output`, of either kind. DataError for one that is damaged."""
    document = read_evaluation(path)
    try:
        for name in ("settings", "environment", "paths", "bootstrap"):
            if not isinstance(document.get(name) or {}, dict):
                raise ValueError(f"{name} is {document[name]!r}, not an object")
        if "schedules" not in document:
            return SavedScores(_scores(document), str(document["samples"]), document)
        return _comparison(document)
    except (KeyError, TypeError, ValueError, AttributeError, UnderstudyError) as error:
        found = f"no entry {error}" if isinstance(error, KeyError) else one_line(error)
        raise DataError(f"{str(path)!r} is a damaged evaluation ({found}); evaluate again with --output") from error


def _comparison(document: Mapping[str, Any]) -> SavedComparison:
    rows = document["schedules"]
    several = len({row["temperature"] for row in rows}) > 1
    models, keys = tuple(map(str, document["models"])), set[str]()
    entries = tuple(_entry(row, several=several) for row in rows)
    for entry in entries:
        keys |= set(entry.result.schedule.keys)
    if not keys <= set(models):
        raise ValueError(f"schedules name models {sorted(keys)}, and models are {list(models)}")
    origin = {name: value for name, value in document.items() if name != "schedules"}
    return SavedComparison(entries, models, int(_number(document, "length")), origin)


def _entry(row: Mapping[str, Any], *, several: bool) -> SavedEntry:
    name, temperature = str(row["name"]), _number(row, "temperature")
    flops = {part: _number(row["flops"], part) for part in FlopsReport.__dataclass_fields__}
    nfe = {str(key): int(count) for key, count in row["nfe"].items()}
    return SavedEntry(
        name=name,
        label=f"{name} at T={temperature:g}" if several else name,
        temperature=temperature,
        result=SavedRun(ModelSchedule.parse(row["schedule"]), nfe, FlopsReport(**flops), _number(row, "seconds")),
        scores=_scores(row),
        nll_difference=_difference(row, "nll_difference"),
        frontier_difference=_difference(row, "frontier_difference"),
    )


def _scores(row: Mapping[str, Any]) -> SampleScores:
    """The figures; what is known of each sample is left out, whether the file has it or not."""
    needed = ("gen_ppl", "entropy", "distinct_1", "repetition")
    asked = ("entropy_se", "distinct_2", "repetition_se", "self_bleu", "ngram_overlap", "ngram_overlap_se", "mauve")
    if row["protocol"] not in PROTOCOLS:
        raise ValueError(f"protocol is {row['protocol']!r}, not one of {', '.join(PROTOCOLS)}")
    context, seeds = row.get("context_length"), row.get("mauve_by_seed")
    plain: dict[str, Any] = {name: _number(row, name) for name in needed}
    plain |= dict.fromkeys(PER_SAMPLE, ())
    plain |= {name: None if row.get(name) is None else _number(row, name) for name in asked}
    return SampleScores(
        **plain,
        gen_ppl_ci95=None if row.get("gen_ppl_ci95") is None else _bounds(row, "gen_ppl_ci95"),
        mauve_by_seed=None if seeds is None else tuple(map(float, seeds)),
        num_samples=int(_number(row, "num_samples")),
        judge=str(row["judge"]),
        context_length=None if context is None else int(context),
        protocol=row["protocol"],
    )


def _difference(row: Mapping[str, Any], name: str) -> PairedDifference | None:
    if row.get(name) is None:
        return None
    return PairedDifference(_number(row, name), *_bounds(row, f"{name}_ci95"))


def _bounds(row: Mapping[str, Any], name: str) -> tuple[float, float]:
    low, high = row[name]
    bounds = {"low": low, "high": high}
    return _number(bounds, "low"), _number(bounds, "high")


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{name} is {value!r}, not a number")
    return value
