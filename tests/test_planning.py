"""The planner: equal to brute force on small problems, and the laws that optimal schedules obey on large ones."""

import itertools
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from importance_files import SHAPES, hump, make_importance, make_path, make_table, pair_importance, trio_importance
from understudy import ModelSchedule
from understudy.errors import DataError, SettingError
from understudy.flops import TransformerShape, expected_report
from understudy.importance.divergence import log_probabilities, row_divergence
from understudy.importance.record import ROUNDING
from understudy.importance.trajectories import half_sums, path_divergence
from understudy.noise import Cosine, LogLinear
from understudy.planning import (
    Budget,
    Certificate,
    ForcedSteps,
    Limits,
    Plan,
    PlanningProblem,
    frontier,
    make_plan,
    planning_problem,
    solve,
    solver,
)

KEYS = "HLM"


def make_problem(divergence, costs):
    divergence = np.array(divergence, dtype=np.float64)
    costs = np.array(costs, dtype=np.float64)
    return PlanningProblem(tuple(KEYS[: divergence.shape[1]]), divergence, np.broadcast_to(costs, divergence.shape))


def random_problem(rng, *, most_steps=7):
    """Real divergences or small whole ones, which tie; costs by key or by step too."""
    steps, keys = int(rng.integers(1, most_steps + 1)), int(rng.integers(2, 4))
    divergence = rng.random((steps, keys)) if rng.random() < 0.6 else rng.integers(0, 3, (steps, keys)).astype(float)
    divergence[:, 0] = 0
    costs = np.array([3.0, 1.5, 1.0])[:keys]
    return make_problem(divergence, rng.random((steps, keys)) * costs if rng.random() < 0.5 else costs)


def random_limits(rng, problem):
    def maybe(share, value, otherwise=None):
        return value if rng.random() < share else otherwise

    steps, keys = problem.num_steps, problem.keys
    start = int(rng.integers(steps))
    forced = ForcedSteps(str(rng.choice(list(keys))), start, int(rng.integers(start + 1, steps + 1)))
    return Limits(
        max_switches=maybe(0.4, int(rng.integers(0, 4))),
        min_run=maybe(0.3, int(rng.integers(1, 4)), 1),
        forced=maybe(0.3, (forced,), ()),
        light_steps=maybe(0.25, int(rng.integers(0, steps + 1))),
        min_steps=maybe(0.2, {"H": int(rng.integers(0, steps))}, {}),
        max_steps=maybe(0.2, {keys[-1]: int(rng.integers(0, steps + 1))}, {}),
    )


def keeps_to(models, keys, limits):
    """Whether models (N,) keep to all limits but cost; written anew, from what the limits say."""
    names = [keys[model] for model in models]
    runs = [len(list(run)) for _, run in itertools.groupby(names)]
    lights = len(names) - names.count(keys[0])
    return (
        (limits.max_switches is None or len(runs) - 1 <= limits.max_switches)
        and min(runs) >= limits.min_run
        and all(set(names[part.start : part.stop]) == {part.key} for part in limits.forced)
        and (limits.light_steps is None or lights == limits.light_steps)
        and all(names.count(key) >= least for key, least in limits.min_steps.items())
        and all(names.count(key) <= most for key, most in limits.max_steps.items())
    )


def brute_force(problem, budget, limits):
    """(divergence, switches, cost, first change) of the best schedule, by looking at all of them; None without one."""
    ranks = []
    for models in itertools.product(range(len(problem.keys)), repeat=problem.num_steps):
        cost = sum(problem.costs[step, model] for step, model in enumerate(models))
        if keeps_to(models, problem.keys, limits) and (budget is None or cost <= budget + 1e-9):
            divergence = sum(problem.divergence[step, model] for step, model in enumerate(models))
            ranks.append(rank(models, divergence, cost))
    return min(ranks, default=None)


def rank(models, divergence, cost):
    changes = [step for step in range(1, len(models)) if models[step] != models[step - 1]]
    return round(float(divergence), 9), len(changes), round(float(cost), 9), changes[:1]


# Against brute force.


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_brute_force_with_every_limit(seed):
    rng = np.random.default_rng(seed)
    solved = 0
    for _ in range(40):
        problem = random_problem(rng, most_steps=9 if rng.random() < 0.05 else 7)
        limits = random_limits(rng, problem)
        budget = float(problem.costs.max(axis=1).sum() * rng.random()) if rng.random() < 0.6 else None
        expected = brute_force(problem, budget, limits)
        if expected is None:
            with pytest.raises(SettingError) as refused:
                solve(problem, budget, limits)
            assert "\n" not in str(refused.value)
            continue
        solution = solve(problem, budget, limits)
        assignment = problem.assignment(solution.schedule).tolist()
        assert keeps_to(assignment, problem.keys, limits)
        assert rank(assignment, solution.divergence, solution.cost) == expected
        assert solution.is_exact
        assert solution.lower_bound == solution.divergence
        solved += 1
    assert solved >= 5


def test_equal_to_brute_force_at_every_budget():
    rng, steps = np.random.default_rng(5), 7
    divergence = np.column_stack([np.zeros(steps), rng.random(steps), 2 * rng.random(steps)])
    problem = make_problem(divergence, [3, 2, 1])
    for budget in range(steps, 3 * steps + 1):
        solution = solve(problem, budget)
        assert (round(solution.divergence, 9), solution.cost <= budget) == (
            brute_force(problem, budget, Limits())[0],
            1,
        )


@pytest.mark.parametrize("seed", range(6))
def test_frontier_points_are_optimal_and_convex(seed):
    problem = random_problem(np.random.default_rng(seed), most_steps=6)
    points = frontier(problem)
    assert str(points[0].schedule) == f"H{problem.num_steps}"
    assert points[-1].cost == pytest.approx(problem.costs.min(axis=1).sum())
    for point in points:
        assert point.cost == pytest.approx(problem.cost_of(point.schedule))
        assert point.divergence == pytest.approx(problem.divergence_of(point.schedule))
        assert brute_force(problem, point.cost, Limits())[0] == pytest.approx(point.divergence)
        assert solve(problem, point.cost).divergence == pytest.approx(point.divergence)
    costs, values = np.array([[point.cost, point.divergence] for point in points]).T
    assert (np.diff(costs) < 0).all()
    slopes = np.diff(values) / -np.diff(costs)
    assert (slopes >= 0).all()
    assert (np.diff(slopes) >= -1e-9).all()


def test_nothing_below_the_frontier():
    problem = random_problem(np.random.default_rng(3), most_steps=5)
    points = frontier(problem)
    costs, values = np.array([[point.cost, point.divergence] for point in points])[::-1].T
    for models in itertools.product(range(len(problem.keys)), repeat=problem.num_steps):
        cost = sum(problem.costs[step, model] for step, model in enumerate(models))
        divergence = sum(problem.divergence[step, model] for step, model in enumerate(models))
        assert divergence >= np.interp(cost, costs, values) - 1e-9


# Laws.

problems = st.integers(0, 10_000).map(lambda seed: random_problem(np.random.default_rng(seed), most_steps=20))


@settings(max_examples=25)
@given(problems, st.floats(0.1, 1), st.integers(-12, 12), st.integers(-12, 12))
def test_units_do_not_matter(problem, share, divergence_power, cost_power):
    budget = share * problem.costs.max(axis=1).sum() + problem.costs.min(axis=1).sum()
    scaled = PlanningProblem(problem.keys, problem.divergence * 2.0**divergence_power, problem.costs * 2.0**cost_power)
    first, second = solve(problem, budget), solve(scaled, budget * 2.0**cost_power)
    assert first.schedule == second.schedule
    assert second.divergence == pytest.approx(first.divergence * 2.0**divergence_power)


@settings(max_examples=15)
@given(problems, st.integers(0, 3))
def test_more_budget_and_looser_limits_never_hurt(problem, switches):
    cheapest, dearest = problem.costs.min(axis=1).sum(), problem.costs.max(axis=1).sum()
    found = [solve(problem, cheapest + share * (dearest - cheapest)) for share in (0, 0.3, 0.6, 1)]
    assert all(a.divergence >= b.divergence - 1e-12 for a, b in itertools.pairwise(found))
    assert found[-1].divergence == 0
    lights = [Limits(max_switches=count, light_steps=problem.num_steps // 2) for count in (switches + 1, switches + 2)]
    tight, loose = (solve(problem, None, limits) for limits in lights)
    assert tight.divergence >= loose.divergence - 1e-12
    assert str(solve(problem).schedule) == f"H{problem.num_steps}" or problem.divergence[:, 1:].min() == 0


def test_equal_models_cost_nothing_and_switch_never():
    problem = make_problem(np.zeros((50, 3)), [3, 2, 1])
    assert str(solve(problem, 100).schedule) == "M50"  # of equal divergence and switches the cheapest
    solution = solve(problem, None, Limits(light_steps=20))
    assert (solution.divergence, str(solution.schedule)) == (0, "M20,H30")


def test_light_steps_are_the_smallest():
    divergence = np.random.default_rng(0).permutation(np.arange(1.0, 41))
    solution = solve(make_problem(np.column_stack([np.zeros(40), divergence]), 1), None, Limits(light_steps=13))
    assert solution.divergence == sum(range(1, 14))


def test_a_hump_gives_a_sandwich_of_unequal_slices():
    curve = hump(200, centre=0.7)
    problem = make_problem(np.column_stack([np.zeros(200), curve]), [12, 4])
    solution = solve(problem, None, Limits(light_steps=100))
    first, middle, last = solution.schedule.segments
    assert [first.key, middle.key, last.key] == ["L", "H", "L"]
    assert first.count > 2 * last.count
    sandwich = ModelSchedule.sandwich(200, 0.5)
    assert solution.divergence < problem.divergence_of(sandwich)
    # The inner slice is where the curve is highest.
    assert min(curve[first.count : first.count + middle.count]) >= max(
        np.delete(curve, range(first.count, 200 - last.count))
    )


def test_ties_take_fewer_switches_then_the_earlier_change():
    problem = make_problem([[0, 1]] * 6, [2, 1])
    assert str(solve(problem, None, Limits(light_steps=2)).schedule) == "L2,H4"
    assert str(solve(problem, 10).schedule) == "L2,H4"
    problem = make_problem([[0, 1, 1]] * 6, [3, 2, 1])
    assert str(solve(problem, None, Limits(light_steps=2)).schedule) == "M2,H4"


def test_limits_at_a_thousand_steps():
    steps = 1000
    light = hump(steps, centre=0.6) * (1 + 0.2 * np.sin(np.arange(steps) / 40))
    divergence = np.column_stack([np.zeros(steps), light, light * np.linspace(3, 1.3, steps)])
    problem = make_problem(divergence, [12.17, 4.06, 2.03])
    limits = Limits(max_switches=4, min_run=20, forced=(ForcedSteps("H", 480, 520),))
    began = time.perf_counter()
    solution = solve(problem, 0.6 * problem.reference_cost, limits)
    # A second or two on an idle core; the bound leaves room for a busy machine.
    assert time.perf_counter() - began < 20
    assert solution.is_exact
    assert keeps_to(problem.assignment(solution.schedule), problem.keys, limits)
    assert solution.cost <= 0.6 * problem.reference_cost
    # No worse than all schedules of that shape with boundaries on a grid, nor than the frontier's line below.
    points = frontier(problem)
    costs, values = np.array([[point.cost, point.divergence] for point in points])[::-1].T
    assert solution.divergence >= np.interp(solution.cost, costs, values) - 1e-9
    for first, last in itertools.product(range(20, 460, 20), repeat=2):
        for key in "LM":
            schedule = ModelSchedule.parse(f"{key}{first},H{steps - first - last},L{last}")
            if problem.cost_of(schedule) <= 0.6 * problem.reference_cost:
                assert solution.divergence <= problem.divergence_of(schedule) + 1e-9


def test_counts_of_several_models_at_once():
    # Without costs, L's steps are those it is best at relative to M: an exchange can never help.
    steps, curve = 300, hump(300)
    divergence = np.column_stack([np.zeros(steps), curve, curve * np.linspace(3, 1.3, steps)])
    solution = solve(make_problem(divergence, 1), None, Limits(light_steps=90, max_steps={"L": 45}))
    assert solution.is_exact
    assert (solution.schedule.counts["L"], solution.schedule.counts["M"]) == (45, 45)
    models = make_problem(divergence, 1).assignment(solution.schedule)
    for first, second in itertools.combinations(range(steps), 2):
        before = divergence[first, models[first]] + divergence[second, models[second]]
        assert before <= divergence[first, models[second]] + divergence[second, models[first]] + 1e-9


def test_where_the_search_is_cut_short_it_says_so(monkeypatch):
    rng = np.random.default_rng(1)
    problem = make_problem(np.column_stack([np.zeros(60), rng.random(60), rng.random(60)]), rng.random((60, 3)))
    budget = problem.costs.min(axis=1).sum() * 1.3
    exact = solve(problem, budget)
    monkeypatch.setattr(solver, "NARROW", 2)
    monkeypatch.setattr(solver, "FEW_LABELS", 10)
    monkeypatch.setattr(solver, "MANY_LABELS", 10)
    rough = solve(problem, budget)
    assert not rough.is_exact
    assert rough.lower_bound <= exact.divergence <= rough.divergence
    assert rough.cost <= budget + 1e-9


# What cannot be.

INFEASIBLE = {
    "budget": (9.0, Limits(), r"the budget is 9 units, but the cheapest schedule within the limits costs 10"),
    "forced budget": (15.0, Limits(forced=(ForcedSteps("H", 0, 9),)), "cheapest schedule within the limits costs 28"),
    "long run": (None, Limits(min_run=11), "min_run is 11, but there are 10 steps"),
    "switches": (
        None,
        Limits(max_switches=1, forced=(ForcedSteps("H", 0, 1), ForcedSteps("L", 4, 5), ForcedSteps("H", 9, 10))),
        "need 2 switches, but max_switches is 1",
    ),
    "runs between": (
        None,
        Limits(min_run=3, forced=(ForcedSteps("H", 0, 1), ForcedSteps("L", 1, 2))),
        "leave no room for runs of 3 steps",
    ),
    "two models": (None, Limits(forced=(ForcedSteps("H", 0, 5), ForcedSteps("L", 4, 6))), "step 4 is forced to two"),
    "past the end": (None, Limits(forced=(ForcedSteps("H", 5, 11),)), "there are 10 steps; end the range at 10"),
    "unknown model": (None, Limits(max_steps={"X": 1}), "names model X; the models here are H, L, M"),
    "light steps": (None, Limits(light_steps=11), "number of light steps is to be 11, .* allow 0 to 10"),
    "light of forced": (None, Limits(light_steps=8, forced=(ForcedSteps("H", 0, 3),)), "allow 0 to 7"),
    "least of a model": (None, Limits(min_steps={"M": 11}), "number of steps of M is to be 11"),
    "together": (12.0, Limits(max_steps={"M": 5}), "the budget and the number of steps of M cannot be kept together"),
}


@pytest.mark.parametrize("name", INFEASIBLE)
def test_what_binds_is_said_in_one_line(name):
    budget, limits, message = INFEASIBLE[name]
    problem = make_problem(np.random.default_rng(0).random((10, 3)) * [0, 1, 1], [3, 2, 1])
    with pytest.raises(SettingError, match=message) as refused:
        solve(problem, budget, limits)
    assert "\n" not in str(refused.value)


WRONG = {
    "max_switches is -1": lambda: Limits(max_switches=-1),
    "min_run is 0": lambda: Limits(min_run=0),
    "min_steps of L is -2": lambda: Limits(min_steps={"L": -2}),
    "steps 5 to 5 are forced to H": lambda: ForcedSteps("H", 5, 5),
    "a divergence is -1": lambda: make_problem([[0, -1]], 1),
    "a cost is nan": lambda: make_problem([[0, 1]], math.nan),
    "reference H has divergences": lambda: make_problem([[1, 1]], 1),
    "give one budget": lambda: Budget(),
    "the light fraction is 1.5": lambda: Budget(light_fraction=1.5),
    "the budget is -1 milliseconds": lambda: Budget(milliseconds=-1),
    "the convention is 'nominal'": lambda: Budget(saved=0.1, convention="nominal"),
    "light steps are 99; with 64": lambda: make_plan(pair_importance(), Budget(light_steps=99)),
    "given? give them as the budget": lambda: make_plan(pair_importance(), Budget(saved=0.1), Limits(light_steps=1)),
    "steps is 0": lambda: make_plan(pair_importance(), Budget(saved=0.1), steps=0),
    "needs pass times": lambda: make_plan(pair_importance(), Budget(milliseconds=3)),
    "lacks the shape": lambda: make_plan(pair_without_shapes(), Budget(saved=0.1)),
    "'prefix' was not measured": lambda: make_plan(pair_importance(), Budget(saved=0.1), condition="prefix"),
    "measured at length 64, the analysis at 256": lambda: make_plan(
        pair_importance(), Budget(light_steps=1), costs=(make_table(length=64), 8)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_settings(message):
    with pytest.raises(SettingError, match=message.replace("given? ", "")):
        WRONG[message]()


# Plans.


def pair_without_shapes():
    return make_importance(make_path({"L": hump(64) / 8}), shapes={})


def shapes(keys):
    return {key: TransformerShape(**SHAPES[key]) for key in keys}


@pytest.mark.parametrize("noise", [LogLinear(), Cosine()])
def test_costs_are_those_of_the_reports(noise):
    path = make_path({"L": hump(64), "M": hump(64)}, length=256, free=100)
    importance = make_importance(path, noise=noise.name)
    schedule = ModelSchedule.parse("L20,H30,M14")
    report = expected_report(shapes("HLM"), schedule, noise, length=256, free_positions=100)
    for convention, saved in {
        "blocks": report.nominal_blocks_saved,
        "head": report.nominal_saved,
        "executed": report.schedule_saved,
    }.items():
        problem = planning_problem(importance, convention)
        assert 1 - problem.cost_of(schedule) / problem.reference_cost == pytest.approx(saved)
    assert planning_problem(importance, "executed").cost_of(schedule) == pytest.approx(report.executed)
    problem = planning_problem(importance, "milliseconds", costs=(make_table(), 8))
    assert problem.cost_of(schedule) == pytest.approx(make_table().sample_milliseconds(schedule, noise, 8, 100))
    assert planning_problem(importance, "steps").cost_of(schedule) == 30


def test_plan_of_a_share_of_flops():
    plan = make_plan(pair_importance(256), Budget(saved=1 / 6))
    assert plan.prediction.light_steps == 64
    assert plan.prediction.flops.nominal_blocks_saved == pytest.approx(1 / 6)
    assert plan.prediction.saved == pytest.approx(1 / 6)
    assert plan.divergence == pytest.approx(plan.lower_bound)
    assert [entry.name for entry in plan.named] == ["sandwich", "first", "last", "middle", "interleaved"]
    assert {entry.light_steps for entry in plan.named} == {64}
    assert all(entry.path_kl >= plan.prediction.path_kl - 0.01 for entry in plan.named)
    assert str(plan.named[0].schedule) == "L32,H192,L32"
    assert plan.frontier[0].saved == 0
    assert plan.frontier[-1].saved == pytest.approx(2 / 3)


@pytest.mark.parametrize("convention", ["head", "executed"])
def test_other_conventions_save_what_was_asked(convention):
    plan = make_plan(trio_importance(128), Budget(saved=0.2, convention=convention))
    report = plan.prediction.flops
    assert (report.nominal_saved if convention == "head" else report.schedule_saved) >= 0.2 - 1e-9
    assert all(entry.saved >= 0.2 - 1e-9 for entry in plan.named)
    assert {entry.name for entry in plan.named} >= {"sandwich of L", "interleaved of M"}


def test_plan_in_milliseconds():
    importance, costs = pair_importance(), (make_table(), 8)
    alone = make_table().sample_milliseconds(ModelSchedule.single(64), LogLinear(), 8, 256)
    plan = make_plan(importance, Budget(milliseconds=0.8 * alone), costs=costs)
    assert plan.prediction.milliseconds <= 0.8 * alone
    assert plan.prediction.time_saved == pytest.approx(plan.prediction.saved)
    assert plan.prediction.light_steps == math.ceil(0.2 * 64 / (1 - 6 / 16))
    assert plan.unit == "ms a sample"


@pytest.mark.parametrize("budget", [Budget(milliseconds=500.0), Budget(light_steps=3)])
def test_pass_times_are_of_the_models_that_were_analysed(budget):
    make_plan(pair_importance(), budget, costs=(make_table(shapes={"H": TransformerShape(**SHAPES["H"])}), 8))
    other = make_table(shapes={"L": TransformerShape(384, 3, 4098)})
    with pytest.raises(SettingError, match="the cost table measured L as 3x384 over 4098 tokens, and") as refused:
        make_plan(pair_importance(), budget, costs=(other, 8))
    assert "\n" not in str(refused.value)


def test_plan_without_shapes_counts_steps():
    plan = make_plan(pair_without_shapes(), Budget(light_fraction=0.25))
    assert (plan.convention, plan.prediction.light_steps, plan.prediction.flops) == ("steps", 16, None)
    assert plan.prediction.saved == 0.25


def test_no_light_step_needs_no_rule():
    plan = make_plan(pair_importance(), Budget(saved=0.0))
    assert (str(plan.schedule), plan.named, plan.prediction.path_kl) == ("H64", (), 0)


def test_prediction_is_of_the_raw_sums():
    importance = pair_importance(64, noise=0.5)
    plan = make_plan(importance, Budget(light_steps=20))
    path = importance.path()
    is_light = np.array(plan.schedule.steps()) == "L"
    assert plan.prediction.path_kl == pytest.approx(path.per_step[0][is_light].sum())
    assert plan.divergence == pytest.approx(path.smooth()[0][is_light].sum())
    assert (plan.prediction.path_kl, plan.prediction.path_kl_se) == path.path_kl(plan.schedule)
    assert plan.prediction.per_token == plan.prediction.path_kl / 256


@pytest.mark.parametrize("steps", [16, 64, 100, 256])
def test_prediction_over_other_numbers_of_steps(steps):
    path = trio_importance(64).path()
    whole = sum(path.path_kl(ModelSchedule.single(64, key))[0] for key in "L")
    assert path.path_kl(ModelSchedule.single(steps, "L"))[0] == pytest.approx(whole)
    halves = path.path_kl(ModelSchedule.parse("L50%,M50%", steps))
    assert halves == pytest.approx(path.path_kl(ModelSchedule.parse("L32,M32")))
    plan = make_plan(trio_importance(64), Budget(light_fraction=0.25), steps=steps)
    assert (plan.schedule.num_steps, plan.prediction.light_steps) == (steps, steps // 4)
    assert plan.prediction.path_kl == pytest.approx(plan.divergence, rel=0.15)


def test_certificate():
    certificate = Certificate("H", 0.5, 0.1)
    assert certificate.upper == pytest.approx(0.6645, abs=1e-4)
    assert certificate.total_variation == pytest.approx(math.sqrt(0.6645 / 2), abs=1e-4)
    assert "<= 0.6645 nats a sequence, with nominally 95 % confidence (0.5 ± 0.1; normal" in certificate.sentence
    assert "by more than 0.576 (Pinsker)" in certificate.sentence
    assert "analysed grid" not in certificate.sentence
    assert "0.1; Student's t)" in Certificate("H", 0.5, 0.1, num_samples=9).sentence
    assert Certificate("H", -0.2, 0.1).total_variation == 0


@pytest.mark.parametrize("kl", [0.01, 0.5, 1.5, 1.7, 2.0, 8.0, 30.0])
def test_total_variation_is_bounded_below_1(kl):
    # The tighter of Pinsker's bound and that of Bretagnolle and Huber; they cross at 1.5936 nats.
    certificate = Certificate("H", kl, 0.0)
    expected = min(math.sqrt(kl / 2), math.sqrt(1 - math.exp(-kl)))
    assert certificate.total_variation == pytest.approx(expected)
    assert certificate.total_variation < 1
    assert ("(Pinsker)" in certificate.sentence) == (kl < 1.5936)
    assert ("(Bretagnolle-Huber)" in certificate.sentence) == (kl > 1.5936)
    # Both hold of two coins, whatever they are.
    for p, q in ((0.5, 0.4), (0.99, 0.01), (0.999999, 1e-6)):
        exact = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert abs(p - q) <= Certificate("H", exact, 0.0).total_variation


def test_a_bound_near_1_says_by_what_it_is_below():
    assert "by more than 1 - 0.00017 (Bretagnolle-Huber)" in Certificate("H", 8.0, 0.0).sentence
    assert Certificate("H", 800.0, 0.0).total_variation == 1  # in a float64
    assert "1 - 0 (" not in Certificate("H", 30.0, 0.0).sentence


def test_a_certificate_is_never_below_rounding():
    assert Certificate("H", -2.6e-6, 1e-8).upper == 0
    found = Certificate("H", -2.6e-6, 1e-8, num_samples=8, rounding=2e-4)
    assert found.upper == 2e-4
    assert "<= 0.0002 nats" in found.sentence
    assert "-2.6e-06 ± 1e-08, is within float32 rounding" in found.sentence
    assert Certificate("H", 0.5, 0.1, rounding=2e-4).upper == Certificate("H", 0.5, 0.1).upper


def test_a_plan_of_nearly_equal_models_certifies_rounding():
    path = pair_importance(16).path()
    tiny = replace(path, per_step=-path.per_step * 1e-9, step_variances=path.step_variances * 1e-18,
                   bin_means=-path.bin_means * 1e-9, covariance=path.covariance * 1e-18, halves=())  # fmt: skip
    plan = make_plan(make_importance(tiny), Budget(light_steps=4))
    assert plan.prediction.path_kl < 0
    assert plan.certificate.upper == plan.rounding == pytest.approx(1e-6 * tiny.free_positions)
    alone = make_plan(make_importance(tiny), Budget(light_steps=0))
    assert alone.certificate.upper == 0  # no step was handed over


def test_rounding_is_what_float32_makes_of_equal_models():
    for scale in (1.0, 10.0):
        logits = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0)) * scale
        same = row_divergence(*(log_probabilities(logits * factor, 0) for factor in (1, 1 + 1e-7))).kl
        assert same.abs().max() < ROUNDING


def test_the_interval_is_students():
    # Quantiles of t with 1, 7 and 30 degrees of freedom, from tables.
    for samples, errors in ((2, 6.314), (8, 1.895), (31, 1.697), (100_000, 1.645), (None, 1.645)):
        assert Certificate("H", 1.0, 1.0, num_samples=samples).upper == pytest.approx(1 + errors, abs=1e-3)


STEPS, LIGHT, TRAJECTORIES, RUNS = 48, 12, 24, 120
SIGMAS = 5  # a false alarm in 1.7 million, for each figure that is checked


@pytest.fixture(scope="module")
def certified():
    """Certificates of RUNS analyses of one pair: all steps are worth 1 nat, with noise of s.d. 1 in each trajectory.

    True path KL of every plan: its 12 light steps. By kind: those with halves, and the same analyses without.
    """
    rng, edges = np.random.default_rng(7), np.arange(STEPS + 1)
    plan = SimpleNamespace(num_steps=STEPS, length=8)
    task = SimpleNamespace(plan=plan, template=np.zeros((1, 8)), mask_id=0)
    found = {"halved": [], "whole": []}
    for _ in range(RUNS):
        values = 1 + rng.standard_normal((TRAJECTORIES, 1, STEPS))
        sums = half_sums(values, np.arange(TRAJECTORIES), edges)
        path = path_divergence("unconditional", [sums], ("L",), edges, task)
        for kind, kept in (("halved", path), ("whole", replace(path, halves=()))):
            found[kind].append(make_plan(make_importance(kept), Budget(light_steps=LIGHT)).certificate)
    return found


def bias(certificates):
    """Mean error of the estimates, in standard errors of that mean."""
    errors = np.array([certificate.path_kl - LIGHT for certificate in certificates])
    return errors.mean() / (errors.std(ddof=1) / np.sqrt(len(errors)))


def test_choosing_by_the_numbers_that_certify_is_biased_low(certified):
    assert bias(certified["whole"]) < -10 * SIGMAS
    assert np.mean([certificate.upper >= LIGHT for certificate in certified["whole"]]) < 0.5


def test_what_was_held_back_certifies_without_bias(certified):
    assert abs(bias(certified["halved"])) < SIGMAS
    covered = np.mean([certificate.upper >= LIGHT for certificate in certified["halved"]])
    assert abs(covered - 0.95) < SIGMAS * math.sqrt(0.95 * 0.05 / RUNS)


def test_a_certificate_says_which_kind_it_is(certified):
    halved, whole = certified["halved"][0], certified["whole"][0]
    assert (halved.chosen_on, halved.num_samples, whole.chosen_on, whole.num_samples) == (12, 12, None, 24)
    assert "chosen on 12 trajectories and is certified on 12 others" in halved.sentence
    assert "with 95 % confidence" in halved.sentence
    assert "chosen by the same trajectories that certify it" in whole.sentence
    assert "with nominally 95 % confidence" in whole.sentence
    assert "Analyze again for" in whole.sentence
    assert "Analyze again, with 4 trajectories or more, for" in Certificate("H", 1.0, 0.1, num_samples=3).sentence


def test_a_certificate_says_what_it_was_extrapolated_from():
    same, finer = (make_plan(pair_importance(64), Budget(light_fraction=0.25), steps=steps) for steps in (64, 128))
    assert "approximation" not in same.certificate.sentence
    assert "The confidence holds for the analysed grid of 64 steps" in finer.certificate.sentence
    assert "is an approximation" in finer.certificate.sentence
    assert finer.to_dict()["certificate"]["extrapolated_from"] == 64


def test_plan_comes_back_from_its_file(tmp_path):
    plan = make_plan(
        trio_importance(1000),
        Budget(saved=0.25),
        Limits(max_switches=4, min_run=10),
        costs=(make_table(), 8),
        source="importance.json",
        command="understudy plan",
    )
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert len(plan.frontier) == 200
    assert len(plan.curve.steps) == 200
    assert plan.settings["limits"] == {
        "max_switches": 4,
        "min_run": 10,
        "forced": [],
        "min_steps": {},
        "max_steps": {},
    }
    values = [entry.divergence for entry in plan.frontier]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("{", "damaged"),
        ("{}", r"is no plan \(understudy-plan-1\)"),
        ('{"format": "understudy-plan-1"}', "damaged plan .no entry"),
        ('{"format": "understudy-plan-1", "frontier": [{"schedule": "H0"}]}', "damaged plan"),
    ],
)
def test_damaged_plans_are_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "plan.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as refused:
        Plan.load(tmp_path / "plan.json")
    assert "\n" not in str(refused.value)
