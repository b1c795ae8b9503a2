"""Draws: the inverse distribution function, temperature and nucleus."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.flops import PassFlops
from understudy.sampling import SamplingTask, sample_plain
from understudy.sampling.draw import inverse_cdf, probabilities


def logits_of(values):
    return torch.tensor([values], dtype=torch.float64)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=12), st.floats(0, 1, exclude_max=True))
def test_a_token_is_the_first_whose_distribution_function_exceeds_u(values, u):
    probs = probabilities(logits_of(values), mask_id=0)[0]
    token = int(inverse_cdf(probs[None], torch.tensor([u], dtype=torch.float64)))
    below = float(probs[:token].sum())
    assert probs[token] > 0
    assert below <= u + 1e-12
    assert u < below + float(probs[token]) + 1e-12


def test_shares_of_a_fine_grid_are_the_probabilities():
    probs = probabilities(logits_of([9.0, 1.0, 0.0, -1.0, 2.0]), mask_id=0)
    uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    tokens = inverse_cdf(probs.expand(len(uniforms), -1), uniforms)
    shares = torch.bincount(tokens, minlength=5) / len(uniforms)
    torch.testing.assert_close(shares.double(), probs[0], atol=2e-5, rtol=0)  # one grid cell at each boundary


def test_impossible_tokens_are_never_drawn():
    # The mask first, in the middle and last, a token of probability 0 at the end, and u at both ends of [0, 1).
    for mask_id in range(4):
        values = [0.0, 0.0, 0.0, 0.0]
        values[(mask_id + 1) % 4] = -torch.inf
        probs = probabilities(logits_of(values), mask_id=mask_id)
        ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
        for token in inverse_cdf(probs.expand(2, -1), ends).tolist():
            assert token not in (mask_id, (mask_id + 1) % 4)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=10), st.floats(0.05, 1))
def test_nucleus_is_the_smallest_set_that_reaches_top_p(values, top_p):
    full = probabilities(logits_of(values), mask_id=0)[0]
    kept = probabilities(logits_of(values), mask_id=0, top_p=top_p)[0]
    chosen = kept > 0
    mass = float(full[chosen].sum())
    assert mass >= top_p - 1e-9
    assert mass - float(full[chosen].min()) < top_p + 1e-9
    torch.testing.assert_close(kept, torch.where(chosen, full / mass, 0.0))
    assert float(full[chosen].min()) >= float(full[~chosen].max())


def test_temperature_zero_takes_the_likeliest():
    probs = probabilities(logits_of([9.0, 1.0, 3.0, 2.0]), mask_id=0, temperature=0)
    assert probs.tolist() == [[0.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize("temperature", [0, 1])
def test_nan_stays_visible(temperature):
    assert torch.isnan(probabilities(logits_of([0.0, float("nan"), 1.0]), 0, temperature=temperature)).any()


def test_the_callers_logits_are_left_alone():
    logits = logits_of([1.0, 2.0, 3.0])
    probabilities(logits, mask_id=1, temperature=2, top_p=0.5)
    assert logits.tolist() == [[1.0, 2.0, 3.0]]


def test_no_temperature_overflows():
    probs = probabilities(logits_of([0.0, 700.0, 1.0, -700.0]), mask_id=0, temperature=1e-310)
    assert probs.tolist() == [[0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_row_without_a_finite_entry_is_nan(temperature):
    assert torch.isnan(probabilities(logits_of([1.0, -torch.inf, -torch.inf]), 0, temperature=temperature)).all()


class FlatDenoiser:
    """Every token equally likely."""

    uses_time, noise, begin_id, max_length, device = False, None, None, None, torch.device("cpu")

    def __init__(self, num_tokens):
        self.mask_id, self.vocab_size = num_tokens, num_tokens + 1

    def logits(self, xt, t=None, where=None):
        return torch.zeros(*xt.shape, self.vocab_size)

    def pass_flops(self, length, revealed=None):
        return PassFlops(1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_of_zero_wins_no_race(dtype, monkeypatch):
    # It can be drawn, in float32 every 2^24 times; an exponential variable of 0 would reveal a token of no merit.
    def rigged(shape, **_):
        uniforms = torch.full(shape, 0.5, dtype=dtype)
        uniforms[..., 5] = 0
        return uniforms

    monkeypatch.setattr(torch, "rand", rigged)
    task = SamplingTask.create({"H": FlatDenoiser(50)}, "H10", length=8)
    run = sample_plain(task, noise_dtype=dtype)
    assert len(next(run).rows) == 0  # all other variables are equal, so the mask, of rate 0.9, wins everywhere
