"""The schedule value type: notation, rounding and named placements."""

import doctest
import pickle
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import understudy.schedule
from understudy.errors import ScheduleError, SettingError
from understudy.schedule import MAX_STEPS, NAMED, ModelSchedule, Segment, apportion

keys = st.sampled_from("HLMabz")
segments = st.lists(st.builds(Segment, keys, st.integers(1, 400)), min_size=1, max_size=12)
schedules = segments.map(lambda found: ModelSchedule(tuple(found)))
step_counts = st.integers(1, 300)
shares = st.one_of(
    st.floats(0, 1, allow_nan=False),
    st.integers(0, 1000).map(lambda thousandths: thousandths / 1000),
)


def light_steps(schedule):
    return [step for step, key in enumerate(schedule.steps()) if key == "L"]


# --- notation ---------------------------------------------------------------------------------------------


@given(schedules)
def test_parse_undoes_str_and_eval_undoes_repr(schedule):
    assert ModelSchedule.parse(str(schedule)) == schedule
    assert ModelSchedule.parse(str(schedule), num_steps=schedule.num_steps) == schedule
    assert eval(repr(schedule), {"ModelSchedule": ModelSchedule}) == schedule


@given(schedules, st.booleans(), st.data())
def test_spaces_and_outer_parentheses_do_not_count(schedule, has_parentheses, data):
    text = f"({schedule})" if has_parentheses else str(schedule)
    gaps = data.draw(st.lists(st.sampled_from(["", " ", "  ", "\t", "\n"]), min_size=len(text) + 1))
    spaced = gaps[0] + "".join(char + gap for char, gap in zip(text, gaps[1:], strict=False))
    assert ModelSchedule.parse(spaced) == schedule


def test_examples_of_the_notation():
    expected = ModelSchedule((Segment("L", 125), Segment("H", 750), Segment("L", 125)))
    assert ModelSchedule.parse("L125,H750,L125") == expected
    assert ModelSchedule.parse("( L 125, H 7 50 ,L125 )") == expected
    assert ModelSchedule.parse("L100,L25,H750,L125") == expected
    assert ModelSchedule.parse("L12.5%,H75%,L12.5%", num_steps=1000) == expected
    assert ModelSchedule.parse("L0125,H750,L125") == expected
    assert str(expected) == "L125,H750,L125"


def test_keys_are_case_sensitive():
    assert ModelSchedule.parse("h2,H3").counts == {"h": 2, "H": 3}


@given(st.lists(st.tuples(keys, st.integers(1, 50)), min_size=1, max_size=6), st.integers(300, 2000))
def test_percentages_are_rounded_by_apportion(weighted, num_steps):
    # Percentages are shares of 1000 written with one decimal; the last takes what is missing to 100.
    *head, (last_key, _) = weighted
    tenths = [*(weight for _, weight in head), 1000 - sum(weight for _, weight in head)]
    assume(all(count > 0 for count in apportion([Fraction(tenth, 1000) for tenth in tenths], num_steps)))
    names = [*(key for key, _ in head), last_key]
    text = ",".join(f"{key}{tenth // 10}.{tenth % 10}%" for key, tenth in zip(names, tenths, strict=True))
    counts = apportion([Fraction(tenth, 1000) for tenth in tenths], num_steps)
    expected = ModelSchedule(tuple(Segment(*pair) for pair in zip(names, counts, strict=True)))
    assert ModelSchedule.parse(text, num_steps) == expected


BAD = [
    # text, num_steps, column, a phrase of the message
    ("", None, 1, "the string ends where a key"),
    ("   ", None, 4, "the string ends where a key"),
    ("()", None, 2, "where a key"),
    ("125", None, 1, "'1' stands where a key"),
    (",L5", None, 1, "',' stands where a key"),
    ("L5,,H5", None, 4, "',' stands where a key"),
    ("L5,", None, 4, "the string ends where a key"),
    ("L5, ", None, 5, "the string ends where a key"),
    ("L", None, 2, "number of steps for key L"),
    ("L,H5", None, 2, "number of steps for key L"),
    ("H5,L%", 10, 5, "number of steps for key L"),
    ("L0", None, 2, "the count is 0"),
    ("H5, L 00", None, 7, "the count is 0"),
    ("L-5", None, 2, "'-' stands"),
    ("L+5", None, 2, "'+' stands"),
    ("L2.5,H5", None, 2, "did you mean 2.5%"),
    ("L1e3", None, 3, "'e' stands"),
    ("L1_000", None, 3, "'_' stands"),
    ("LL5", None, 2, "'L' stands"),
    ("L5 H5", None, 4, "'H' stands"),
    ("L5;H5", None, 3, "';' stands"),
    ("(L5", None, 4, 'closing ")"'),
    ("(L5,H5;", None, 7, 'closing ")"'),
    ("L5)", None, 3, "')' stands"),
    ("(L5),H5", None, 5, "where the end"),
    ("((L5))", None, 2, "'(' stands"),
    ("L²", None, 2, "'²' stands"),
    ("L٣", None, 2, "'٣' stands"),
    ("L５", None, 2, "'５' stands"),
    ("é5", None, 1, "'é' stands where a key"),
    ("Н5", None, 1, "where a key"),  # a Cyrillic letter that looks like H
    ("L\u00a05", None, 2, "'\\xa0' stands"),  # a no-break space is shown, since it cannot be seen
    ("L5\x00", None, 3, "'\\x00' stands"),
    ("L50%,H50%", None, 1, "need the number of steps"),
    (" L50%,H40%", 100, 2, "sum to 90,"),
    ("L60%,H40.5%", 100, 1, "sum to 100.5,"),
    ("A33.33%,B33.33%,C33.33%", 100, 1, "sum to 99.99,"),
    ("L50%,H5", 10, 7, "cannot be mixed"),
    ("L5,H50%", 10, 5, "cannot be mixed"),
    ("L0%,H100%", 10, 2, "the percentage is 0"),
    ("L101%", 10, 2, "the percentage is 101"),
    ("L.5%,H99.5%", 1000, 2, "'.' stands"),
    ("L5.%,H95%", 1000, 4, "a digit after the decimal point"),
    ("L5%%,H95%", 1000, 4, "'%' stands"),
    ("H99%,L1%", 10, 7, "1% of 10 steps comes to no step"),
    ("L5,H4", 10, 1, "has 9 steps but 10 were asked for"),
    (f"H1,L{MAX_STEPS + 1}", None, 5, f"at most {MAX_STEPS}"),
    (f"L{MAX_STEPS},H1", None, 1, f"has {MAX_STEPS + 1} steps"),
    ("H1,L" + "9" * 5000, None, 5, "5000 characters"),
    ("L0." + "3" * 5000 + "%,H1%", 10, 2, "5002 characters"),
]


@pytest.mark.parametrize(("text", "num_steps", "column", "phrase"), BAD, ids=[repr(row[0])[:24] for row in BAD])
def test_a_bad_string_fails_with_its_column(text, num_steps, column, phrase):
    with pytest.raises(ScheduleError) as caught:
        ModelSchedule.parse(text, num_steps)
    message = str(caught.value)
    assert caught.value.column == column
    assert message.startswith(f"column {column}: ")
    assert phrase in message
    assert message.isprintable()  # one line, whatever stood in the string
    assert len(message) < 200


@given(st.text(alphabet="LH%,.() 0159²é\n", max_size=12), st.none() | st.integers(1, 20))
def test_any_string_is_a_schedule_or_a_schedule_error_inside_it(text, num_steps):
    schedule, column = None, None
    try:
        schedule = ModelSchedule.parse(text, num_steps)
    except ScheduleError as error:
        column = error.column
    if schedule is None:
        assert 1 <= column <= len(text) + 1
    else:
        assert num_steps in (None, schedule.num_steps)
        assert ModelSchedule.parse(str(schedule)) == schedule


@pytest.mark.parametrize("num_steps", [0, -1, MAX_STEPS + 1, 2.0, "10"])
def test_the_number_of_steps_is_checked(num_steps):
    with pytest.raises(SettingError, match="whole number from 1"):
        ModelSchedule.parse("L5", num_steps)
    with pytest.raises(SettingError, match="whole number from 1"):
        ModelSchedule.parse("L5").resized(num_steps)
    with pytest.raises(SettingError, match="whole number from 1"):
        ModelSchedule.single(num_steps)
    with pytest.raises(SettingError, match="whole number from 1"):
        ModelSchedule.interleaved(num_steps, 0.5)


# --- the value type ---------------------------------------------------------------------------------------


@given(segments)
def test_equal_neighbours_merge_and_nothing_else_changes(found):
    schedule = ModelSchedule(tuple(found))
    assert all(one.key != two.key for one, two in pairwise(schedule.segments))
    assert "".join(schedule.steps()) == "".join(segment.key * segment.count for segment in found)


@given(schedules)
def test_counts_keys_and_steps_agree(schedule):
    steps = schedule.steps()
    assert len(steps) == schedule.num_steps == sum(schedule.counts.values())
    assert schedule.counts == {key: steps.count(key) for key in set(steps)}
    assert schedule.keys == tuple(schedule.counts) == tuple(dict.fromkeys(steps))
    assert [schedule.key_at(step) for step in range(schedule.num_steps)] == list(steps)
    assert ModelSchedule.from_keys(steps) == schedule


@given(schedules, st.integers(0, 10**9))
def test_there_is_no_key_outside_the_steps(schedule, distance):
    for step in (-1 - distance, schedule.num_steps + distance):
        with pytest.raises(ScheduleError, match=f"0 to {schedule.num_steps - 1}"):
            schedule.key_at(step)


def test_equal_schedules_are_one_dictionary_key_and_survive_pickling():
    one, two = ModelSchedule.parse("L1,L1,H3"), ModelSchedule.parse("L2,H3")
    assert {one: "x"}[two] == "x"
    assert pickle.loads(pickle.dumps(one)) == two
    assert one != ModelSchedule.parse("H3,L2")


@pytest.mark.parametrize("key", ["", "LH", "1", "é", "²", " ", None, 5])
def test_a_segment_refuses_what_is_not_a_key(key):
    with pytest.raises(ScheduleError, match="one letter"):
        Segment(key, 1)


@pytest.mark.parametrize("count", [0, -1, 1.0, "1", None, MAX_STEPS + 1])
def test_a_segment_refuses_what_is_not_a_count(count):
    with pytest.raises(ScheduleError, match="whole number from 1"):
        Segment("L", count)


def test_a_numpy_count_becomes_a_plain_one():
    assert type(Segment("L", np.int64(3)).count) is int


def test_a_schedule_needs_a_segment_and_has_a_largest_size():
    with pytest.raises(ScheduleError, match="at least one segment"):
        ModelSchedule(())
    with pytest.raises(ScheduleError, match="at least one segment"):
        ModelSchedule.from_keys([])
    with pytest.raises(ScheduleError, match="at most"):
        ModelSchedule((Segment("L", MAX_STEPS), Segment("H", 1)))


@given(schedules)
def test_resizing_to_the_same_size_changes_nothing(schedule):
    assert schedule.resized(schedule.num_steps) == schedule


@given(schedules, st.integers(1, 20))
def test_resizing_to_a_multiple_is_exact_and_can_be_undone(schedule, factor):
    larger = schedule.resized(schedule.num_steps * factor)
    assert larger.counts == {key: count * factor for key, count in schedule.counts.items()}
    assert larger.resized(schedule.num_steps) == schedule


@given(schedules, st.integers(0, 3000))
def test_resizing_upwards_keeps_every_segment_and_its_place(schedule, more):
    larger = schedule.resized(schedule.num_steps + more)
    assert larger.num_steps == schedule.num_steps + more
    assert [segment.key for segment in larger.segments] == [segment.key for segment in schedule.segments]
    scale, end, larger_end = Fraction(larger.num_steps, schedule.num_steps), 0, 0
    for segment, resized in zip(schedule.segments, larger.segments, strict=True):
        end, larger_end = end + segment.count, larger_end + resized.count
        assert abs(larger_end - end * scale) <= Fraction(1, 2)


def test_resizing_never_drops_a_segment_silently():
    with pytest.raises(ScheduleError, match="L1 of 1000 steps comes to no step at all out of 100"):
        ModelSchedule.parse("L1,H999").resized(100)


# --- apportion --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(0, 10**6))
def test_apportion_keeps_the_total_and_every_boundary(weights, total):
    assume(sum(weights) > 0)
    fractions = [Fraction(weight, sum(weights)) for weight in weights]
    counts = apportion(fractions, total)
    assert sum(counts) == total
    assert len(counts) == len(fractions)
    boundary = exact = 0
    for fraction, count in zip(fractions, counts, strict=True):
        assert count >= 0
        assert abs(count - fraction * total) < 1
        boundary, exact = boundary + count, exact + fraction * total
        assert -Fraction(1, 2) < boundary - exact <= Fraction(1, 2)  # half a step goes up


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 10**6))
def test_apportion_takes_normalised_floats(weights, total):
    assume(sum(weights) > 1e-3)
    fractions = [weight / sum(weights) for weight in weights]
    counts = apportion(fractions, total)
    assert sum(counts) == total
    # Twenty floats of relative rounding 1e-16 move no boundary by more than 1e-8 steps out of a million.
    assert all(abs(count - fraction * total) < 1 + 1e-8 for count, fraction in zip(counts, fractions, strict=True))


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_float_ratio_counts_as_the_ratio(denominator, numerator, total):
    assume(numerator <= denominator)
    ratio = Fraction(numerator, denominator)
    as_float = numerator / denominator
    assert apportion([as_float, 1 - as_float], total) == apportion([ratio, 1 - ratio], total)


def test_apportion_in_numbers_one_can_check():
    assert apportion([0.1] * 10, 10) == [1] * 10  # ten times the float 0.1 is more than 1
    assert apportion([1 / 3] * 3, 10) == [3, 4, 3]
    assert apportion([0.5, 0.5], 1) == [1, 0]
    assert apportion([0.125, 0.75, 0.125], 1000) == [125, 750, 125]
    assert apportion([0.0, 1.0], 5) == [0, 5]


@pytest.mark.parametrize("fractions", [[], [0.5, 0.4], [1.5, -0.5], [0.5, 0.5001], [float("nan"), 1.0], [float("inf")]])
def test_apportion_refuses_what_does_not_sum_to_one(fractions):
    with pytest.raises(SettingError, match="fraction"):
        apportion(fractions, 10)


def test_apportion_refuses_a_negative_total():
    with pytest.raises(SettingError, match="-1"):
        apportion([1.0], -1)


# --- named placements -------------------------------------------------------------------------------------


def test_named_placements_of_a_quarter_of_a_thousand():
    placed = {name: NAMED[name](1000, 0.25) for name in NAMED if name != "interleaved"}
    assert {name: str(schedule) for name, schedule in placed.items()} == {
        "sandwich": "L125,H750,L125",
        "first": "L250,H750",
        "last": "H750,L250",
        "middle": "H375,L250,H375",
    }
    assert str(ModelSchedule.interleaved(8, 0.25)) == "H1,L1,H3,L1,H2"
    assert str(ModelSchedule.single(1000)) == "H1000"


@given(step_counts, shares)
def test_light_steps_are_less_than_one_away_from_the_share(num_steps, share):
    for constructor in NAMED.values():
        schedule = constructor(num_steps, share)
        assert schedule.num_steps == num_steps
        # Two rounded boundaries enclose the light steps at worst, each within half a step and not both at
        # opposite halves; 1e-9 is for the reading of a float as a simple ratio.
        assert abs(schedule.counts.get("L", 0) - share * num_steps) < 1 + 1e-9


@given(step_counts, st.data())
def test_a_whole_number_of_light_steps_is_met_exactly_by_all(num_steps, data):
    num_light = data.draw(st.integers(0, num_steps))
    for constructor in NAMED.values():
        assert constructor(num_steps, num_light / num_steps).counts.get("L", 0) == num_light


@given(step_counts, shares)
def test_placements_with_one_boundary_agree_within_half_a_step(num_steps, share):
    # `first`, `last` and `interleaved` round the light share once, so only a tie can part them.
    names = ("first", "interleaved", "last")
    first, interleaved, last = (NAMED[name](num_steps, share).counts.get("L", 0) for name in names)
    assert first == interleaved
    distance_to_tie = abs(share * num_steps % 1 - 0.5)
    assert first == last or (first == last + 1 and distance_to_tie < 1e-9)


@given(step_counts, shares)
def test_a_sandwich_and_its_negative_are_symmetric_within_one_step(num_steps, share):
    for schedule in (ModelSchedule.sandwich(num_steps, share), ModelSchedule.middle(num_steps, share)):
        if len(schedule.segments) == 3:
            assert abs(schedule.segments[0].count - schedule.segments[2].count) <= 1
        elif len(schedule.segments) == 2:  # one slice came to no step, so the other has at most one
            outer = "L" if schedule == ModelSchedule.sandwich(num_steps, share) else "H"
            assert schedule.counts[outer] == 1


@given(st.integers(0, 1000), step_counts)
def test_a_sandwich_equals_its_percentages(thousandths, num_steps):
    sandwich = ModelSchedule.sandwich(num_steps, thousandths / 1000)
    assume(len(sandwich.segments) == 3)
    outer, inner = Fraction(thousandths, 20), 100 - Fraction(thousandths, 10)
    text = f"L{float(outer)}%,H{float(inner)}%,L{float(outer)}%"
    assert ModelSchedule.parse(text, num_steps) == sandwich


@given(step_counts, shares)
def test_interleaved_steps_are_spread_evenly(num_steps, share):
    schedule = ModelSchedule.interleaved(num_steps, share)
    light = light_steps(schedule)
    heavy = sorted(set(range(num_steps)) - set(light))
    for steps in (light, heavy):
        gaps = [two - one for one, two in pairwise(steps)]
        assert max(gaps, default=0) - min(gaps, default=0) <= 1
    for j, step in enumerate(light):  # the middle of the j-th slice of the time falls into the step
        middle = Fraction((2 * j + 1) * num_steps, 2 * len(light))
        assert step < middle <= step + 1


@given(step_counts)
def test_shares_of_nothing_and_of_everything_are_single_models(num_steps):
    for constructor in NAMED.values():
        assert constructor(num_steps, 0) == ModelSchedule.single(num_steps)
        assert constructor(num_steps, 1) == ModelSchedule.single(num_steps, "L")


def test_placements_take_other_keys():
    for name, constructor in NAMED.items():
        plain = constructor(12, 0.5)
        named = constructor(12, 0.5, light="a", heavy="b")
        assert "".join(named.steps()) == "".join(plain.steps()).translate(str.maketrans("LH", "ab")), name


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_placements_refuse_a_share_outside_its_range(share):
    for constructor in NAMED.values():
        with pytest.raises(SettingError, match="from 0 to 1"):
            constructor(10, share)


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(understudy.schedule)
    assert result.attempted > 8
    assert result.failed == 0
