"""Reveal plans: counts are binomial, rows depend on the seed and their index alone, events say it all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import SettingError
from understudy.flops import expected_passes
from understudy.noise import Cosine, LogLinear
from understudy.reveal import GIVEN, RevealPlan
from understudy.schedule import ModelSchedule


def plan_of(num_samples, length, num_steps, *, noise=None, seed=0, t_end=0.0, first_index=0):
    noise = noise or LogLinear()
    free = np.ones((num_samples, length), dtype=bool)
    return RevealPlan.draw(free, noise.grid(num_steps, t_end), noise, seed=seed, first_index=first_index)


@pytest.mark.parametrize("noise", [LogLinear(), Cosine()])
def test_reveal_counts_are_binomial(noise):
    num_steps, positions = 8, 400 * 100
    plan = plan_of(400, 100, num_steps, noise=noise)
    prob = np.diff(noise.alpha(noise.grid(num_steps)))
    counts = np.bincount(plan.reveal_step.ravel(), minlength=num_steps)
    assert counts.sum() == positions  # nothing is left at t = 0
    # 16 normal deviations beyond 5.5 standard deviations: false-alarm rate below 1e-6.
    assert (np.abs(counts - positions * prob) < 5.5 * np.sqrt(positions * prob * (1 - prob))).all()
    # Positions are independent: the number revealed by step 3 in a row of 100 has binomial variance.
    by_row = (plan.reveal_step <= 3).sum(axis=1)
    share = prob[:4].sum()
    assert 0.7 < by_row.var() / (100 * share * (1 - share)) < 1.4


def test_a_row_depends_on_seed_and_index_alone():
    many, tail = plan_of(10, 16, 50, seed=3), plan_of(4, 16, 50, seed=3, first_index=6)
    np.testing.assert_array_equal(many.reveal_step[6:], tail.reveal_step)
    np.testing.assert_array_equal(many.uniforms[6:], tail.uniforms)
    assert not np.array_equal(many.uniforms, plan_of(10, 16, 50, seed=4).uniforms)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_grids_of_one_seed_reveal_in_one_order(steps_a, steps_b, seed):
    a, b = (plan_of(1, 24, n, seed=seed).reveal_step[0] for n in (steps_a, steps_b))
    order = np.lexsort((b, a))
    assert (np.diff(b[order])[np.diff(a[order]) > 0] >= 0).all()


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 60), st.data())
def test_events_reveal_every_free_position_once_and_in_order(num_samples, length, num_steps, data):
    free = np.array(data.draw(st.lists(st.booleans(), min_size=num_samples * length, max_size=num_samples * length)))
    free = free.reshape(num_samples, length)
    plan = RevealPlan.draw(free, LogLinear().grid(num_steps), LogLinear(), seed=data.draw(st.integers(0, 1000)))
    events, seen = plan.events, np.zeros_like(free)
    for e in range(len(events)):
        positions = events.positions[events.starts[e] : events.starts[e + 1]]
        assert len(positions) >= 1
        assert (plan.reveal_step[events.samples[e], positions] == events.steps[e]).all()
        assert not seen[events.samples[e], positions].any()
        seen[events.samples[e], positions] = True
    np.testing.assert_array_equal(seen, free)
    assert (plan.reveal_step[~free] == GIVEN).all()
    same_sample = np.diff(events.samples) == 0
    assert (np.diff(events.steps)[same_sample] > 0).all()


@pytest.mark.parametrize(("num_steps", "length", "known"), [(1000, 1024, 641), (1000, 128, 120), (100, 100, None)])
def test_mean_passes_are_those_of_theory(num_steps, length, known):
    schedule = ModelSchedule.single(num_steps)
    theory = num_steps * (1 - (1 - 1 / num_steps) ** length)
    assert expected_passes(schedule, LogLinear(), length)["H"] == pytest.approx(theory)
    if known is not None:
        assert round(theory) == known
    passes = np.bincount(plan_of(200, length, num_steps).events.samples)
    assert abs(passes.mean() - theory) < 6 * passes.std() / np.sqrt(200)


def test_passes_by_key_add_up():
    plan, schedule = plan_of(20, 64, 100), ModelSchedule.parse("L25,H50,L25")
    passes = plan.num_passes(schedule)
    assert sum(passes.values()) == len(plan.events)
    inside = (plan.events.steps >= 25) & (plan.events.steps < 75)
    assert passes["H"] == inside.sum()


@pytest.mark.parametrize("times", [[1.0], [0.9, 0.0], [1.0, 1.0, 0.0], [1.0, -0.1], [1.0, 0.5, 0.6]])
def test_a_grid_falls_from_one(times):
    with pytest.raises(SettingError, match="fall strictly from 1"):
        RevealPlan.draw(np.ones((1, 4), dtype=bool), np.array(times), LogLinear(), seed=0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed):
    with pytest.raises(SettingError, match="seed"):
        plan_of(1, 4, 4, seed=seed)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_part_of_a_plan_is_the_plan_of_its_samples(one_by_one):
    law = LogLinear()
    free, options = np.ones((6, 9), dtype=bool), {"seed": 3, "one_by_one": one_by_one}
    whole = RevealPlan.draw(free, law.grid(12), law, **options)
    part, alone = whole.part(slice(2, 5)), RevealPlan.draw(free[2:5], law.grid(12), law, first_index=2, **options)
    for name in ("times", "reveal_step", "uniforms", *(["hits"] if one_by_one else [])):
        assert np.array_equal(getattr(part, name), getattr(alone, name))
    assert (part.hits is None) == (not one_by_one)
    assert part.passes_per_sample.tolist() == whole.passes_per_sample[2:5].tolist()
    assert whole.passes_per_sample.sum() == len(whole.events)
