"""Model schedules: which model makes which denoising step.

A schedule is written as it is read, in sampling order from t = 1 (all masked) to t = 0:

    L125,H750,L125              125 steps of model L, 750 of H, 125 of L
    (L125, H750, L125)          the same: outer parentheses and spaces do not count
    L12.5%,H75%,L12.5%          the same for any number of steps, which must then be given
    L100,L25,H750,L125          the same: equal neighbours merge

Grammar: `schedule = "(" items ")" | items`, `items = item {"," item}`, `item = KEY (COUNT | PERCENT "%")`. A
KEY is one ASCII letter, upper and lower case being different keys; it names a role that a mapping binds to a
model elsewhere.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, groupby, pairwise
from types import MappingProxyType
from typing import NoReturn, Protocol

from understudy.errors import ScheduleError, SettingError

MAX_STEPS = 1_000_000
"""The most steps a schedule may have: enough for any sampler, and a bound on what a mistyped count costs."""

_EXAMPLE = "for example L125,H750,L125"
_SPACES = " \t\r\n"
_DIGITS = "0123456789"
_MAX_NUMBER_LENGTH = 40  # characters; Python itself refuses to convert numbers of more than 4300 digits

# A float that is within a few roundings of a simple ratio stands for it: 0.1 is 1/10 and 1/3 is a third. With
# these limits every ratio of denominator up to 10**6 is read so (others that simple are 1e-14 away).
_MAX_DENOMINATOR = 10**8
_FEW_ROUNDINGS = Fraction(1, 2**51)
_SUM_TOLERANCE = Fraction(1, 10**9)


def apportion(fractions: Sequence[float | Fraction], total: int) -> list[int]:
    """Give the whole counts that share `total` steps out in the given fractions.

    This is the one place where fractions become counts. The rule: the boundary after the i-th share is
    `floor(total * (f_1 + … + f_i) + 1/2)`, that is rounded half up, and a count is the distance between
    neighbouring boundaries. Rounding boundaries rather than counts keeps the total, and leaves every boundary
    within half a step of its true place in time, however many shares come before it; a count is off by less
    than one step.

    `fractions` are at least 0 and sum to 1 (to within 1e-9; what is missing is spread in proportion). The
    arithmetic is exact: a float next to a simple ratio is taken as that ratio, so 0.1 is 1/10. `total` is
    at least 0. Counts may be 0. SettingError if there are no fractions, one is negative or not finite, or
    they do not sum to 1.

    >>> apportion([0.125, 0.75, 0.125], 1000)
    [125, 750, 125]
    >>> apportion([0.25, 0.5, 0.25], 10)
    [3, 5, 2]
    """
    shares = [_exact(fraction) for fraction in fractions]
    whole = sum(shares, Fraction(0))
    if any(share < 0 for share in shares) or abs(whole - 1) > _SUM_TOLERANCE:
        raise SettingError(
            f"fractions must be at least 0 and sum to 1; the smallest of these {len(shares)} is "
            f"{float(min(shares, default=Fraction(0))):g} and they sum to {float(whole):g}"
        )
    if total < 0:
        raise SettingError(f"the total to share out is {total}; it must be at least 0")
    # Over their common denominator the shares are integers, and so is all that follows.
    unit = math.lcm(*(share.denominator for share in shares))
    parts = [share.numerator * (unit // share.denominator) for share in shares]
    scale = sum(parts)
    boundaries = [(2 * total * end + scale) // (2 * scale) for end in accumulate(parts)]
    return [end - start for start, end in pairwise([0, *boundaries])]


@dataclass(frozen=True)
class Segment:
    """A run of steps made by one model: `Segment("L", 125)`, written `L125`.

    `key` is one ASCII letter, `count` a whole number of steps from 1 to `MAX_STEPS`. ScheduleError otherwise.
    """

    key: str
    count: int

    def __post_init__(self) -> None:
        if not (isinstance(self.key, str) and _is_key(self.key)):
            raise ScheduleError(f"{self.key!r} is not a key; a key is one letter A-Z or a-z, {_EXAMPLE}")
        count = _whole(self.count)
        if count is None or not 1 <= count <= MAX_STEPS:
            raise ScheduleError(
                f"{self.count!r} is not a count of steps for key {self.key}; it must be a whole number "
                f"from 1 to {MAX_STEPS}"
            )
        object.__setattr__(self, "count", count)  # integers of other libraries become plain ones

    def __str__(self) -> str:
        return f"{self.key}{self.count}"


@dataclass(frozen=True, repr=False)
class ModelSchedule:
    """Which model makes each denoising step, as runs of steps in sampling order.

    Equal neighbours merge on construction, so two schedules that give every step to the same model are equal.

    >>> ModelSchedule.parse("L125,H750,L125")
    ModelSchedule.parse('L125,H750,L125')
    >>> ModelSchedule.sandwich(1000, 0.25)
    ModelSchedule.parse('L125,H750,L125')
    >>> ModelSchedule.from_keys("LLHHHL")
    ModelSchedule.parse('L2,H3,L1')
    >>> schedule = ModelSchedule((Segment("L", 1), Segment("L", 1), Segment("H", 3), Segment("L", 1)))
    >>> str(schedule), schedule.num_steps, schedule.counts
    ('L2,H3,L1', 6, {'L': 3, 'H': 3})
    >>> schedule.key_at(0), schedule.key_at(2), schedule.steps()
    ('L', 'H', ('L', 'L', 'H', 'H', 'H', 'L'))

    ScheduleError if there is no segment, or more than `MAX_STEPS` steps in all.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        runs = groupby(self.segments, key=lambda segment: segment.key)
        merged = tuple(Segment(key, sum(segment.count for segment in run)) for key, run in runs)
        if not merged:
            raise ScheduleError(f"a schedule needs at least one segment, {_EXAMPLE}")
        object.__setattr__(self, "segments", merged)
        if self.num_steps > MAX_STEPS:
            raise ScheduleError(f"the schedule has {self.num_steps} steps; at most {MAX_STEPS} are allowed")

    def __str__(self) -> str:
        return ",".join(map(str, self.segments))

    def __repr__(self) -> str:
        return f"ModelSchedule.parse({str(self)!r})"

    @classmethod
    def parse(cls, text: str, num_steps: int | None = None) -> ModelSchedule:
        """Read a schedule from its notation (see the top of the module).

        Percentages must sum to exactly 100, need `num_steps`, and each must come to at least one step
        (`apportion` rounds them); they do not mix with counts. Where counts are given and `num_steps` too,
        the totals must agree. ScheduleError, with the 1-based column in `text`, if the string breaks any of
        this; what concerns the string as a whole is reported at its first segment. SettingError if
        `num_steps` is not a whole number from 1 to `MAX_STEPS`.

        >>> ModelSchedule.parse("(L12.5%, H75%, L12.5%)", num_steps=1000)
        ModelSchedule.parse('L125,H750,L125')
        >>> ModelSchedule.parse("L125;H750")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        understudy.errors.ScheduleError: column 5: ';' stands where "," or the end should stand, ...
        """
        if num_steps is not None:
            num_steps = _checked_num_steps(num_steps)
        items = _Reader(text).read_schedule()
        resolve = _resolve_percentages if items[0].is_percentage else _resolve_counts
        counts = resolve(items, num_steps)
        return cls(tuple(Segment(item.key, count) for item, count in zip(items, counts, strict=True)))

    @classmethod
    def from_keys(cls, keys: Iterable[str]) -> ModelSchedule:
        """Give the schedule whose k-th step is made by the k-th key; the inverse of `steps`."""
        return cls(tuple(Segment(key, sum(1 for _ in run)) for key, run in groupby(keys)))

    @classmethod
    def single(cls, num_steps: int, key: str = "H") -> ModelSchedule:
        """Give every step to one model: `H1000`."""
        return cls((Segment(key, _checked_num_steps(num_steps)),))

    @classmethod
    def sandwich(cls, num_steps: int, fraction: float, *, light: str = "L", heavy: str = "H") -> ModelSchedule:
        """Place half of the light steps at the start and half at the end: `L125,H750,L125`.

        The best rule of arXiv:2604.02340. `num_steps` is 1 to `MAX_STEPS`, `fraction` in [0, 1] the light
        share of the steps. Boundaries are rounded by `apportion`, so the result equals that of `parse` with
        the same percentages; a slice that comes to no step is left out. Where `num_steps * fraction` is
        whole, every named placement has exactly that many light steps; otherwise all are less than one step
        away from it. SettingError if an argument is outside its range, ScheduleError if a key is not a
        letter.
        """
        share = _checked_share(fraction)
        return cls._from_shares(num_steps, [(light, share / 2), (heavy, 1 - share), (light, share / 2)])

    @classmethod
    def first(cls, num_steps: int, fraction: float, *, light: str = "L", heavy: str = "H") -> ModelSchedule:
        """Place the light steps at the start: `L250,H750`. Arguments and errors as for `sandwich`."""
        share = _checked_share(fraction)
        return cls._from_shares(num_steps, [(light, share), (heavy, 1 - share)])

    @classmethod
    def last(cls, num_steps: int, fraction: float, *, light: str = "L", heavy: str = "H") -> ModelSchedule:
        """Place the light steps at the end: `H750,L250`. Arguments and errors as for `sandwich`."""
        share = _checked_share(fraction)
        return cls._from_shares(num_steps, [(heavy, 1 - share), (light, share)])

    @classmethod
    def middle(cls, num_steps: int, fraction: float, *, light: str = "L", heavy: str = "H") -> ModelSchedule:
        """Place the light steps in the middle: `H375,L250,H375`. Arguments and errors as for `sandwich`."""
        share = _checked_share(fraction)
        return cls._from_shares(num_steps, [(heavy, (1 - share) / 2), (light, share), (heavy, (1 - share) / 2)])

    @classmethod
    def interleaved(cls, num_steps: int, fraction: float, *, light: str = "L", heavy: str = "H") -> ModelSchedule:
        """Spread the light steps evenly: `H1,L1,H3,L1,H2` for 2 of 8. Arguments and errors as for `sandwich`.

        With n light steps of N, the j-th (from 1) is the step that holds the middle of the j-th n-th of the
        time: distances between neighbouring light steps differ by at most one, and so do those between heavy
        ones.
        """
        num_steps, share = _checked_num_steps(num_steps), _checked_share(fraction)
        num_light, _ = apportion([share, 1 - share], num_steps)
        is_light = apportion([Fraction(1, num_steps)] * num_steps, num_light)
        return cls.from_keys(light if flag else heavy for flag in is_light)

    @classmethod
    def _from_shares(cls, num_steps: int, shares: Sequence[tuple[str, Fraction]]) -> ModelSchedule:
        counts = apportion([share for _, share in shares], _checked_num_steps(num_steps))
        return cls(tuple(Segment(key, count) for (key, _), count in zip(shares, counts, strict=True) if count))

    @property
    def num_steps(self) -> int:
        """The number of nominal steps, N."""
        return self._ends[-1]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys in use, in order of first appearance."""
        return tuple(self.counts)

    @property
    def counts(self) -> dict[str, int]:
        """The number of steps by key, in order of first appearance."""
        counts: dict[str, int] = {}
        for segment in self.segments:
            counts[segment.key] = counts.get(segment.key, 0) + segment.count
        return counts

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(segment.count for segment in self.segments))

    def key_at(self, step: int) -> str:
        """Give the key of a step, 0 to num_steps - 1 in sampling order; ScheduleError for any other."""
        if not 0 <= step < self.num_steps:
            raise ScheduleError(f"there is no step {step}; the steps here are 0 to {self.num_steps - 1}")
        return self.segments[bisect_right(self._ends, step)].key

    def steps(self) -> tuple[str, ...]:
        """Give the key of every step, in sampling order."""
        return tuple(segment.key for segment in self.segments for _ in range(segment.count))

    def resized(self, num_steps: int) -> ModelSchedule:
        """Give the schedule for another number of steps, every boundary at its place in time (`apportion`).

        To more steps this always works. To fewer it is a ScheduleError if a segment is left without a step,
        as a percentage would be in `parse`. Segments about as short as a step of the new grid cannot keep
        their share; make an interleaved schedule anew instead. SettingError if `num_steps` is not a whole
        number from 1 to `MAX_STEPS`.

        >>> ModelSchedule.parse("L125,H750,L125").resized(64)
        ModelSchedule.parse('L8,H48,L8')
        """
        shares = [Fraction(segment.count, self.num_steps) for segment in self.segments]
        counts = apportion(shares, _checked_num_steps(num_steps))
        if 0 in counts:
            lost = self.segments[counts.index(0)]
            raise ScheduleError(
                f"{lost} of {self.num_steps} steps comes to no step at all out of {num_steps}; "
                "take more steps or a schedule with longer segments"
            )
        return ModelSchedule(tuple(Segment(s.key, count) for s, count in zip(self.segments, counts, strict=True)))


class NamedConstructor(Protocol):
    """What every entry of `NAMED` can be called with; see `ModelSchedule.sandwich`."""

    def __call__(self, num_steps: int, fraction: float, *, light: str = "L", heavy: str = "H") -> ModelSchedule:
        """Give the schedule with the light share `fraction` of `num_steps` steps."""


NAMED: Mapping[str, NamedConstructor] = MappingProxyType(
    {
        "sandwich": ModelSchedule.sandwich,
        "first": ModelSchedule.first,
        "last": ModelSchedule.last,
        "middle": ModelSchedule.middle,
        "interleaved": ModelSchedule.interleaved,
    }
)
"""The placements of light steps that have a name."""


@dataclass(frozen=True)
class _Item:
    """One `KEY COUNT` as written, with the columns of the key and of the number."""

    key: str
    amount: Fraction
    is_percentage: bool
    key_column: int
    number_column: int


class _Reader:
    """A recursive-descent reader; it skips spaces, and knows every column of the original string."""

    def __init__(self, text: str) -> None:
        self._chars = [(column, char) for column, char in enumerate(text, start=1) if char not in _SPACES]
        self._end_column = len(text) + 1
        self._position = 0

    def read_schedule(self) -> list[_Item]:
        is_open = self._accept("(")
        items = [self._read_item()]
        while self._accept(","):
            items.append(self._read_item())
        if is_open and not self._accept(")"):
            self._fail('"," or the closing ")"')
        if self._char:
            self._fail("the end" if is_open else '"," or the end')
        for item in items:
            if item.is_percentage != items[0].is_percentage:
                raise ScheduleError(
                    "percentages and counts cannot be mixed; write either L25%,H75% or L250,H750",
                    column=item.number_column,
                )
        return items

    def _read_item(self) -> _Item:
        key_column, key = self._column, self._char
        if not _is_key(key):
            self._fail("a key (one letter A-Z or a-z)")
        self._position += 1
        number_column, number = self._column, self._read_number(key)
        is_percentage = self._accept("%")
        if "." in number and not is_percentage:
            raise ScheduleError(
                f"a count is a whole number of steps, not {number}; did you mean {number}%?",
                column=number_column,
            )
        amount = Fraction(number)
        _check_amount(amount, is_percentage, number_column)
        return _Item(key, amount, is_percentage, key_column, number_column)

    def _read_number(self, key: str) -> str:
        start = self._column
        number = self._read_digits(f"the number of steps for key {key}")
        if self._accept("."):
            number += "." + self._read_digits("a digit after the decimal point")
        if len(number) > _MAX_NUMBER_LENGTH:
            raise ScheduleError(
                f"a number of {len(number)} characters is too long; counts go up to {MAX_STEPS}", column=start
            )
        return number

    def _read_digits(self, wanted: str) -> str:
        start = self._position
        # Not str.isdigit, which also accepts "²" and the digits of other scripts.
        while self._char and self._char in _DIGITS:
            self._position += 1
        if self._position == start:
            self._fail(wanted)
        return "".join(char for _, char in self._chars[start : self._position])

    @property
    def _char(self) -> str:
        return self._chars[self._position][1] if self._position < len(self._chars) else ""

    @property
    def _column(self) -> int:
        return self._chars[self._position][0] if self._position < len(self._chars) else self._end_column

    def _accept(self, char: str) -> bool:
        found = self._char == char
        self._position += found
        return found

    def _fail(self, wanted: str) -> NoReturn:
        found = f"{self._char!r} stands" if self._char else "the string ends"
        raise ScheduleError(f"{found} where {wanted} should stand, {_EXAMPLE}", column=self._column)


def _check_amount(amount: Fraction, is_percentage: bool, column: int) -> None:
    """Hold one written number to its range; ScheduleError at its column."""
    largest = 100 if is_percentage else MAX_STEPS
    unit = "percentage" if is_percentage else "count"
    if not 0 < amount <= largest:
        raise ScheduleError(
            f"the {unit} is {float(amount):.15g}; it must be above 0 and at most {largest} "
            "(leave out a segment that has no steps)",
            column=column,
        )


def _resolve_counts(items: Sequence[_Item], num_steps: int | None) -> list[int]:
    """Give the counts as written, if they come to `num_steps`."""
    counts = [int(item.amount) for item in items]
    total = sum(counts)
    if total > MAX_STEPS:
        _fail_whole(items, f"the schedule has {total} steps; at most {MAX_STEPS} are allowed")
    if num_steps is not None and total != num_steps:
        _fail_whole(
            items,
            f"the schedule has {total} steps but {num_steps} were asked for; change its counts, "
            f"ask for {total} steps, or write percentages (L25%,H75%)",
        )
    return counts


def _resolve_percentages(items: Sequence[_Item], num_steps: int | None) -> list[int]:
    """Give the counts that the percentages come to, each at least 1."""
    total = sum((item.amount for item in items), Fraction(0))
    if total != 100:
        _fail_whole(items, f"the percentages sum to {_decimal(total)}, not to 100; correct them or write counts")
    if num_steps is None:
        _fail_whole(items, f"percentages need the number of steps; give it too, or write counts, {_EXAMPLE}")
    counts = apportion([item.amount / 100 for item in items], num_steps)
    for item, count in zip(items, counts, strict=True):
        if count < 1:
            raise ScheduleError(
                f"{_decimal(item.amount)}% of {num_steps} steps comes to no step at all; "
                "take a larger percentage, more steps, or leave the segment out",
                column=item.number_column,
            )
    return counts


def _fail_whole(items: Sequence[_Item], message: str) -> NoReturn:
    raise ScheduleError(message, column=items[0].key_column)


def _decimal(value: Fraction) -> str:
    """Write a ratio whose denominator is a power of ten, exactly."""
    places = len(str(value.denominator)) * 4  # 1/2**k and 1/5**k need k places
    whole, rest = divmod(int(value * 10**places), 10**places)
    return f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")


def _is_key(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text.isalpha()


def _whole(value: object) -> int | None:
    """Give a whole number of any library as a plain int, None for anything else."""
    index: Callable[..., int] = operator.index
    try:
        return index(value)
    except TypeError:
        return None


def _checked_num_steps(num_steps: int) -> int:
    count = _whole(num_steps)
    if count is None or not 1 <= count <= MAX_STEPS:
        raise SettingError(f"{num_steps!r} is not a number of steps; it must be a whole number from 1 to {MAX_STEPS}")
    return count


def _checked_share(fraction: float | Fraction) -> Fraction:
    share = _exact(fraction)
    if not 0 <= share <= 1:
        raise SettingError(f"the light fraction is {fraction}; it must be from 0 to 1 (a quarter is 0.25)")
    return share


def _exact(fraction: float | Fraction) -> Fraction:
    """Give the ratio that a number stands for; see `_FEW_ROUNDINGS`."""
    if isinstance(fraction, Fraction):
        return fraction
    if not math.isfinite(fraction):
        raise SettingError(f"a fraction is {fraction}; it must be a finite number from 0 to 1")
    exact = Fraction(fraction)
    simple = exact.limit_denominator(_MAX_DENOMINATOR)
    return simple if abs(simple - exact) <= _FEW_ROUNDINGS else exact
