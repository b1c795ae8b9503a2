"""Numbers and texts as a report words them."""

import re
from math import floor, isfinite, log10


def sentences(text: str) -> tuple[str, ...]:
    """Cut after full stops that a space and a capital letter or a digit follow."""
    return tuple(re.split(r"(?<=\.) (?=[A-Z0-9])", text))


def with_error(value: float, error: float | None, form: str | None = None) -> str:
    """A value and its standard error, to two digits of it unless a form is given.

    The value alone where a single sample leaves the error unknown, or where there is none.
    """
    if error is None or not isfinite(error) or (error <= 0 and form is None):
        return f"{value:{form or '.3g'}}"
    if form is None:
        form = f".{max(0, 1 - floor(log10(error)))}f"
    return f"{value:{form}} ± {error:{form}}"


def with_bounds(value: float, bounds: tuple[float, float] | None, form: str = "+.3f") -> str:
    """A value and, where there are any, the ends of its interval in brackets."""
    return f"{value:{form}}" + ("" if bounds is None else f" [{bounds[0]:{form}}, {bounds[1]:{form}}]")


def too_few(num_samples: int) -> str:
    """What is said of fewer samples than `metrics.FEW_SAMPLES`, wherever schedules are compared."""
    return f"{num_samples} samples are too few for an interval to be believed, however narrow it comes out"


def counted(names: list[str], most: int) -> str:
    """The first `most` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
