"""Tables and pictures of docs/study.md from the files under results/study.

python benchmarks/study_tables.py [--write]

Without --write the tables are printed. With it they replace what stands between their markers in docs/study.md, and
docs/images/study-*.png are drawn anew.
"""

import math
import re
import sys
from pathlib import Path

import numpy as np
from results_tables import table
from study_files import (
    HALVES,
    LENGTHS,
    PAIRS,
    RULES,
    SETS,
    band,
    contrast,
    entries,
    entry,
    hump,
    importance,
    interval_error,
    is_told_apart,
    loss,
    perplexity,
    share,
    signed,
    verdict,
)

from understudy import ModelSchedule
from understudy.importance import Curve
from understudy.report.canvas import GRID, INK, clean, new_figure, png_bytes, write_picture
from understudy.report.comparison_figure import LINES, MARKERS
from understudy.report.importance_section import quarters
from understudy.report.wording import with_bounds, with_error

ROOT = Path(__file__).parent.parent
PAGE, IMAGES = ROOT / "docs" / "study.md", ROOT / "docs" / "images"
STEPS = (1000, 500, 250, 125)
SEARCHED = ("sentences", "bundled")
SHAPES = ("heavy alone", "first 25 %", "sandwich 25 %", "sandwich 50 %", "light alone")


def main():
    """Print the tables, or write them and the pictures into the docs."""
    if "--write" not in sys.argv[1:]:
        print(*(f"{name}\n\n{make()}" for name, make in TABLES.items()), sep="\n\n")
        return
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    write_picture(IMAGES / "study-frontier.png", frontier_picture())
    write_picture(IMAGES / "study-importance.png", importance_picture())


def filled(page):
    """The page with every table between its markers made anew."""

    def fill(match):
        return f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", fill, page, flags=re.DOTALL)


def rules_table():
    """Every schedule of a thousand steps on both data sets."""
    head = ["schedule"]
    head += [f"{data}: {name}" for data in SETS for name in ("perplexity", "loss, nats a token", "of light alone's")]
    rows = [[f"`{row['schedule']}`"] for row in entries("longform", "rules")]
    for cells in rows:
        for data in SETS:
            row = entry(data, cells[0].strip("`"))
            cells += [perplexity(row), loss(row), f"{share(data, row['schedule'])[0]:.0%}"]
    return table(head, rows)


def contrast_table(found):
    """Of (what, label, {data: (difference, its error)}): the differences and whether they are beyond noise."""
    head = ["loss of", "", *(cell for data in SETS for cell in (f"{data}: difference", "verdict"))]
    rows = []
    for name, label, values in found:
        cells = [name, label]
        for data in SETS:
            cells += [signed(*values[data]), verdict(*values[data])]
        rows.append(cells)
    return table(head, rows)


def both(one, other, name="rules"):
    """The contrast of two schedules on both data sets."""
    return {data: contrast(entry(data, one, name), entry(data, other, name)) for data in SETS}


def early_table(place="first", other=None):
    """Light steps in a place: the loss, its part of light alone's, and how much more it is than in another place."""
    columns = ["loss", "of light alone's", *([f"− {other}"] if other else [])]
    rows = []
    for light, rules in (("25 %", RULES), ("50 %", HALVES)):
        cells = [f"{place} {light}"]
        for data in SETS:
            row, (value, low, high) = entry(data, rules[place]), share(data, rules[place])
            cells += [loss(row), f"{value:.0%} [{low:.0%}, {high:.0%}]"]
            cells += [signed(*contrast(row, entry(data, rules[other])))] if other else []
        rows.append(cells)
    return table(["light steps", *(f"{data}: {name}" for data in SETS for name in columns)], rows)


def late_table():
    """Light steps last."""
    return early_table("last", "first")


def middle_table():
    """The middle against the rest, at both budgets."""
    found = []
    for other in ("last", "first", "sandwich"):
        for label, rules in (("25 % light", RULES), ("50 % light", HALVES)):
            found.append((f"middle − {other}", label, both(rules["middle"], rules[other])))
    return contrast_table(found)


def searched(pair="sentences"):
    """Schedules of an exhaustive search, best first."""
    return [row for row in entries(pair, "search") if row["rank"] is not None]


def eighths(pair="sentences"):
    """For each eighth of the steps: mean loss of the searched schedules whose light steps include it, and its error.

    The standard error of a mean is at most the mean of the standard errors.
    """
    ranked = searched(pair)
    found = []
    for index in range(8):
        rows = [row for row in ranked if row["segments"][index] == "L"]
        both_means = np.mean([(row["nll_difference"], interval_error(row["ci95"])) for row in rows], axis=0)
        found.append(tuple(both_means.tolist()))
    return found


def eighths_table():
    """Where in time light steps cost the judge most, by the exhaustive search."""
    head = ["eighth of the steps", *(str(index + 1) for index in range(8))]
    return table(
        head,
        [[pair, *(f"{value:.3f} ± {error:.3f}" for value, error in eighths(pair))] for pair in SEARCHED],
    )


def sandwich_contrasts():
    """Sandwich less first, for every number of steps and with prefixes."""
    name, sandwich, first = "sandwich − first", RULES["sandwich"], RULES["first"]
    found = [(name, "1000 steps", both(sandwich, first))]
    for steps in STEPS[1:]:
        rows = {data: {shape_of(row): row for row in entries(data, f"steps-{steps}")} for data in SETS}
        values = {data: contrast(rows[data][SHAPES[2]], rows[data][SHAPES[1]]) for data in SETS}
        found.append((name, f"{steps} steps", values))
    return [*found, (name, "1000 steps, prefixes", both(sandwich, first, "prefix"))]


def sandwich_table():
    """Sandwich against the other rules at a quarter of light steps."""
    others = [(f"sandwich − {one}", "1000 steps", both(RULES["sandwich"], RULES[one])) for one in ("last", "middle")]
    return contrast_table([*sandwich_contrasts(), *others])


def diversity_table():
    """Entropy, distinct n-grams, repetition, self-BLEU and overlap with training text."""
    head = ["schedule", "entropy", "distinct-1", "distinct-2", "repetition, ‱", "self-BLEU", "overlap, ‱"]
    rows = []
    for data in SETS:
        for row in entries(data, "rules"):
            cells = [f"{data} `{row['schedule']}`", f"{row['entropy']:.3f} ± {row['entropy_se']:.3f}"]
            cells += [f"{row['distinct_1']:.4f}", f"{row['distinct_2']:.3f}"]
            cells += [f"{1e4 * row['repetition']:.1f} ± {1e4 * row['repetition_se']:.1f}", f"{row['self_bleu']:.2f}"]
            rows.append([*cells, f"{1e4 * row['ngram_overlap']:.1f} ± {1e4 * row['ngram_overlap_se']:.1f}"])
    return table(head, rows)


def prefix_table():
    """Losses with prefixes beside those without."""
    head = ["schedule", *(f"{data}: {name}" for data in SETS for name in ("perplexity", "loss", "without prefix"))]
    rows = [[f"`{row['schedule']}`"] for row in entries("longform", "prefix")]
    for cells in rows:
        for data in SETS:
            row = entry(data, cells[0].strip("`"), "prefix")
            cells += [perplexity(row), loss(row), loss(entry(data, row["schedule"]))]
    return table(head, rows)


def pairs_table():
    """Losses of the rules for all three pairs."""
    rows = []
    for name in ("first", "sandwich", "last", "middle", "light alone"):
        cells = [loss(entry(pair, RULES.get(name, "L1000"))) for pair in PAIRS]
        rows.append([name if name == "light alone" else f"{name} 25 %", *cells])
    return table(["light steps", *PAIRS], rows)


def hump_row(pair):
    """Where the held-out KL per masked token of a pair is highest, and whether it falls again towards t = 0."""
    curves = importance(pair).held_out
    top = int(curves.kl["L"].mean.argmax())
    value, error = hump(pair)
    cells = [f"{curves.times[top]:.2f}", with_error(curves.kl["L"].mean[top], curves.kl["L"].error[top], ".3f")]
    cells += [with_error(*band(pair, *ends), ".3f") for ends in ((0, 0.1), (0.2, 0.3), (0.9, 1))]
    return [*cells, signed(value, error), verdict(value, error)]


HUMP = ["highest at t", "there", "t < 0.1", "0.2 < t < 0.3", "0.9 < t", "hump", "verdict"]


def hump_table():
    """The hump of every pair."""
    rows = [[pair, str(importance(pair).held_out.num_blocks), *hump_row(pair)] for pair in PAIRS]
    return table(["pair", "blocks", *HUMP], rows)


def training_table():
    """The bundled pair after ever more steps of training: bounds, hump, and path KL a token."""
    rows = []
    for name, steps in LENGTHS.items():
        found = importance(name)
        bounds = [with_error(*bound, ".3f") for bound in found.held_out.bound.values()]
        values, _ = quarters(found.path(), "L")
        each = [f"{values.sum() / found.path().free_positions:.3f}", f"{values[3] / values[0]:.1f}"]
        rows.append([f"{steps:,}", *bounds, *hump_row(name), *each])
    head = ["steps of training", "bound H", "bound L", *HUMP, "path KL a token", "last quarter / first"]
    return table(head, rows)


def quarters_table():
    """Path KL by quarter of the steps."""
    head = ["pair", "trajectories", "all steps", "a token", "first quarter", "second", "third", "last"]
    rows = []
    for pair in PAIRS:
        for path in importance(pair).paths:
            values, covariance = quarters(path, "L")
            whole = with_error(values.sum(), math.sqrt(covariance.sum()))
            cells = [f"{pair}, {path.name}", f"{path.num_samples:,}", whole]
            parts = zip(values, np.sqrt(np.diag(covariance)), strict=True)
            rows.append([*cells, f"{values.sum() / path.free_positions:.3f}", *(with_error(*part) for part in parts)])
    return table(head, rows)


def held_out_path(pair, schedule):
    """Path KL as the held-out curve would have it: nats a token, the curve level beyond its first and last time."""
    curves, steps = importance(pair).held_out, ModelSchedule.parse(schedule).steps()
    moments = 1 - (np.arange(len(steps)) + 0.5) / len(steps)
    density = np.interp(moments, curves.times, curves.kl["L"].mean)
    return float((density * (np.array(steps) == "L")).sum() / len(steps))


def predicted(pair):
    """(rule, schedule, path KL, its error, held-out KL, row of the judge) of every rule, the least path KL first."""
    found = []
    for name, schedule in RULES.items():
        row = entry(pair, schedule)
        value, error = importance(pair).path().path_kl(ModelSchedule.parse(schedule))
        found.append((name, schedule, value, error, held_out_path(pair, schedule), row))
    return sorted(found, key=lambda line: line[2])


def predicted_table():
    """The order of the rules by path KL and by the judge."""
    head = ["pair", "light steps", "path KL, nats a sample", "a token", "a token, held-out curve", "loss", "place"]
    rows = []
    for pair in PAIRS:
        lines = predicted(pair)
        losses = sorted(line[5]["nll_difference"] for line in lines)
        for name, _, value, error, held_out, row in lines:
            length = importance(pair).path().free_positions
            cells = [pair, f"{name} 25 %", with_error(value, error), f"{value / length:.3f}", f"{held_out:.3f}"]
            rows.append([*cells, loss(row), str(1 + losses.index(row["nll_difference"]))])
    return table(head, rows)


def search_table(pair="sentences"):
    """The best and the worst schedules of an exhaustive search, and the rules among them."""
    head = ["rank", "tied with", "schedule", "loss", "more than the best", "path KL, nats a sample", "rank by path KL"]
    ranked = searched(pair)
    order = sorted(row["predicted_path_kl"] for row in ranked)
    rows = []
    for row in (row for row in ranked if not 6 < row["rank"] < 26 or row["schedule"] in RULES.values()):
        found = with_bounds(row["nll_difference"], row["ci95"])
        cells = [str(row["rank"]), "{} to {}".format(*row["rank_range"]), f"`{row['schedule']}`", found]
        cells += ["–" if row["rank"] == 1 else with_bounds(row["difference_to_best"], row["difference_to_best_ci95"])]
        value = row["predicted_path_kl"]
        rows.append([*cells, f"{value:.2f}", str(1 + order.index(value))])
    return table(head, rows)


def search_bundled_table():
    """The search for the bundled pair."""
    return search_table("bundled")


def shape_of(row):
    """Which of SHAPES a schedule is, or None."""
    schedule = ModelSchedule.parse(row["schedule"])
    keys = "".join(segment.key for segment in schedule.segments)
    is_quarter = schedule.counts.get("L", 0) < 0.4 * schedule.num_steps
    named = {"H": SHAPES[0], "L": SHAPES[4], "LHL": SHAPES[2 if is_quarter else 3]}
    return named.get(keys, SHAPES[1] if keys == "LH" and is_quarter else None)


def points(data):
    """(shape, number of steps, executed FLOPs a sample relative to H1000, row), the costliest first."""
    whole = entry(data, "H1000")
    unit = whole["flops"]["executed"] / whole["num_samples"]
    files = {1000: "rules"} | {steps: f"steps-{steps}" for steps in STEPS[1:]}
    found = [
        (shape_of(row), steps, row["flops"]["executed"] / row["num_samples"] / unit, row)
        for steps, name in files.items()
        for row in entries(data, name)
        if shape_of(row)
    ]
    return sorted(found, key=lambda point: -point[2])


def log_error(row):
    """Standard error of log perplexity."""
    return interval_error([math.log(end) for end in row["gen_ppl_ci95"]])


def against_heavy(data, cost, row):
    """Log perplexity less that of heavy alone at the same cost, and the most that its standard error can be.

    Heavy alone between two numbers of steps: linear in the logarithms of cost and perplexity. None where it was not
    measured at such a cost.
    """
    heavy = sorted((point[2], point[3]) for point in points(data) if point[0] == SHAPES[0])
    costs, where = [math.log(one) for one, _ in heavy], math.log(cost)
    if not costs[0] <= where <= costs[-1]:
        return None
    level = np.interp(where, costs, [math.log(one["gen_ppl"]) for _, one in heavy])
    error = np.interp(where, costs, [log_error(one) for _, one in heavy])
    return math.log(row["gen_ppl"]) - float(level), log_error(row) + float(error)


def frontier_table():
    """Perplexity and cost of every shape and number of steps."""
    columns = "cost", "perplexity", "− heavy alone at this cost"
    head = ["schedule", "steps", *(f"{data}: {name}" for data in SETS for name in columns)]
    others = {point[:2]: point for point in points("sentences")}
    rows = []
    for point in points("longform"):
        cells = [point[0], str(point[1])]
        for data, (shape, _, cost, row) in zip(SETS, (point, others[point[:2]]), strict=True):
            found = None if shape == SHAPES[0] else against_heavy(data, cost, row)
            apart = "**" if found and is_told_apart(*found) else ""
            cells += [f"{cost:.2f}", perplexity(row), f"{apart}{signed(*found)}{apart}" if found else "–"]
        rows.append(cells)
    return table(head, rows)


def temperature_table():
    """Quality at equal entropy over temperatures."""
    head = ["schedule", "temperature", "perplexity", "entropy", "loss", "loss at equal entropy"]
    rows = []
    for row in entries("sentences", "temperature"):
        found, entropy = row["frontier_difference"], f"{row['entropy']:.3f} ± {row['entropy_se']:.3f}"
        cells = [f"`{row['schedule']}`", f"{row['temperature']:g}", perplexity(row), entropy, loss(row)]
        rows.append([*cells, "–" if found is None else with_bounds(found, row["frontier_difference_ci95"])])
    return table(head, rows)


def frontier_picture():
    """Perplexity against executed FLOPs, a line per shape through its numbers of steps."""
    figure = new_figure((11, 4.6))
    for axes, data in zip(figure.subplots(1, 2), SETS, strict=True):
        for index, shape in enumerate(SHAPES):
            own = [point for point in points(data) if point[0] == shape]
            levels = [row["gen_ppl"] for *_, row in own]
            ends = [[abs(end - row["gen_ppl"]) for end in row["gen_ppl_ci95"]] for *_, row in own]
            costs = [point[2] for point in own]
            style = {"color": LINES[index], "capsize": 2.5, "elinewidth": 1, "markersize": 5, "label": shape}
            axes.errorbar(costs, levels, yerr=list(zip(*ends, strict=True)), fmt=MARKERS[index] + "-", **style)
            for _, steps, cost, row in own if index == 0 else ():
                place = {"xytext": (0, -13), "textcoords": "offset points", "ha": "center"}
                axes.annotate(str(steps), (cost, row["gen_ppl_ci95"][0]), fontsize=8, color=INK, **place)
        axes.set(xlim=(0, 1.06), xlabel="executed FLOPs a sample, relative to H1000")
        axes.set_title(data, loc="left", fontsize=10.5, color=INK)
        axes.grid(axis="y", color=GRID, linewidth=0.5)
        clean(axes)
    figure.axes[0].set_ylabel("judge perplexity (lower: less surprising)", color=INK)
    figure.axes[1].legend(frameon=False, fontsize=9)
    return png_bytes(figure)


def importance_picture():
    """KL per masked token on held-out text, and on the heavy models' own trajectories, of the three pairs."""
    figure = new_figure((11, 4.3))
    held_out, own = figure.subplots(1, 2, sharey=True)
    for index, pair in enumerate(PAIRS, 1):
        found = importance(pair)
        curve, path = found.held_out.kl["L"], found.path()
        draw_band(held_out, found.held_out.times, curve, index, f"{pair} ({found.held_out.num_blocks} blocks)")
        scale = np.diff(path.bins) / path.num_steps * path.free_positions
        density = Curve(path.bin_means[0] / scale, np.sqrt(np.diag(path.covariance)) / scale)
        centres = 1 - (path.bins[:-1] + path.bins[1:]) / 2 / path.num_steps
        draw_band(own, centres, density, index, f"{pair} ({path.num_samples} trajectories)")
    held_out.set_title("Held-out text", loc="left", fontsize=10.5, color=INK)
    own.set_title("The heavy model's own trajectories: density of path KL", loc="left", fontsize=10.5, color=INK)
    held_out.set_ylabel("KL(H ‖ L), nats per masked token", color=INK)
    for axes in (held_out, own):
        axes.set(xlim=(1, 0), ylim=(0, 0.8))
        axes.set_xticks([1, 0.75, 0.5, 0.25, 0], ["t = 1\nall masked", "0.75", "0.5", "0.25", "t = 0\nclean"])
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        clean(axes)
    return png_bytes(figure)


def draw_band(axes, times, curve, index, label):
    """A curve with two standard errors on either side."""
    axes.plot(times, curve.mean, color=LINES[index], linewidth=1.8, label=label)
    low, high = curve.mean - 2 * curve.error, curve.mean + 2 * curve.error
    axes.fill_between(times, low, high, color=LINES[index], alpha=0.2, linewidth=0)


MAKERS = (rules_table, early_table, late_table, middle_table, eighths_table, sandwich_table, diversity_table)
MAKERS += (prefix_table, pairs_table, hump_table, training_table, quarters_table, predicted_table, search_table)
MAKERS += (search_bundled_table, frontier_table, temperature_table)
TABLES = {make.__name__.removesuffix("_table"): make for make in MAKERS}

if __name__ == "__main__":
    main()
