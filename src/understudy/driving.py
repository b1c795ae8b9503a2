"""Driving the library's generators, which say how far they are and return what came out."""

from collections.abc import Callable, Generator
from typing import TypeVar

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")


def run_to_end(run: Generator[R, None, T], show: Callable[[R], object] = lambda record: None) -> T:
    """Call `show` on everything that `run` yields, and give what it returns."""
    while True:
        try:
            record = next(run)
        except StopIteration as stop:
            result: T = stop.value
            return result
        show(record)


def mapped(run: Generator[R, None, T], function: Callable[[R], S]) -> Generator[S, None, T]:
    """Yield `function` of everything that `run` yields, and return what it returns."""
    while True:
        try:
            record = next(run)
        except StopIteration as stop:
            result: T = stop.value
            return result
        yield function(record)
