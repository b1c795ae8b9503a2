"""What docs/study.md shows is what the files under results/study hold: tables, verdicts, every number in the prose."""

import re
from pathlib import Path

import numpy as np
import pytest

from scripts import benchmark
from understudy import ModelSchedule

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
RECIPE = (ROOT / "recipes" / "study.sh").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
study, files = benchmark("study_tables"), benchmark("study_files")
SETS, RULES, HALVES = files.SETS, files.RULES, files.HALVES


def loss_of(data, schedule, name="rules"):
    return files.entry(data, schedule, name)["nll_difference"]


def contrast(data, one, other, rules=RULES, name="rules"):
    return files.contrast(files.entry(data, rules[one], name), files.entry(data, rules[other], name))


def is_apart(*arguments, **options):
    value, error = contrast(*arguments, **options)
    return value > 0 and files.is_told_apart(value, error)


@pytest.mark.parametrize("name", study.TABLES)
def test_tables_are_their_files(name):
    assert f"<!-- table: {name} -->\n{study.TABLES[name]()}\n<!-- end -->" in PAGE


def test_filling_the_page_again_changes_nothing():
    assert study.filled(PAGE) == PAGE
    assert set(re.findall(r"<!-- table: (\w+) -->", PAGE)) == set(study.TABLES)


@pytest.mark.parametrize("make", [study.frontier_picture, study.importance_picture])
def test_pictures_can_be_drawn(make):
    assert make().startswith(b"\x89PNG")


def test_lines_are_short():
    assert [line for line in PAGE.splitlines() if len(line) > 120 and not line.startswith("|")] == []


# Numbers in the prose, each computed.


def tokens_seen(data):
    steps = int(re.search(rf"\[{data}\]=\$\{{{data.upper()}_STEPS:-(\d+)\}}", RECIPE)[1])
    sizes = {name: int(re.search(rf"\b{name}=\(.*?\[{data}\]=(\d+)", RECIPE)[1]) for name in ("LENGTH", "TRAIN_BATCH")}
    return steps * sizes["LENGTH"] * sizes["TRAIN_BATCH"]


def setup():
    bounds = {data: [pair[0] for pair in files.importance(data).held_out.bound.values()] for data in SETS}
    shapes = {data: [model["shape"] for model in files.importance(data).models.values()] for data in SETS}
    for first, second in shapes.values():
        assert (first["blocks"], second["blocks"], first["width"]) == (12, 4, second["width"])
        assert first["vocab_size"] == 8192
    width = {data: first["width"] for data, (first, _) in shapes.items()}
    tokens = {data: f"{tokens_seen(data) / 1e9:.2f} G tokens" for data in SETS}
    long, short = bounds["longform"], bounds["sentences"]
    yield f"longform: width {width['longform']}, {tokens['longform']}, bounds {long[0]:.3f} and {long[1]:.3f} nats"
    yield f"sentences: width {width['sentences']}, {tokens['sentences']}, bounds {short[0]:.3f} and {short[1]:.3f}."
    bundled = files.read("bundled-models.json")["models"]["heavy"]
    assert bundled["config"]["steps"] == files.LENGTHS["bundled"]
    shape = files.importance("bundled").models["H"]["shape"]
    yield (
        f"width {shape['width']}, vocabulary {shape['vocab_size']:,}, length "
        f"{files.importance('bundled').held_out.length}, {bundled['tokens'] / 1e9:.2f} G tokens"
    )
    judge = int(re.search(r"JUDGE_STEPS:-(\d+)", RECIPE)[1]) * 256 * 256
    assert "--objective ar --hidden-size 384 --heads 6 --blocks 6" in RECIPE
    yield f"6 blocks of width 384, {judge / 1e6:.0f} M tokens"
    lengths = [files.read(f"study/{data}/rules.json")["length"] for data in SETS]
    assert lengths == [256, 128]
    yield f"blocks of {lengths[0]} tokens"
    yield f"blocks of {lengths[1]} tokens"


def samples():
    counted = {
        name: [files.read(f"study/{data}/{name}.json")["num_samples"] for data in SETS] for name in ("rules", "prefix")
    }
    counted |= {f"steps-{steps}": [len_of(data, f"steps-{steps}") for data in SETS] for steps in study.STEPS[1:]}
    assert {tuple(counts) for name, counts in counted.items() if name != "prefix"} == {(4096, 4096)}
    search = files.read("study/sentences/search.json")["settings"]["num_samples"]
    assert search == len_of("sentences", "temperature")
    yield "4,096 a schedule; {:,} and {:,} with prefixes; ".format(*counted["prefix"]) + f"{search:,} in the search"
    assert files.read("study/bundled/search.json")["settings"]["num_samples"] == search
    assert len_of("bundled", "rules") == 4096
    cards = [files.read(f"study/{pair}/rules.json")["environment"]["cuda_device"] for pair in files.PAIRS]
    assert cards == ["NVIDIA H200", "NVIDIA H200", "NVIDIA H100 80GB HBM3"]
    for rules, saved in ((RULES, "16.7 %"), (HALVES, "33.3 %")):
        rows = [files.entry(data, schedule)["flops"] for data in SETS for schedule in rules.values()]
        assert {f"{100 * row['nominal_blocks_saved']:.1f} %" for row in rows} == {saved}
        executed = {f"{100 * row['schedule_saved']:.0f} %" for row in rows}
        assert len(executed) == 1
        yield saved
        yield executed.pop()


def len_of(data, name):
    return files.read(f"study/{data}/{name}.json")["num_samples"]


def percent(value):
    return f"{100 * value:.0f} %"


def early_and_late():
    first = [files.share(data, RULES["first"]) for data in SETS]
    assert all(high < 0.25 for *_, high in first)
    places = {"rules": RULES["first"], "steps-500": "L125,H375", "steps-250": "L63,H187", "steps-125": "L31,H94"}
    assert not any(
        files.entry(data, schedule, name)["within_noise"] for data in SETS for name, schedule in places.items()
    )
    yield f"takes {percent(first[0][0])} and {percent(first[1][0])} of light alone's loss, less than its share"
    half = [files.share(data, HALVES["first"])[0] for data in SETS]
    yield f"the first half takes {percent(half[0])} and {percent(half[1])}."
    last = [files.share(data, RULES["last"]) for data in SETS]
    assert all(low >= 0.25 for _, low, _ in last)
    times = [loss_of(data, RULES["last"]) / loss_of(data, RULES["first"]) for data in SETS]
    assert all(is_apart(data, "last", "first", rules) for data in SETS for rules in (RULES, HALVES))
    yield (
        f"The last quarter takes {percent(last[0][0])} and {percent(last[1][0])} of light alone's loss, no less than "
        f"its share, and {times[0]:.1f} and {times[1]:.1f} times the loss of the first quarter"
    )


def middle():
    for data in SETS:
        assert all(is_apart(data, "middle", one, rules) for one in ("first", "sandwich") for rules in (RULES, HALVES))
        assert is_apart(data, "middle", "last") == is_apart(data, "middle", "last", HALVES) == (data == "sentences")
    yield f"it loses {contrast('sentences', 'middle', 'last')[0]:.3f} more on sentences, told apart"
    both = ["{:.3f} ± {:.3f}".format(*contrast("longform", "middle", "last", rules)) for rules in (RULES, HALVES)]
    yield f"the difference is {both[0]} at 25 % and {both[1]} at 50 %"
    ranked, means = study.searched(), [value for value, _ in study.eighths()]
    assert len(ranked) == 28
    assert {sum(row["segments"][index] == "L" for row in ranked) for index in range(8)} == {7}
    yield "28 schedules with two of eight segments light"
    assert sorted(np.argsort(means)[-2:]) == [3, 4]
    others = [value for value, _ in study.eighths("bundled")]
    assert sorted(np.argsort(others)[-2:]) == [4, 5]
    for found in (means, others):
        assert found[0] == min(found)
        assert max(found) - found[-1] < found[-1] - found[0]
    yield "highest in the fourth and fifth eighth; for the bundled pair the highest are the fifth and sixth"


def sandwich():
    found = {data: [values[data] for *_, values in study.sandwich_contrasts()] for data in SETS}
    assert [sum(value > 0 for value, _ in found[data]) for data in SETS] == [5, 4]
    assert not any(files.is_told_apart(*pair) for pairs in found.values() for pair in pairs)
    yield "lower estimate in all five longform comparisons and four of the five on sentences; none is told apart"
    assert is_apart("sentences", "last", "sandwich")
    assert not is_apart("longform", "last", "sandwich")
    yield "by {:.3f} ± {:.3f}, just not told apart".format(*contrast("longform", "last", "sandwich"))
    best, second, *others = study.searched()
    assert (best["schedule"], second["schedule"]) == (RULES["sandwich"], RULES["first"])
    assert all(row["difference_to_best_ci95"][0] > 0 for row in others)
    assert all(row["segments"][0] == "L" for row in study.searched()[:7])
    low, high = second["difference_to_best_ci95"]
    yield f"light first second, {second['difference_to_best']:.3f} [−{-low:.3f}, +{high:.3f}] behind"
    best, second, *others = study.searched("bundled")
    assert (best["schedule"], second["schedule"]) == (RULES["first"], RULES["sandwich"])
    assert all(row["difference_to_best_ci95"][0] > 0 for row in (second, *others))
    assert all(row["segments"][0] == "L" for row in study.searched("bundled")[:7])
    yield "by {:.3f} [{:.3f}, {:.3f}]".format(second["difference_to_best"], *second["difference_to_best_ci95"])


def diversity():
    by_data = {data: {row["schedule"]: row for row in files.entries(data, "rules")} for data in SETS}
    gaps = {
        data: [row["entropy"] - rows["H1000"]["entropy"] for row in rows.values()] for data, rows in by_data.items()
    }
    assert min(map(min, gaps.values())) > -0.001
    yield f"by more than 0.001; light alone has {gaps['longform'][-1]:.3f} and {gaps['sentences'][-1]:.3f} more"
    for rows in by_data.values():
        heavy, light = rows["H1000"], rows["L1000"]
        for row in rows.values():
            errors = row["repetition_se"] + heavy["repetition_se"]
            assert row["repetition"] - heavy["repetition"] < files.NORMAL_95 * errors
            assert abs(row["distinct_2"] - heavy["distinct_2"]) < 0.01
            assert abs(row["self_bleu"] - heavy["self_bleu"]) < 0.3
        errors = light["ngram_overlap_se"] + heavy["ngram_overlap_se"]
        assert files.is_told_apart(light["ngram_overlap"] - heavy["ngram_overlap"], errors)
    ends = {data: (rows["H1000"], rows["L1000"]) for data, rows in by_data.items()}
    yield "from {:.1f} to {:.1f} with light alone".format(*(1e4 * row["repetition"] for row in ends["longform"]))
    overlap = ["from {:.1f} to {:.1f}".format(*(1e4 * row["ngram_overlap"] for row in rows)) for rows in ends.values()]
    yield f"falls too, {overlap[0]} and {overlap[1]}"


def prefixes():
    settings = [files.read(f"study/{data}/prefix.json")["settings"]["prefix_length"] for data in SETS]
    yield f"{settings[0]} tokens of a document, or {settings[1]} of a sentence"
    count = 0
    for data in SETS:
        _, *rows = files.entries(data, "prefix")
        for row in rows:
            value, error = files.contrast(row, files.entry(data, row["schedule"]))
            assert value > 0
            assert not files.is_told_apart(value, error)
            count += 1
        order = sorted(RULES, key=lambda name: loss_of(data, RULES[name], "prefix"))
        assert (set(order[:2]), order[2:]) == ({"first", "sandwich"}, ["last", "middle"])
        assert is_apart(data, "last", "first", name="prefix")
        assert is_apart(data, "middle", "last", name="prefix") == (data == "sentences")
    assert count == 10
    yield "none of the ten told apart from it"


def pairs():
    for pair in files.PAIRS:
        losses = {name: loss_of(pair, schedule) for name, schedule in RULES.items()}
        assert max(losses["first"], losses["sandwich"]) < min(losses["last"], losses["middle"])
    assert not is_apart("bundled", "middle", "last")
    yield "(middle − last {:.3f} ± {:.3f}, another judge)".format(*contrast("bundled", "middle", "last"))


def quarters_of(pair):
    return study.quarters(files.importance(pair).path(), "L")[0]


def humps():
    verdicts = {pair: files.is_told_apart(*files.hump(pair)) for pair in files.PAIRS}
    assert verdicts == {"longform": True, "sentences": False, "bundled": False}
    top = {}
    for pair in files.PAIRS:
        curves = files.importance(pair).held_out
        top[pair] = curves.times[curves.kl["L"].mean.argmax()]
    yield f"highest at t = {top['longform']:.2f}: " + "{:.3f} ± {:.3f} above".format(*files.hump("longform"))
    yield f"at t = {top['sentences']:.2f}, but " + "{:.3f} ± {:.3f} is within noise".format(*files.hump("sentences"))
    yield "so has the bundled pair, with {:.3f} ± {:.3f}".format(*files.hump("bundled"))
    found = [files.hump(name) for name in files.LENGTHS]
    assert [value for value, _ in found] == sorted(value for value, _ in found)
    for name in list(files.LENGTHS)[:2]:
        assert files.importance(name).held_out.kl["L"].mean.argmax() == 0
    change, error = found[-1][0] - found[0][0], found[-1][1] + found[0][1]
    assert files.is_told_apart(change, error)
    yield f"by {change:.3f} ± {error:.3f} in all, told apart"
    ratios = [values[3] / values[0] for values in (quarters_of(name) for name in files.LENGTHS)]
    yield "quarter costs {:.1f}, then {:.1f}, then {:.1f} times the first".format(*ratios)
    times = []
    for pair in files.PAIRS:
        path = files.importance(pair).path()
        tenths = path.per_step[0].cumsum()[np.round(np.linspace(0, path.num_steps, 11)[1:]).astype(int) - 1]
        assert np.all(np.diff(np.diff(tenths, prepend=0)) > 0), pair
        times.append(quarters_of(pair)[3] / quarters_of(pair)[0])
    yield f"The last quarter costs {times[0]:.1f} and {times[1]:.1f} times the first"


def planned():
    for pair in files.PAIRS:
        lines = study.predicted(pair)
        assert [name for name, *_ in lines] == ["first", "sandwich", "middle", "last"]
        assert lines == sorted(lines, key=lambda line: line[4])
        by_judge = [name for name, *_ in sorted(lines, key=lambda line: line[5]["nll_difference"])]
        assert by_judge == ["first", "sandwich", "last", "middle"]
        assert is_apart(pair, "middle", "last") == (pair == "sentences")
    for data in files.PAIRS:
        curve = files.importance(data).held_out
        density = np.interp(1 - (np.arange(1000) + 0.5) / 1000, curve.times, curve.kl["L"].mean)
        assert density[:250].max() < density[250:].min()
    plans = {
        tuple(files.read(f"study/{data}/{name}.json")["schedule"] for name in ("plan", "plan-half"))
        for data in files.PAIRS
    }
    assert plans == {(RULES["first"], HALVES["first"])}
    bounds = [files.read(f"study/{data}/plan.json")["prediction"]["path_kl"] for data in SETS]
    assert all(files.read(f"study/{data}/plan.json")["certificate"]["total_variation"] == 1 for data in SETS)
    yield f"With {bounds[0]:.2f} and {bounds[1]:.2f} nats a sample even for the first quarter"
    yield "it gives `{}` and `{}`".format(*plans.pop())
    search = files.read("study/sentences/search.json")
    planner, spearman = search["planner"], search["correlations"]["spearman"]
    assert planner["rank_range"][0] == 1
    yield f"rank {planner['rank']} of {planner['num_ranked']}, tied with the best"
    yield "{:.2f} [{:.2f}, {:.2f}] on sentences".format(spearman["value"], *spearman["ci95"])
    search = files.read("study/bundled/search.json")
    planner, spearman = search["planner"], search["correlations"]["spearman"]
    assert planner["rank_range"] == [1, 1]
    yield f"rank {planner['rank']} of {planner['num_ranked']}, ahead of all others beyond noise"
    yield "{:.2f} [{:.2f}, {:.2f}] for the bundled pair (Spearman)".format(spearman["value"], *spearman["ci95"])
    yield "on sentences by {:.3f} ± {:.3f}".format(*contrast("sentences", "first", "sandwich", HALVES))
    yield "on longform by {:.3f} ± {:.3f}".format(*contrast("longform", "sandwich", "first", HALVES))


def fewer_steps():
    found = []
    for data in SETS:
        for shape, _, cost, row in study.points(data):
            if shape != study.SHAPES[0] and (pair := study.against_heavy(data, cost, row)):
                found.append(pair)
    assert all(value > 0 for value, _ in found)
    log = " ".join((ROOT / "docs" / "log.md").read_text(encoding="utf-8").split())
    assert f"none of {len(found)} schedules lies below the heavy model alone" in log
    yield f"All {len(found)} schedules at a cost between two heavy runs lie above heavy alone"
    yield f"alone, {sum(files.is_told_apart(*pair) for pair in found)} of them told apart"
    at = {(data, point[3]["schedule"]): point for data in SETS for point in study.points(data)}
    cost = {key: f"{point[2]:.2f}" for key, point in at.items()}
    level = {key: f"{point[3]['gen_ppl']:.1f}" for key, point in at.items()}
    one, other, light = (("longform", schedule) for schedule in ("H250", "L250,H750", "L31,H94"))
    yield (
        f"`H250` has {cost[one]} of the cost of `H1000` and perplexity {level[one]}; `L250,H750` has {cost[other]} and "
        f"{level[other]}"
    )
    halved = [f"{level[data, 'H500']} against {level[data, 'H1000']} on {data}" for data in SETS]
    assert all(abs(np.log(float(level[data, "H500"]) / float(level[data, "H1000"]))) < 0.005 for data in SETS)
    yield ", ".join(halved)
    yield f"({cost['longform', 'H125']} and {cost['sentences', 'H125']})"
    yield f"`L31,H94` has {cost[light]} and {level[light]} on longform"
    yield f"{cost['sentences', 'L31,H94']} and {level['sentences', 'L31,H94']} on sentences"
    yield f"of nominal blocks `H250` saves {percent(1 - 250 / 1000)} and `L250,H750` 16.7 %"
    orders = {
        tuple(
            shape
            for _, shape in sorted((row["gen_ppl"], shape) for shape, one, _, row in study.points(data) if one == steps)
        )
        for data in SETS
        for steps in study.STEPS
    }
    assert orders == {study.SHAPES}
    seconds = {schedule: at["longform", schedule][3]["seconds"] for schedule in ("H1000", "L250,H750", "H250")}
    yield "took {:.1f} with `H1000`, {:.1f} with `L250,H750` and {:.1f} with `H250`".format(*seconds.values())


def temperatures():
    rows = [row for row in files.entries("sentences", "temperature") if row["frontier_difference"] is not None]
    assert all(row["frontier_difference_ci95"][0] > 0 for row in rows)
    ends = {}
    for name in ("L125,H750,L125", "L1000"):
        values = [row["frontier_difference"] for row in rows if row["schedule"] == name]
        ends[name] = f"{min(values):.3f} to {max(values):.3f}"
    yield f"the sandwich loses {ends['L125,H750,L125']}, beyond noise at every temperature"
    yield f"light alone {ends['L1000']}"


STATEMENTS = [setup, samples, early_and_late, middle, sandwich, diversity, prefixes, pairs, humps, planned, fewer_steps]
STATEMENTS += [temperatures]


@pytest.mark.parametrize("statements", STATEMENTS)
def test_what_the_page_says_is_what_the_files_hold(statements):
    for statement in statements():
        assert statement in TEXT


def test_schedules_of_the_page_are_schedules():
    for text in re.findall(r"`([HL]\d[\dHL,]*)`", PAGE):
        assert ModelSchedule.parse(text).num_steps in study.STEPS


def test_sources_of_the_page_are_there():
    for source in re.findall(r"`((?:results|recipes|benchmarks)/[\w./-]+)`", PAGE):
        assert (ROOT / source).exists(), source
