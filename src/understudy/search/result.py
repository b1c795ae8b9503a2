"""What a search found, as values and as a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from understudy.errors import DataError, ScheduleError
from understudy.metrics import FEW_SAMPLES, PairedDifference
from understudy.schedule import ModelSchedule
from understudy.search.correlation import RankCorrelation
from understudy.search.halving import Drop
from understudy.whole_files import read_json, write_json

FORMAT = "understudy-search-1"


@dataclass(frozen=True)
class SearchEntry:
    """One schedule of a search.

    segments: one letter a coarse segment; None for a schedule that does not follow them. origins: how it came in, of
    "reference", "space", "plan" and "also". rank: from 1, by nll_difference; rank_range: the first and last rank of its
    tie; both None where its cost is not that of the searched schedules, and rank_range too where a search has fewer
    than `metrics.FEW_SAMPLES` samples, which tell nothing apart. nll_difference, entropy_difference: to the
    reference, paired over its num_samples samples, in nats per token and in nats; difference_to_best: of NLL, to the
    schedule of rank 1 on the samples that both have, None where it is not ranked. gen_ppl, its interval, and entropy:
    of its samples. flops: as `FlopsReport.to_dict`; nfe: passes by key over all its samples. predicted_path_kl,
    predicted_se: nats per sequence, None without an analysis. dropped: None where it was sampled to the end.
    """

    schedule: ModelSchedule
    segments: str | None
    origins: tuple[str, ...]
    rank: int | None
    rank_range: tuple[int, int] | None
    nll_difference: PairedDifference
    difference_to_best: PairedDifference | None
    gen_ppl: float
    gen_ppl_ci95: tuple[float, float]
    entropy: float
    entropy_difference: PairedDifference
    num_samples: int
    flops: Mapping[str, float]
    nfe: Mapping[str, int]
    seconds: float
    predicted_path_kl: float | None
    predicted_se: float | None
    dropped: Drop | None

    @property
    def is_within_noise_of_best(self) -> bool:
        """Whether it is ranked, and the samples do not show it to be worse than the schedule of rank 1."""
        behind = self.difference_to_best
        return behind is not None and (self.num_samples < FEW_SAMPLES or behind.low <= 0)

    @property
    def is_ranked(self) -> bool:
        """Whether it costs as much as the searched schedules, and so competes with them."""
        return self.rank is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        paired, dullness, behind = self.nll_difference, self.entropy_difference, self.difference_to_best
        return {
            "schedule": str(self.schedule),
            "segments": self.segments,
            "origins": list(self.origins),
            "rank": self.rank,
            "rank_range": None if self.rank_range is None else list(self.rank_range),
            "nll_difference": paired.difference,
            "ci95": [paired.low, paired.high],
            "difference_to_best": None if behind is None else behind.difference,
            "difference_to_best_ci95": None if behind is None else [behind.low, behind.high],
            "gen_ppl": self.gen_ppl,
            "gen_ppl_ci95": list(self.gen_ppl_ci95),
            "entropy": self.entropy,
            "entropy_difference": dullness.difference,
            "entropy_difference_ci95": [dullness.low, dullness.high],
            "num_samples": self.num_samples,
            "flops": dict(self.flops),
            "nfe": dict(self.nfe),
            "seconds": self.seconds,
            "predicted_path_kl": self.predicted_path_kl,
            "predicted_se": self.predicted_se,
            "dropped": None if self.dropped is None else self.dropped.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "SearchEntry":
        """Inverse of `to_dict`."""
        plain = ("segments", "rank", "gen_ppl", "entropy", "num_samples", "flops", "nfe", "seconds")
        ranks, dropped, behind = (content[name] for name in ("rank_range", "dropped", "difference_to_best"))
        return cls(
            **{name: content[name] for name in (*plain, "predicted_path_kl", "predicted_se")},
            schedule=ModelSchedule.parse(content["schedule"]),
            origins=tuple(content["origins"]),
            rank_range=None if ranks is None else (ranks[0], ranks[1]),
            nll_difference=PairedDifference(content["nll_difference"], *content["ci95"]),
            difference_to_best=None
            if behind is None
            else PairedDifference(behind, *content["difference_to_best_ci95"]),
            gen_ppl_ci95=(content["gen_ppl_ci95"][0], content["gen_ppl_ci95"][1]),
            entropy_difference=PairedDifference(content["entropy_difference"], *content["entropy_difference_ci95"]),
            dropped=None if dropped is None else Drop.from_dict(dropped),
        )


@dataclass(frozen=True)
class Correlations:
    """How well path KL, predicted, goes with the NLL difference, measured, over the schedules of the space.

    num_samples: those that all of them have, which the figures are from. 1 is perfect agreement in order.
    """

    spearman: RankCorrelation
    kendall_tau_b: RankCorrelation
    num_schedules: int
    num_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        measures = {"spearman": self.spearman.to_dict(), "kendall_tau_b": self.kendall_tau_b.to_dict()}
        return {**measures, "num_schedules": self.num_schedules, "num_samples": self.num_samples}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Correlations":
        """Inverse of `to_dict`."""
        first, second = (RankCorrelation.from_dict(content[name]) for name in ("spearman", "kendall_tau_b"))
        return cls(first, second, content["num_schedules"], content["num_samples"])


@dataclass(frozen=True)
class PlannerRank:
    """Where the planner's schedule stands among the num_ranked schedules of the same cost, itself included.

    source: "plan", the schedule that was given as the plan; "least path KL", that of the space with the lowest
    predicted path KL. rank, rank_range: by measured NLL, as in its `SearchEntry`, None where its cost is another one;
    predicted_rank: by predicted path KL, None where none is known.
    """

    source: str
    schedule: str
    rank: int | None
    rank_range: tuple[int, int] | None
    predicted_rank: int | None
    num_ranked: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "rank_range": None if self.rank_range is None else list(self.rank_range)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "PlannerRank":
        """Inverse of `to_dict`."""
        ranks = content["rank_range"]
        return cls(**{**content, "rank_range": None if ranks is None else (ranks[0], ranks[1])})


@dataclass(frozen=True)
class SearchResult:
    """All that a search found. entries: ranked ones first, best first, then the reference and others.

    models: keys of the denoisers, the costliest first. settings, space, importance, environment: plain values, as in
    the file. judge: name and context length. rounds: samples after each round.
    """

    entries: tuple[SearchEntry, ...]
    reference: str
    models: tuple[str, ...]
    judge: Mapping[str, Any]
    settings: Mapping[str, Any]
    space: Mapping[str, Any]
    rounds: tuple[int, ...]
    importance: Mapping[str, Any] | None
    correlations: Correlations | None
    planner: PlannerRank | None
    command: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_few_samples(self) -> bool:
        """Whether even the schedule of rank 1 has too few samples for any interval to be believed."""
        return not self.ranked or self.ranked[0].num_samples < FEW_SAMPLES

    @property
    def ranked(self) -> tuple[SearchEntry, ...]:
        """The schedules of one cost that compete, best first."""
        return tuple(entry for entry in self.entries if entry.is_ranked)

    @property
    def beside(self) -> tuple[SearchEntry, ...]:
        """Schedules of other costs, the reference first."""
        return tuple(entry for entry in self.entries if not entry.is_ranked)

    def entry(self, schedule: str) -> SearchEntry:
        """Give the entry of a schedule that was searched."""
        return next(entry for entry in self.entries if str(entry.schedule) == schedule)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "command": self.command,
            "settings": dict(self.settings),
            "space": dict(self.space),
            "models": list(self.models),
            "reference": self.reference,
            "judge": dict(self.judge),
            "importance": None if self.importance is None else dict(self.importance),
            "rounds": list(self.rounds),
            "schedules": [entry.to_dict() for entry in self.entries],
            "correlations": None if self.correlations is None else self.correlations.to_dict(),
            "planner": None if self.planner is None else self.planner.to_dict(),
            "environment": dict(self.environment),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "SearchResult":
        """Inverse of `to_dict`."""
        plain = ("reference", "judge", "settings", "space", "importance", "command", "environment")
        correlations, planner = content["correlations"], content["planner"]
        found = cls(
            **{name: content[name] for name in plain},
            entries=tuple(SearchEntry.from_dict(entry) for entry in content["schedules"]),
            models=tuple(content["models"]),
            rounds=tuple(content["rounds"]),
            correlations=None if correlations is None else Correlations.from_dict(correlations),
            planner=None if planner is None else PlannerRank.from_dict(planner),
        )
        return found._without_ties() if found.has_few_samples else found

    def _without_ties(self) -> "SearchResult":
        """The same without what too few samples cannot say, which older files hold all the same."""
        entries = tuple(replace(entry, rank_range=None) for entry in self.entries)
        planner = None if self.planner is None else replace(self.planner, rank_range=None)
        found = self.correlations
        if found is not None:
            rho, tau = (replace(value, ci95=None) for value in (found.spearman, found.kendall_tau_b))
            found = replace(found, spearman=rho, kendall_tau_b=tau)
        return replace(self, entries=entries, planner=planner, correlations=found)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all. DataError when the disk refuses."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "SearchResult":
        """Read a file. DataError where it is missing, damaged or something else."""
        mend = "write one by `understudy search --output search.json`"
        content = read_json(Path(path), mend=mend)
        if content.get("format") != FORMAT:
            raise DataError(f"{str(path)!r} is no result of a search ({FORMAT}); {mend}")
        try:
            return cls.from_dict(content)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ScheduleError) as error:
            raise DataError(f"{str(path)!r} is a damaged result of a search ({error!r}); {mend}") from error
