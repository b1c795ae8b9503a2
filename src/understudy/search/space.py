"""Which schedules are searched: coarse segments of steps, shared out among the models in every order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from math import factorial, prod

from understudy.errors import SettingError
from understudy.schedule import NAMED, ModelSchedule, Segment, apportion

MAX_SCHEDULES = 2000
"""The most schedules that are searched: a bound on what a mistyped count costs. 16 segments with 4 light make 1820."""


@dataclass(frozen=True)
class SearchSpace:
    """Every order of coarse segments with a given number of segments for each model.

    >>> space = SearchSpace(1000, {"H": 6, "L": 2})
    >>> len(space), space.num_segments, space.segment_lengths[0]
    (28, 8, 125)
    >>> space.patterns[0], space.schedule("LHHHHHHL")
    ('HHHHHHLL', ModelSchedule.parse('L125,H750,L125'))

    num_steps: N. segment_counts: by key, how many of the segments its model makes, at least 1. The segments cut N
    into equal parts, their boundaries rounded by `schedule.apportion`; where N is no multiple of their number,
    schedules differ in cost by less than a step for each segment.

    SettingError for a count below 1, for more segments than steps, and for more than `MAX_SCHEDULES` schedules;
    ScheduleError for a key that is no letter.
    """

    num_steps: int
    segment_counts: Mapping[str, int]

    def __post_init__(self) -> None:
        counts = {Segment(key, 1).key: int(count) for key, count in self.segment_counts.items()}
        listed = ", ".join(f"{key} {count}" for key, count in counts.items())
        if not counts or min(counts.values()) < 1:
            raise SettingError(f"the segments are shared out as {listed or 'nothing'}; give each key at least one")
        object.__setattr__(self, "segment_counts", counts)
        if not self.num_segments <= self.num_steps:
            raise SettingError(
                f"{self.num_segments} segments do not fit into {self.num_steps} steps; take fewer segments"
            )
        if len(self) > MAX_SCHEDULES:
            raise SettingError(
                f"{self.num_segments} segments shared out as {listed} make {len(self)} schedules; at most "
                f"{MAX_SCHEDULES} are searched: take fewer segments, or fewer of the rarer models"
            )

    @classmethod
    def light_and_heavy(
        cls, num_steps: int, num_segments: int = 8, num_light: int = 2, *, light: str = "L", heavy: str = "H"
    ) -> "SearchSpace":
        """Share segments out among two models; `num_light` from 1 to num_segments − 1. SettingError outside of it."""
        if not 1 <= num_light < num_segments:
            raise SettingError(
                f"{num_light} of {num_segments} segments are light; at least one must be, and at least one must not"
            )
        return cls(num_steps, {heavy: num_segments - num_light, light: num_light})

    def __len__(self) -> int:
        """How many schedules there are: N! over the product of the counts' factorials, for N segments."""
        return factorial(self.num_segments) // prod(map(factorial, self.segment_counts.values()))

    @property
    def num_segments(self) -> int:
        """Number of segments."""
        return sum(self.segment_counts.values())

    @cached_property
    def segment_lengths(self) -> tuple[int, ...]:
        """Steps in each segment, in sampling order."""
        return tuple(apportion([Fraction(1, self.num_segments)] * self.num_segments, self.num_steps))

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """All orders, one letter a segment, in the order of the alphabet in which `segment_counts` lists the keys."""
        return tuple(_arrangements(dict(self.segment_counts)))

    def schedule(self, pattern: str) -> ModelSchedule:
        """Give the schedule of one pattern, such as LHHHHHHL."""
        pairs = zip(pattern, self.segment_lengths, strict=True)
        return ModelSchedule(tuple(Segment(key, length) for key, length in pairs))

    def schedules(self) -> dict[str, ModelSchedule]:
        """All schedules by pattern. No two of them are equal."""
        return {pattern: self.schedule(pattern) for pattern in self.patterns}

    def pattern_of(self, schedule: ModelSchedule) -> str | None:
        """Give the pattern of a schedule that follows the segments, whatever their number by key; None of another."""
        if schedule.num_steps != self.num_steps:
            return None
        starts = [0, *accumulate(self.segment_lengths)][:-1]
        pattern = "".join(schedule.key_at(start) for start in starts)
        return pattern if self.schedule(pattern) == schedule else None

    def rule(self, name: str, heavy: str) -> ModelSchedule:
        """Give the schedule that a rule of `schedule.NAMED` makes with this space's share of light steps.

        heavy: the key of the two that is not light. SettingError for an unknown name or where there are not two keys.
        """
        lighter = [key for key in self.segment_counts if key != heavy]
        if name not in NAMED or len(lighter) != 1 or heavy not in self.segment_counts:
            raise SettingError(
                f"{name!r} names no rule for models {', '.join(self.segment_counts)}; for {heavy} and one other there "
                f"are {', '.join(NAMED)}: write the schedule itself, such as L125,H750,L125"
            )
        share = self.segment_counts[lighter[0]] / self.num_segments
        return NAMED[name](self.num_steps, share, light=lighter[0], heavy=heavy)

    def holds_cost_of(self, schedule: ModelSchedule) -> bool:
        """Whether a schedule gives each model as many steps as schedules of this space do."""
        if schedule.num_steps != self.num_steps or set(schedule.counts) != set(self.segment_counts):
            return False
        shortest = sorted(self.segment_lengths)
        longest = shortest[::-1]
        return all(
            sum(shortest[:count]) <= schedule.counts[key] <= sum(longest[:count])
            for key, count in self.segment_counts.items()
        )


def _arrangements(left: dict[str, int]) -> Iterator[str]:
    """Every distinct word that holds each letter as often as `left` says."""
    if not any(left.values()):
        yield ""
        return
    for key, count in left.items():
        if count:
            yield from (key + rest for rest in _arrangements({**left, key: count - 1}))
