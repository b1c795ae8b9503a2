"""Noise schedules: ends, inverse, derivative and the probabilities that follow from alpha."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import understudy.noise
from understudy.errors import SettingError
from understudy.noise import NOISE_SCHEDULES, Cosine, LogLinear, noise_schedule

# Subnormal times are left out: 1/t overflows there, and no float64 draw from [0, 1) gives one.
times = st.floats(0, 1, allow_subnormal=False)
positive_times = st.floats(1e-300, 1)


@pytest.fixture(params=NOISE_SCHEDULES.values(), ids=NOISE_SCHEDULES.keys())
def noise(request):
    return request.param


each_noise = st.sampled_from(list(NOISE_SCHEDULES.values()))


def test_ends_are_exact(noise):
    assert noise.alpha(0.0) == 1.0
    assert noise.alpha(1.0) == 0.0
    assert noise.mask_prob(0.0) == 0.0
    assert noise.mask_prob(1.0) == 1.0
    assert noise.inverse(1.0) == 0.0
    assert noise.inverse(0.0) == 1.0


def test_alpha_falls_strictly_on_a_fine_grid(noise):
    alpha = noise.alpha(noise.grid(4096))  # from t = 1 down, so alpha rises
    assert np.all(np.diff(alpha) > 0)


def test_known_values():
    assert LogLinear().alpha(0.25) == 0.75
    # 1 - cos(pi/3) and 1 - cos(pi/6), by hand
    assert Cosine().alpha(1 / 3) == pytest.approx(0.5, abs=1e-15)
    assert Cosine().alpha(2 / 3) == pytest.approx(1 - math.sqrt(3) / 2, abs=1e-15)


@given(each_noise, times)
def test_inverse_undoes_alpha(noise, t):
    # Where alpha is near 1 its spacing is 1.1e-16, and a curve of slope at least 1 turns that into as much in t. Where
    # the cosine curve is flat, near t = 1, alpha is small and keeps its relative precision, so its square
    # root does too. What remains is a handful of roundings of numbers below 1; 1e-15 is nine of 1.1e-16.
    assert noise.inverse(noise.alpha(t)) == pytest.approx(t, abs=1e-15)


@given(each_noise, times)
def test_alpha_undoes_inverse(noise, alpha):
    # The slope of alpha is at most pi/2, so an error of 1e-15 in t is below 2e-15 in alpha.
    assert noise.alpha(noise.inverse(alpha)) == pytest.approx(alpha, abs=2e-15)


@given(st.floats(1e-12, 1e-3))
def test_cosine_keeps_its_digits_where_alpha_is_small(distance):
    # The series of 1 - cos(x) at x = pi/2 (1 - t); the next term is below 1e-15 of the sum for x < 2e-3.
    t = 1 - distance
    x = math.pi / 2 * (1 - t)
    assert Cosine().alpha(t) == pytest.approx(x**2 / 2 * (1 - x**2 / 12 * (1 - x**2 / 30)), rel=1e-14)


@given(each_noise, times)
def test_alpha_and_mask_prob_sum_to_one(noise, t):
    assert noise.alpha(t) + noise.mask_prob(t) == pytest.approx(1, abs=5e-16)


@given(each_noise, st.floats(1e-3, 1 - 1e-3))
def test_derivative_agrees_with_finite_differences(noise, t):
    # Central differences err by step**2/6 * |alpha'''| < 1e-10 plus rounding of about 1e-16/step = 1e-11.
    step = 1e-5
    slope = (noise.alpha(t + step) - noise.alpha(t - step)) / (2 * step)
    assert noise.alpha_derivative(t) == pytest.approx(slope, abs=2e-10)


def test_derivative_at_the_ends():
    assert LogLinear().alpha_derivative(np.array([0.0, 1.0])).tolist() == [-1.0, -1.0]
    assert Cosine().alpha_derivative(np.array([0.0, 1.0])).tolist() == [-math.pi / 2, 0.0]


@given(positive_times)
def test_log_linear_loss_weight_is_exactly_one_over_t(t):
    assert LogLinear().loss_weight(t) == 1 / t


@given(st.floats(1e-9, 1))
def test_cosine_loss_weight_is_its_closed_form(t):
    # pi/2 tan(pi/2 (1 - t)), the form MD4 prints; its tan amplifies rounding of its argument near t = 0 by 1/t.
    expected = math.pi / 2 * math.tan(math.pi / 2 * (1 - t))
    assert Cosine().loss_weight(t) == pytest.approx(expected, rel=1e-15 / t + 1e-14, abs=1e-15)


@given(each_noise, st.lists(times, min_size=2, max_size=30, unique=True))
def test_reveal_prob_telescopes(noise, drawn):
    # Staying masked through every step of a grid from 1 down to s has probability 1 - alpha(s).
    grid = np.array([1.0, *sorted((t for t in drawn if 0 < t < 1), reverse=True)])
    stays = np.prod(1 - noise.reveal_prob(grid[:-1], grid[1:]))
    # Each of at most 30 factors 1 - r carries an absolute error of about 1.1e-16, each below 1.
    assert stays == pytest.approx(noise.mask_prob(float(grid[-1])), abs=1e-14)


@given(each_noise, positive_times, times)
def test_reveal_prob_is_its_definition_and_a_probability(noise, t, s):
    s, t = min(s, t), max(s, t)
    revealed = noise.reveal_prob(t, s)
    assert 0 <= revealed <= 1
    if t > 1e-3:  # the plain formula loses the digits of 1 - alpha below
        plain = (noise.alpha(s) - noise.alpha(t)) / (1 - noise.alpha(t))
        assert revealed == pytest.approx(plain, abs=1e-12)


@given(each_noise, positive_times)
def test_everything_is_revealed_by_time_zero(noise, t):
    assert noise.reveal_prob(t, 0.0) == 1.0
    assert noise.reveal_prob(t, t) == 0.0


def test_log_linear_reveals_equal_shares_of_all_tokens():
    noise = LogLinear()
    grid = noise.grid(1000)
    share = noise.mask_prob(grid[:-1]) * noise.reveal_prob(grid[:-1], grid[1:])
    np.testing.assert_allclose(share, 1e-3, rtol=0, atol=1e-15)


@given(st.integers(1, 3000))
def test_grid_is_the_nearest_float_to_every_fraction(num_steps):
    grid = LogLinear().grid(num_steps)
    assert grid.dtype == np.float64
    assert grid.tolist() == [(num_steps - k) / num_steps for k in range(num_steps + 1)]


@given(st.integers(1, 300), st.floats(0, 0.99))
def test_grid_has_exact_ends_and_even_steps(num_steps, t_end):
    grid = Cosine().grid(num_steps, t_end)
    assert len(grid) == num_steps + 1
    assert grid[0] == 1.0
    assert grid[-1] == t_end
    # Two neighbouring times, each a few roundings of 1.1e-16 off.
    np.testing.assert_allclose(-np.diff(grid), (1 - t_end) / num_steps, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("num_steps", "t_end"), [(0, 0.0), (-3, 0.0), (5, 1.0), (5, -0.1), (5, float("nan"))])
def test_grid_refuses_what_is_no_grid(num_steps, t_end):
    with pytest.raises(SettingError, match="must be at least"):
        LogLinear().grid(num_steps, t_end)


def test_a_float_gives_a_float_and_an_array_its_shape(noise):
    t = np.linspace(0.1, 0.9, 6).reshape(2, 3)
    for method in (noise.alpha, noise.mask_prob, noise.inverse, noise.alpha_derivative, noise.loss_weight):
        assert type(method(0.5)) is float
        result = method(t)
        assert result.shape == t.shape
        assert result.dtype == np.float64
        np.testing.assert_array_equal(result.ravel(), [method(float(x)) for x in t.ravel()])
        assert not np.shares_memory(result, t)
    assert type(noise.reveal_prob(0.5, 0.25)) is float
    assert noise.reveal_prob(t, t / 2).shape == t.shape
    assert noise.alpha(np.array([], dtype=np.float64)).shape == (0,)


@pytest.mark.parametrize("t", [-1e-9, 1 + 1e-9, float("nan"), np.array([0.5, 2.0])])
def test_times_outside_their_range_are_refused(noise, t):
    methods = (noise.alpha, noise.mask_prob, noise.inverse, noise.alpha_derivative, noise.loss_weight)
    for method in methods:
        with pytest.raises(SettingError, match="outside the range from 0 to 1"):
            method(t)


def test_weights_and_reveals_refuse_time_zero_and_upward_time(noise):
    with pytest.raises(SettingError, match="t is 0"):
        noise.loss_weight(np.array([0.5, 0.0]))
    with pytest.raises(SettingError, match="t is 0"):
        noise.reveal_prob(0.0, 0.0)
    with pytest.raises(SettingError, match="s is above t"):
        noise.reveal_prob(0.5, 0.6)


def test_lookup_by_name():
    assert noise_schedule("loglinear") == LogLinear()
    assert noise_schedule("cosine") == Cosine()
    assert all(noise_schedule(name).name == name for name in NOISE_SCHEDULES)
    with pytest.raises(SettingError, match=r"'linear'.*loglinear, cosine"):
        noise_schedule("linear")


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(understudy.noise)
    assert result.attempted >= 3
    assert result.failed == 0
