import json
import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from driving import finish
from stage import make_judge, make_pair, make_tokenizer
from understudy.errors import DataError, ScheduleError, SettingError
from understudy.evaluation import compare_schedules
from understudy.importance import Importance, PathDivergence
from understudy.metrics import PairedDifference
from understudy.metrics.student import student_quantile
from understudy.record_journal import RecordJournal
from understudy.report.search_figure import paired_key, render_search
from understudy.report.search_reading import summarise_search
from understudy.schedule import ModelSchedule
from understudy.search import (
    MAX_SCHEDULES,
    PlannerRank,
    SearchResult,
    SearchSettings,
    SearchSpace,
    drop_behind,
    kendall,
    load,
    round_sizes,
    search_schedules,
    spearman,
)
from understudy.search.correlation import average_ranks
from understudy.search.ranking import rank_ranges, ranking_order
from understudy.search.scores import MeasuredSamples

SPACE = SearchSpace.light_and_heavy(8, 4, 2)
SETTINGS = SearchSettings(num_samples=6, length=8, seed=3, chunk=4, batch_size=4)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def judge(tokenizer):
    return make_judge(tokenizer)


@pytest.fixture(scope="module")
def pair(tokenizer):
    return make_pair(tokenizer)


@pytest.fixture(scope="module")
def twins(pair):
    return {"H": pair["H"], "L": pair["H"]}


def search(denoisers, judge, settings=SETTINGS, **options):
    return finish(search_schedules(denoisers, SPACE, judge, settings, **options))[1]


@pytest.fixture(scope="module")
def searched(pair, judge):
    return search(pair, judge)


def document(result):
    """What must not depend on the run: all but the time taken."""
    content = result.to_dict()
    for row in content["schedules"]:
        del row["seconds"]
    return json.dumps(content, sort_keys=True, allow_nan=False)


def importance(steps=8, keys=("L",), noise="loglinear", reference="H", length=8, free=None, digests=None):
    """An analysis in which a light step of the k-th quarter adds 4, 3, 2, 1 to the path KL."""
    weights = (4.0, 3.0, 2.0, 1.0)
    per_step = np.repeat(np.array(weights), steps // 4)[None].repeat(len(keys), axis=0)
    means = per_step.reshape(len(keys), 4, -1).sum(axis=2)
    bins = np.arange(5) * (steps // 4)
    variances = np.full_like(per_step, 4 / steps)
    errors = np.eye(4 * len(keys))
    place = (steps, length, length if free is None else free)
    path = PathDivergence("unconditional", *place, 10, keys, per_step, variances, bins, means, errors)
    models = {key: {"sha256": digest} for key, digest in (digests or {}).items()}
    return Importance(reference, models, noise, None, (path,))


# The space.


def test_the_default_space_is_the_papers():
    space = SearchSpace.light_and_heavy(1000)
    schedules = space.schedules()
    assert len(space) == len(schedules) == len(set(schedules.values())) == math.comb(8, 2) == 28
    assert space.segment_lengths == (125,) * 8
    assert schedules["LHHHHHHL"] == ModelSchedule.sandwich(1000, 0.25)
    assert {schedule.counts["L"] for schedule in schedules.values()} == {250}
    assert all(space.pattern_of(schedule) == pattern for pattern, schedule in schedules.items())


@pytest.mark.parametrize("counts", [{"H": 3, "L": 1}, {"A": 2, "B": 2, "C": 1}, {"x": 3}, {"L": 1, "H": 4}])
def test_every_order_comes_once(counts):
    space = SearchSpace(23, counts)
    letters = "".join(key * count for key, count in counts.items())
    assert sorted(space.patterns) == sorted({"".join(order) for order in permutations(letters)})
    assert len(space) == len(space.patterns)
    for pattern, schedule in space.schedules().items():
        assert schedule.num_steps == 23 == sum(space.segment_lengths)
        assert space.holds_cost_of(schedule)
        assert space.pattern_of(schedule) == pattern


def test_schedules_know_whether_they_fit_the_space():
    space = SearchSpace.light_and_heavy(16, 4, 2)
    assert space.pattern_of(ModelSchedule.parse("L3,H8,L5")) is None
    assert space.pattern_of(ModelSchedule.parse("H16")) == "HHHH"
    assert space.holds_cost_of(ModelSchedule.parse("L3,H8,L5"))
    assert not space.holds_cost_of(ModelSchedule.parse("L3,H9,L4"))
    assert not space.holds_cost_of(ModelSchedule.parse("H16"))
    assert not space.holds_cost_of(ModelSchedule.parse("L4,H4"))
    assert space.rule("sandwich", "H") == ModelSchedule.parse("L4,H8,L4")
    assert space.rule("first", "L") == ModelSchedule.parse("H8,L8")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchSpace(1000, {"H": 8, "L": 8}), f"make 12870 schedules; at most {MAX_SCHEDULES}"),
        (lambda: SearchSpace(4, {"H": 3, "L": 2}), "5 segments do not fit into 4 steps"),
        (lambda: SearchSpace(4, {"H": 3, "L": 0}), "H 3, L 0; give each key at least one"),
        (lambda: SearchSpace(4, {}), "shared out as nothing"),
        (lambda: SearchSpace.light_and_heavy(8, 8, 8), "8 of 8 segments are light"),
        (lambda: SearchSpace.light_and_heavy(8, 8, 0), "0 of 8 segments are light"),
        (lambda: SPACE.rule("best", "H"), "'best' names no rule"),
        (lambda: SearchSpace(9, {"A": 1, "B": 1, "C": 1}).rule("first", "A"), "names no rule for models A, B, C"),
        (lambda: SearchSettings(num_samples=1), "num_samples is 1; a search needs at least 2"),
        (lambda: SearchSettings(chunk=0), "chunk is 0"),
        (lambda: SearchSettings(confidence=1.0), "confidence is 1.0"),
        (lambda: SearchSettings(halving="best"), "must be confident or half"),
        (lambda: SearchSettings(halving="half", num_samples=8), "begins with 8 samples and ends with 8"),
        (lambda: SearchSettings(first_round=4), "without a halving rule"),
    ],
)
def test_what_makes_no_search_is_refused(make, message):
    with pytest.raises(SettingError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_key_is_a_letter():
    with pytest.raises(ScheduleError, match="'HH' is not a key"):
        SearchSpace(8, {"HH": 1})


# Statistics.


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    # Tables of Student's law; for one and two degrees the closed forms tan and (2p − 1)/√(2p(1 − p)).
    [(0.975, 10, 2.228), (0.975, 7, 2.365), (0.95, 30, 1.697), (0.999, 5, 5.893), (0.9995, 120, 3.373)]
    + [(p, 1, math.tan(math.pi * (p - 0.5))) for p in (0.75, 0.99, 0.99999)]
    + [(p, 2, (2 * p - 1) / math.sqrt(2 * p * (1 - p))) for p in (0.75, 0.99, 0.99999)],
)
def test_students_quantiles(probability, degrees, expected):
    assert student_quantile(probability, degrees) == pytest.approx(expected, rel=2.5e-4)


def test_students_quantile_at_its_ends():
    assert student_quantile(0.5, 3) == pytest.approx(0, abs=1e-9)
    with pytest.raises(SettingError, match="take more samples"):
        student_quantile(0.9, 0)


def test_equal_values_share_their_ranks():
    assert average_ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]


def test_rank_correlations_by_hand():
    # Pairs of (1,2) (2,1) (3,4) (4,3): 4 of 6 in the same order, 2 opposite; Σd² = 4.
    assert kendall([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(2 / 6)
    assert spearman([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(1 - 6 * 4 / (4 * 15))
    # One tie in the first: 6 pairs, 5 untied there; of these 4 agree and 1 does not.
    assert kendall([1, 1, 2, 3], [1, 2, 4, 3]) == pytest.approx((4 - 1) / math.sqrt(5 * 6))
    # Ranks 1.5, 1.5, 3, 4 and 1, 2, 4, 3: Σab = 3.5 over √(4.5·5).
    assert spearman([1, 1, 2, 3], [1, 2, 4, 3]) == pytest.approx(3.5 / math.sqrt(4.5 * 5))
    for measure in (spearman, kendall):
        assert measure([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
        assert measure([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
        assert measure([1, 1, 1], [3, 2, 1]) is None


# Ranks and halving, on numbers made up.


def measured(nlls, *, tokens=10):
    """One schedule with the given mean NLLs of its samples."""
    sums = np.array(nlls, dtype=np.float64) * tokens
    count = len(sums)
    return MeasuredSamples(sums, np.full(count, tokens), np.ones(count), {"H": count}, 1.0)


BASE = np.array([3.0, 3.5, 2.5, 4.0, 3.2, 2.9, 3.8, 3.1])
NOISE = np.array([0.5, -0.6, 0.4, -0.5, 0.6, -0.4, 0.5, -0.5])


def test_ties_share_their_ranks():
    tables = {
        "far": measured(BASE + 1),
        "best": measured(BASE),
        "near": measured(BASE + 0.01 + NOISE),
        "farther": measured(BASE + 1.01 + NOISE),
        "dropped": measured(BASE[:4] - 1),
    }
    order = ranking_order(tables, measured(BASE))
    assert order == ["best", "near", "far", "farther", "dropped"]
    del tables["dropped"]
    assert rank_ranges(order[:-1], tables) == {"best": (1, 2), "near": (1, 2), "far": (3, 4), "farther": (3, 4)}


def test_rounds_double():
    assert round_sizes(16, None) == (16,)
    assert round_sizes(16, "half") == (8, 16)
    assert round_sizes(1024, "confident") == (128, 256, 512, 1024)
    assert round_sizes(100, "half", 2) == (2, 4, 7, 13, 25, 50, 100)


@pytest.mark.parametrize("rule", ["confident", "half"])
def test_halving_keeps_the_best(rule):
    offsets = np.random.default_rng(0).permutation(9) / 10
    tables = {f"s{index}": measured(BASE + offset) for index, offset in enumerate(offsets)}
    drops = drop_behind(tables, rule, number=1, num_rounds=3, confidence=0.95)
    best = f"s{int(offsets.argmin())}"
    assert best not in drops
    # Without noise any difference is beyond it; the better half of nine is five.
    assert len(drops) == (8 if rule == "confident" else 4)
    for name, drop in drops.items():
        difference = float(offsets[int(name[1:])] - offsets.min())
        assert drop.nll_difference == pytest.approx(difference)
        assert drop.interval == pytest.approx((difference, difference))
        assert (drop.best, drop.round, drop.num_samples, drop.rule) == (best, 1, 8, rule)
        assert drop.end_confidence == pytest.approx(1 - 0.05 / (8 * 2))
        assert f"to {best} on 8 samples" in drop.reason
        assert ("worse than the best beyond 99.688%" if rule == "confident" else "better half of 9") in drop.reason


def test_the_rules_differ_within_noise():
    tables = {"best": measured(BASE), "noisy": measured(BASE + 0.05 + NOISE), "worse": measured(BASE + 0.2)}
    confident = drop_behind(tables, "confident", number=1, num_rounds=2, confidence=0.95)
    half = drop_behind(tables, "half", number=1, num_rounds=2, confidence=0.95)
    assert (list(confident), list(half)) == (["worse"], ["worse"])
    tables["worst"] = measured(BASE + 0.3)
    tables["noisier"] = measured(BASE + 0.4 + 3 * NOISE)
    assert "noisier" not in drop_behind(tables, "confident", number=1, num_rounds=2, confidence=0.95)
    drop = drop_behind(tables, "half", number=1, num_rounds=2, confidence=0.95)["noisier"]
    assert drop.interval[0] < 0 < drop.interval[1]
    assert "within noise" in drop.reason


def test_equal_schedules_are_dropped_by_halves_only():
    tables = {name: measured(BASE) for name in "abcd"}
    assert drop_behind(tables, "confident", number=1, num_rounds=2, confidence=0.95) == {}
    assert list(drop_behind(tables, "half", number=1, num_rounds=2, confidence=0.95)) == ["c", "d"]


def test_confident_halving_seldom_loses_the_best():
    """Ten schedules whose true differences are 0 or 0.1: the best is lost in at most 5 % of searches.

    100 searches; were the rate 5 %, more than 12 losses would come with a probability below 0.002.
    """
    generator, lost = np.random.default_rng(1), 0
    for _ in range(100):
        noise = generator.normal(size=(10, 8))
        tables = {f"s{index}": measured(BASE + 0.1 * (index > 0) + row) for index, row in enumerate(noise)}
        lost += "s0" in drop_behind(tables, "confident", number=1, num_rounds=2, confidence=0.95)
    assert lost <= 12


# The search.


def test_a_search_measures_what_a_comparison_does(pair, judge):
    result = search(pair, judge)
    schedules = ["H8", *map(str, SPACE.schedules().values())]
    _, comparison = finish(compare_schedules(pair, schedules, judge, num_samples=6, length=8, seed=3))
    for entry in comparison.entries:
        found = result.entry(str(entry.result.schedule))
        assert found.nll_difference.difference == pytest.approx(entry.nll_difference.difference, abs=1e-6)
        assert found.gen_ppl == pytest.approx(entry.scores.gen_ppl, rel=1e-5)
        assert found.entropy == pytest.approx(entry.scores.entropy)
        assert (found.nfe, found.flops) == (entry.result.nfe, entry.result.flops.to_dict())
    assert [entry.rank for entry in result.entries] == [1, 2, 3, 4, 5, 6, None]
    differences = [entry.nll_difference.difference for entry in result.ranked]
    assert differences == sorted(differences)
    assert result.entries[-1].nll_difference == PairedDifference(0.0, 0.0, 0.0)
    assert (result.reference, result.entries[-1].origins) == ("H8", ("reference",))


AGREEING = {
    # Which of ranks 2 to 6 can be told from the first (1), and the end of what is said of those that cannot.
    "00000": "all 5 others cannot be told from it: within noise, which does not mean equal.",
    "00111": "2 of 5 others cannot be told from it: within noise, which does not mean equal.",
    "00101": "3 of 5 others cannot be told from it: within noise, which does not mean equal. "
    "They are its tie, ranks 2-3, and 1 further down, behind rank 4, which can be told.",
    "01000": "They are its tie, rank 2, and 3 further down, behind rank 3, which can be told.",
    "10111": "1 of 5 others cannot be told from it. It stands behind rank 2, which can be told.",
    "10011": "They stand behind rank 2, which can be told.",
    "11111": "all 5 others are worse beyond noise.",
}


@pytest.mark.parametrize("told", AGREEING)
def test_the_sentence_and_the_ranks_agree(searched, told):
    ranked = list(searched.ranked)
    end = (told + "1").index("1") + 1  # of the first tie
    for place, entry in enumerate(ranked):
        low = 1.0 if place and told[place - 1] == "1" else -1.0
        ranges = (1, end) if place < end else (end + 1, len(ranked))
        behind = PairedDifference(1.0, low, 2.0)
        ranked[place] = replace(entry, rank_range=ranges, difference_to_best=behind, num_samples=8)
    flat = PairedDifference(0.0, 0.0, 0.0)  # no word on dullness between
    ranked[0] = replace(ranked[0], entropy_difference=flat)
    result = replace(searched, entries=(*ranked, *searched.beside))
    verdict, chosen = summarise_search(result).split(" No interval counts that ")
    assert verdict.endswith(AGREEING[told])
    assert chosen.startswith("the best was chosen among 6 by these samples")


@pytest.mark.parametrize("count", [2, 7])
def test_too_few_samples_rank_nothing(pair, judge, tmp_path, count):
    result = search(pair, judge, replace(SETTINGS, num_samples=count), importance=importance(), also=["sandwich"])
    assert {entry.rank_range for entry in result.entries} == {None}
    assert [entry.rank for entry in result.ranked] == [1, 2, 3, 4, 5, 6]
    assert result.planner.rank_range is result.correlations.spearman.ci95 is None
    assert result.correlations.kendall_tau_b.value is not None
    text = summarise_search(result)
    assert f"but {count} samples are too few for an interval to be believed" in text
    assert "take 8 or more" in text
    assert not any(claim in text for claim in ("beyond noise", "cannot be told", "tie", "duller", "another cost"))
    # Files of earlier versions hold ties and intervals all the same.
    content = result.to_dict()
    for row in content["schedules"]:
        row["rank_range"] = None if row["rank"] is None else [row["rank"]] * 2
    content["planner"]["rank_range"] = [1, 1]
    content["correlations"]["spearman"]["ci95"] = [0.5, 0.9]
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = SearchResult.load(tmp_path / "old.json")
    assert summarise_search(old) == text
    assert old.to_dict() == result.to_dict()


def test_few_samples_of_one_tell_nothing_of_it():
    tables = {"best": measured([1.0] * 9), "few": measured([3.0] * 7)}
    assert rank_ranges(["best", "few"], tables) == {"best": (1, 2), "few": (1, 2)}
    tables["few"] = measured([3.0] * 8)
    assert rank_ranges(["best", "few"], tables) == {"best": (1, 1), "few": (2, 2)}


def test_equal_models_tie_at_exactly_nothing(twins, judge):
    enough = replace(SETTINGS, num_samples=8)
    result = search(twins, judge, enough, also=["sandwich", ModelSchedule.parse("L8")])
    for entry in result.entries:
        assert entry.nll_difference == entry.entropy_difference == PairedDifference(0.0, 0.0, 0.0)
    assert {entry.rank_range for entry in result.ranked} == {(1, 6)}
    assert result.entry("L2,H4,L2").origins == ("space", "also")
    assert "but all 5 others cannot be told from it" in summarise_search(result)


def test_progress_is_exact(pair, judge):
    records, _ = finish(search_schedules(pair, SPACE, judge, SETTINGS))
    assert (records[0].stage, records[0].passes_done) == ("waiting", 0)
    assert (records[-1].stage, records[-1].passes_done) == ("done", records[0].num_passes)
    done = [record.passes_done for record in records]
    assert done == sorted(done)
    assert {record.num_passes for record in records} == {done[-1]}
    # All schedules on some samples, then all on the next.
    units = list(dict.fromkeys((record.unit.first, record.unit.end) for record in records if record.unit))
    assert units == [(0, 4), (4, 6)]


HALVING = replace(SETTINGS, num_samples=8, halving="half", first_round=2)


@pytest.mark.parametrize("settings", [SETTINGS, HALVING], ids=["whole", "halving"])
def test_a_killed_search_ends_as_one_that_was_not(pair, judge, tmp_path, settings):
    whole = search(pair, judge, settings, importance=importance())
    path, job = tmp_path / "search.jsonl", settings.journal_job(8, {})
    run = search_schedules(pair, SPACE, judge, settings, journal=RecordJournal(path, job), importance=importance())
    for _ in range(40):
        next(run)
    run.close()
    with path.open("ab") as file:
        file.write(b'{"unit": "H8 4:6", "resu')  # killed while it wrote
    journal = RecordJournal(path, job)
    assert len(journal) > 0
    records, resumed = finish(search_schedules(pair, SPACE, judge, settings, journal=journal, importance=importance()))
    assert document(resumed) == document(whole)
    assert records[-1].passes_done == records[-1].num_passes
    again, _ = finish(search_schedules(pair, SPACE, judge, settings, journal=RecordJournal(path, job)))
    assert [record.stage for record in again] == ["waiting", "done"]


def test_a_journal_goes_on_to_more_samples_and_schedules(pair, judge):
    journal = RecordJournal(None, {})
    search(pair, judge, replace(SETTINGS, num_samples=4), journal=journal)
    settings = replace(SETTINGS, num_samples=8)
    records, result = finish(
        search_schedules(pair, SPACE, judge, settings, journal=journal, also=[ModelSchedule.parse("L8")])
    )
    assert document(result) == document(search(pair, judge, settings, also=[ModelSchedule.parse("L8")]))
    assert {record.unit.first for record in records if record.unit and str(record.unit.schedule) != "L8"} == {4}


def test_a_part_of_a_chunk_is_kept(pair, judge):
    journal = RecordJournal(None, {})
    search(pair, judge, SETTINGS, journal=journal)  # chunks of 4 samples: the second has 2
    settings = replace(SETTINGS, num_samples=11, judge_batch_size=1)
    records, result = finish(search_schedules(pair, SPACE, judge, settings, journal=journal))
    assert list(dict.fromkeys((unit.first, unit.end) for record in records if (unit := record.unit))) == [
        (6, 8),
        (8, 11),
    ]
    assert records[-1].passes_done == records[-1].num_passes
    whole = search(pair, judge, settings)
    assert [entry.num_samples for entry in result.entries] == [11] * 7
    for entry in result.entries:
        other = whole.entry(str(entry.schedule))
        assert entry.nll_difference.difference == pytest.approx(other.nll_difference.difference, abs=1e-6)
        assert (entry.nfe, entry.entropy) == (other.nfe, pytest.approx(other.entropy))


def test_a_journal_of_another_job_is_refused(tmp_path):
    RecordJournal(tmp_path / "j", SETTINGS.journal_job(8, {"judge": "a"})).put("H8 0:4", {})
    with pytest.raises(SettingError, match="another judge, seed;"):
        RecordJournal(tmp_path / "j", replace(SETTINGS, seed=4).journal_job(8, {"judge": "b"}))
    # More samples of the same are the same job.
    RecordJournal(tmp_path / "j", replace(SETTINGS, num_samples=9).journal_job(8, {"judge": "a"}))


def test_chunks_change_nothing(pair, judge):
    # The judge's products may round otherwise in batches of other sizes, so it reads one window at a time.
    settings = replace(SETTINGS, judge_batch_size=1)
    whole, parts = (search(pair, judge, replace(settings, chunk=chunk)) for chunk in (6, 1))
    assert document(replace(whole, settings={})) == document(replace(parts, settings={}))


def test_halving_writes_down_what_it_dropped(pair, judge):
    records, result = finish(search_schedules(pair, SPACE, judge, HALVING, also=[ModelSchedule.parse("L8")]))
    assert result.rounds == (2, 4, 8)
    assert [entry.num_samples for entry in result.ranked] == [8, 8, 4, 2, 2, 2]
    assert [entry.dropped and entry.dropped.round for entry in result.ranked] == [None, None, 2, 1, 1, 1]
    assert {entry.num_samples for entry in result.beside} == {8}  # what does not compete is not dropped
    assert records[-1].num_passes < records[0].num_passes
    assert records[-1].passes_done == records[-1].num_passes
    assert records[-1].num_left == 4
    assert "dropped 3 after 2 samples, 1 after 4 samples" in summarise_search(result)
    assert load_again(result) == result


def load_again(result):
    return SearchResult.from_dict(json.loads(json.dumps(result.to_dict())))


def test_samples_behind_a_prefix_are_scored_without_it(pair, judge):
    result = search(pair, judge, replace(SETTINGS, prefix=(7, 8, 9)))
    assert max(entry.entropy for entry in result.entries) <= math.log(5)


# Predictions and the planner.


def test_predictions_are_the_paths_and_correlate(pair, judge):
    result = search(pair, judge, replace(SETTINGS, num_samples=8), importance=importance())
    for entry in result.ranked:
        weights = dict(zip(range(4), (4.0, 3.0, 2.0, 1.0), strict=True))
        expected = sum(2 * weights[index] for index, letter in enumerate(entry.segments) if letter == "L")
        assert entry.predicted_path_kl == expected
        assert entry.predicted_se == pytest.approx(math.sqrt(2))
    assert result.entries[-1].predicted_path_kl == 0
    found = result.correlations
    assert (found.num_schedules, found.num_samples) == (6, 8)
    predicted = [entry.predicted_path_kl for entry in result.ranked]
    differences = [entry.nll_difference.difference for entry in result.ranked]
    assert found.spearman.value == pytest.approx(spearman(predicted, differences))
    assert found.kendall_tau_b.value == pytest.approx(kendall(predicted, differences))
    assert -1 <= found.spearman.ci95[0] <= found.spearman.ci95[1] <= 1
    assert result.importance == {"condition": "unconditional", "steps": 8, "length": 8, "num_samples": 10}


def test_no_correlation_where_nothing_varies(twins, judge):
    result = search(twins, judge, importance=importance())
    assert result.correlations.to_dict()["spearman"] == {"value": None, "ci95": None}
    assert "ρ undefined" in summarise_search(result)


def test_an_analysis_on_another_grid_predicts_too(pair, judge):
    result = search(pair, judge, importance=importance(steps=16), also=["interleaved"])
    assert result.entry("H4,L4").predicted_path_kl == pytest.approx(4 * (2 + 1))
    coarse = search(pair, judge, importance=importance(steps=4), also=["interleaved"])
    assert coarse.entry("H4,L4").predicted_path_kl == pytest.approx(2 + 1)
    interleaved = coarse.entry(str(SPACE.rule("interleaved", "H"))).predicted_path_kl
    assert interleaved == pytest.approx((4 + 3 + 2 + 1) / 2)  # half of each step


def test_without_a_plan_the_least_path_kl_is_the_planners(pair, judge):
    result = search(pair, judge, importance=importance())
    entry = result.entry("H4,L4")
    assert result.planner == PlannerRank("least path KL", "H4,L4", entry.rank, entry.rank_range, 1, 6)
    assert search(pair, judge).planner is None


def test_a_plan_is_ranked_among_schedules_of_its_cost(pair, judge):
    plan = ModelSchedule.parse("H1,L1,H3,L3")
    result = search(pair, judge, plan=plan, importance=importance())
    entry = result.entry(str(plan))
    assert (entry.origins, entry.segments) == (("plan",), None)
    # One light step in the first quarter, one in the third, two in the last; only HHLL, with 6, comes to less.
    assert entry.predicted_path_kl == 4 + 2 + 1 + 1
    assert result.planner == PlannerRank("plan", str(plan), entry.rank, entry.rank_range, 2, 7)
    assert f"The planner's schedule {plan} ranks {entry.rank}" in summarise_search(result)
    assert result.correlations.num_schedules == 6  # of the space alone


def test_a_plan_of_another_cost_has_no_rank(pair, judge):
    result = search(pair, judge, plan=ModelSchedule.parse("H5,L3"))
    assert result.planner == PlannerRank("plan", "H5,L3", None, None, None, 6)
    assert "H5,L3 is of another cost" in summarise_search(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": importance(noise="cosine")}, "made under cosine noise and the search samples under loglinear"),
        ({"importance": importance(reference="X")}, "holds models against X, the search against H"),
        ({"importance": importance(keys=("M",))}, "knows nothing of model L, only M"),
        ({"importance": importance(), "condition": "prefix"}, "condition 'prefix' was not measured"),
        ({"importance": importance(length=16)}, "made at length 16 and the search samples 8"),
        ({"importance": importance(free=5)}, "'unconditional' leaves 5 of 8 tokens free and the search all"),
        (
            {"importance": importance(digests={"L": "b"}), "digests": {"H": "a", "L": "a"}},
            "model L is not the one that",
        ),
        ({"also": [ModelSchedule.parse("L9")]}, "L9 has 9 steps and the search 8"),
        ({"also": [ModelSchedule.parse("X8")]}, "names X, but models are bound to H, L only"),
        ({"also": ["best"]}, "'best' names no rule"),
    ],
)
def test_requests_are_checked_before_any_model_runs(pair, judge, options, message):
    with pytest.raises(SettingError, match=message) as caught:
        next(search_schedules(pair, SPACE, judge, SETTINGS, **options))
    assert "\n" not in str(caught.value)


def test_analyses_of_the_same_models_and_of_unknown_ones_predict(pair, judge):
    for known in ({}, {"H": "a"}, {"H": "a", "L": "b", "M": "c"}):
        options = {"importance": importance(digests={"H": "a", "L": "b"}), "digests": known}
        next(search_schedules(pair, SPACE, judge, SETTINGS, **options))


def test_behind_a_prefix_the_analysis_may_have_another(pair, judge):
    next(search_schedules(pair, SPACE, judge, replace(SETTINGS, prefix=(7, 8)), importance=importance(free=5)))


def test_samples_of_one_token_are_refused_before_any_is_drawn(pair, judge, tokenizer):
    with pytest.raises(SettingError, match="length is 1 and the judge reads 32 tokens at once"):
        next(search_schedules(pair, SPACE, judge, replace(SETTINGS, length=1)))
    with pytest.raises(SettingError, match="the judge reads 1 tokens at once"):
        next(search_schedules(pair, SPACE, make_judge(tokenizer, context=1), SETTINGS))


# The file and the picture.


def test_a_result_comes_back_from_its_file(pair, judge, tmp_path):
    result = search(pair, judge, importance=importance(), plan=ModelSchedule.parse("H4,L4"))
    result.save(tmp_path / "search.json")
    assert load(tmp_path / "search.json") == result
    content = (tmp_path / "search.json").read_text()
    (tmp_path / "search.json").write_text(content.replace("rank_range", "rank_strange"))
    with pytest.raises(DataError, match="is a damaged result of a search"):
        load(tmp_path / "search.json")
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(DataError, match="is no result of a search"):
        load(tmp_path / "search.json")
    with pytest.raises(DataError, match="there is no file"):
        load(tmp_path / "nothing.json")


def test_the_picture_is_a_triangle_or_rows(pair, judge):
    pytest.importorskip("matplotlib")
    triangle = search(pair, judge, importance=importance())
    assert paired_key(triangle) == "L"
    space = SearchSpace(8, {"H": 3, "L": 1})
    _, rows = finish(search_schedules(pair, space, judge, replace(HALVING, num_samples=4), also=["first"]))
    assert paired_key(rows) is None
    for result in (triangle, rows):
        assert render_search(result).startswith(b"\x89PNG")
