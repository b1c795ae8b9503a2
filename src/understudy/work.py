"""Units of work: plain values that any process with the models at hand can do, one after another or many at once.

Whoever drives a job makes the units and joins their results in an order of its own; a workforce says where and when
each is done.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

from understudy.denoisers.protocol import Denoiser
from understudy.driving import mapped


@dataclass(frozen=True)
class Tools:
    """What units are done with: models by key, and where a job needs them a judge and a tokenizer."""

    denoisers: Mapping[str, Denoiser]
    judge: Any = None
    tokenizer: Any = None


class Work(Protocol):
    """One unit: a frozen dataclass of plain values, which may travel to another machine."""

    def run(self, tools: Tools) -> Generator[int, None, Any]:
        """Do it. Yields what was done since the last time, in the job's own count; returns plain values or arrays."""
        ...


@dataclass(frozen=True)
class Advance:
    """A unit has come so much further; the amount is below 0 where a worker was lost with what it had done."""

    unit: str
    amount: int


@dataclass(frozen=True)
class Finished:
    """A unit is done, once: what came out."""

    unit: str
    result: Any


Event: TypeAlias = Advance | Finished


class Workforce(Protocol):
    """Who does units of work; its length is how many of them at once."""

    def __len__(self) -> int: ...

    def do(self, units: Iterable[tuple[str, Work]]) -> Generator[Event, None, None]:
        """Do units, given with their names, until all are finished; in any order, each `Finished` exactly once.

        Units are asked for as there is someone to do them. The caller drives: stop early by not asking for more.
        """
        ...


@dataclass(frozen=True)
class OneAfterAnother:
    """This process does them, in the order given."""

    tools: Tools

    def __len__(self) -> int:
        return 1

    def do(self, units: Iterable[tuple[str, Work]]) -> Generator[Event, None, None]:
        """Raises what the units raise."""
        for name, work in units:
            result = yield from mapped(work.run(self.tools), partial(Advance, name))
            yield Finished(name, result)
