"""How a search samples, and what its journal is told about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from understudy.errors import SettingError
from understudy.evaluation import Protocol, Scoring
from understudy.sampling import SamplingOptions
from understudy.search.halving import Rule, round_sizes

JOURNAL_FORMAT = "understudy-search-journal-1"


@dataclass(frozen=True)
class SearchSettings:
    """What is sampled of each schedule, and how.

    num_samples: of each schedule, at least 2. length, noise, prefix, batch_size: as in `SamplingTask.create`; seed is
    shared by all schedules, so that sample i of one is paired with sample i of another. judge_batch_size: most windows
    that the judge reads at once. protocol: how samples reach the judge (`evaluation.Protocol`). chunk: samples that are
    measured and journalled at once, at least 1. halving, first_round: None samples every schedule to the end; see
    `halving.round_sizes`. confidence: of the rule "confident" over the whole search, in (0, 1). SettingError outside of
    the ranges.
    """

    num_samples: int = 16
    length: int | None = None
    seed: int = 0
    noise: str | None = None
    prefix: tuple[int, ...] | None = None
    batch_size: int = 8
    judge_batch_size: int = 8
    protocol: Protocol = "ids"
    chunk: int = 32
    halving: Rule | None = None
    first_round: int | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        lowest = {"num_samples": 2, "batch_size": 1, "judge_batch_size": 1, "chunk": 1}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise SettingError(f"{name} is {getattr(self, name)}; a search needs at least {least}")
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence is {self.confidence}; it must lie between 0 and 1, such as 0.95")
        _ = self.rounds

    @property
    def rounds(self) -> tuple[int, ...]:
        """Samples that a schedule has after each round."""
        return round_sizes(self.num_samples, self.halving, self.first_round)

    @property
    def scoring(self) -> Scoring:
        """How the judge scores."""
        return Scoring(protocol=self.protocol, judge_batch_size=self.judge_batch_size)

    def sampling_options(self, first: int, end: int) -> SamplingOptions:
        """Ask for samples first … end − 1."""
        return SamplingOptions(
            num_samples=end - first,
            first_index=first,
            length=self.length,
            seed=self.seed,
            noise=self.noise,
            prefix=self.prefix,
            batch_size=self.batch_size,
        )

    def parts(self, first: int, end: int) -> list[tuple[int, int]]:
        """Cut samples first … end − 1 at multiples of `chunk`.

        Where a journal holds the first samples of such a part, to whatever number, only the rest of it is measured.
        """
        cuts = [cut for cut in range(0, end, self.chunk) if cut > first]
        return list(zip([first, *cuts], [*cuts, end], strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "prefix": None if self.prefix is None else list(self.prefix)}

    def journal_job(self, num_steps: int, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What a `RecordJournal` of this search is told: all that a sample's measurements depend on.

        facts: what else they depend on, by name: digests of the weights of models and judge, type of device, dtype.
        Which schedules, how many samples, which halving rule and what size of chunks are left out: a journal goes on
        under others.
        """
        settings = self.to_dict()
        kept = {name: settings[name] for name in ("length", "seed", "noise", "prefix", "protocol")}
        return {"format": JOURNAL_FORMAT, "steps": num_steps, **kept, **facts}
