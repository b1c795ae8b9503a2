"""Reading the results of the study, for the tables of docs/study.md: rows, differences and their errors."""

from functools import cache

from results_tables import RESULTS, read

from understudy.importance import Importance
from understudy.report.wording import with_bounds

SETS = ("longform", "sentences")
PAIRS = (*SETS, "bundled")
LENGTHS = {"bundled-1000": 1000, "bundled-3500": 3500, "bundled": 14000}  # steps of training
NORMAL_95 = 1.96


def placed(steps, light):
    """A schedule for each place of so many light steps."""
    rest, half = steps - light, light // 2
    return {
        "sandwich": f"L{half},H{rest},L{light - half}",
        "first": f"L{light},H{rest}",
        "last": f"H{rest},L{light}",
        "middle": f"H{rest // 2},L{light},H{rest - rest // 2}",
    }


RULES, HALVES = placed(1000, 250), placed(1000, 500)


def entries(data, name):
    """Rows of an evaluation of a data set, as a list."""
    return read(f"study/{data}/{name}.json")["schedules"]


def entry(data, schedule, name="rules", temperature=1.0):
    """The row of one schedule."""
    return next(row for row in entries(data, name) if (row["schedule"], row["temperature"]) == (schedule, temperature))


@cache
def importance(pair):
    """An analysis of a pair; of the bundled one after fewer steps of training too, as `bundled-1000`."""
    folder, _, steps = pair.partition("-")
    return Importance.load(RESULTS / "study" / folder / (f"importance-{steps}.json" if steps else "importance.json"))


def interval_error(interval):
    """Standard error by the width of a 95 % interval."""
    low, high = interval
    return (high - low) / (2 * NORMAL_95)


def loss(row):
    """Difference of the judge's NLL to heavy alone, with its interval."""
    return "–" if row["nll_difference"] == 0 else with_bounds(row["nll_difference"], row["nll_difference_ci95"])


def perplexity(row):
    """Judge perplexity with its interval."""
    return with_bounds(row["gen_ppl"], row["gen_ppl_ci95"], ".1f")


def contrast(one, other):
    """How much more `one` loses than `other`, and the most that the standard error of that can be.

    The standard deviation of a difference is at most the sum of both, whatever the correlation.
    """
    error = sum(interval_error(row["nll_difference_ci95"]) for row in (one, other))
    return one["nll_difference"] - other["nll_difference"], error


def is_told_apart(value, error):
    """Whether a difference is beyond noise."""
    return abs(value) > NORMAL_95 * error


def verdict(value, error):
    """In words."""
    return "told apart" if is_told_apart(value, error) else "not told apart"


def signed(value, error):
    """A difference with its standard error."""
    return f"{value:+.3f} ± {error:.3f}"


def share(data, schedule, name="rules", light="L1000"):
    """Part of light alone's loss that a schedule takes: estimate, and ends for both intervals at their worst."""
    row, whole = entry(data, schedule, name), entry(data, light, name)
    (low, high), (least, most) = row["nll_difference_ci95"], whole["nll_difference_ci95"]
    return row["nll_difference"] / whole["nll_difference"], low / most, high / least


def band(pair, low, high):
    """Mean of the held-out KL over the measured t in (low, high), and the most that its standard error can be."""
    curves = importance(pair).held_out
    chosen = (curves.times > low) & (curves.times < high)
    return float(curves.kl["L"].mean[chosen].mean()), float(curves.kl["L"].error[chosen].mean())


def hump(pair):
    """Held-out KL for t in (0.2, 0.3) less that for t below 0.1, and the most that the standard error can be."""
    (top, error), (end, other) = band(pair, 0.2, 0.3), band(pair, 0, 0.1)
    return top - end, error + other
