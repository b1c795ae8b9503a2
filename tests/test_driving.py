"""Driving generators: what they yield and what they return."""

from driving import finish
from understudy.driving import mapped, run_to_end


def count(end):
    yield from range(end)
    return "done"


def test_a_run_gives_what_it_returns():
    seen = []
    assert run_to_end(count(3), seen.append) == "done"
    assert seen == [0, 1, 2]


def test_a_mapped_run_yields_images_and_returns_the_same():
    assert finish(mapped(count(3), lambda number: number**2)) == ([0, 1, 4], "done")
    assert finish(mapped(count(0), str)) == ([], "done")
