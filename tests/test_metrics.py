import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stage import make_llama
from understudy import metrics
from understudy.errors import DataError, ModelError, SettingError
from understudy.metrics import likelihood


def loop_nlls(judge, ids):
    """One prefix at a time: the definition, spelled out."""
    values = []
    for end in range(1, len(ids)):
        logits = judge(input_ids=torch.tensor([ids[:end]])).logits[0, -1].double()
        values.append(-torch.log_softmax(logits, -1)[ids[end]].item())
    return values


def test_a_uniform_judge_has_perplexity_v():
    judge = make_llama(vocab=37, scale=0.0)
    nlls = metrics.token_nlls(judge, np.random.default_rng(0).integers(0, 37, (5, 12)))
    sums, counts = [row.sum() for row in nlls], [len(row) for row in nlls]
    assert counts == [11] * 5
    assert metrics.generative_perplexity(sums, counts) == pytest.approx(37, rel=1e-12)
    assert metrics.bootstrap_interval(sums, counts) == pytest.approx((37, 37), rel=1e-12)


def test_nlls_equal_a_loop_over_prefixes_whatever_the_lengths_and_batch():
    judge = make_llama(vocab=23)
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, 23, length).tolist() for length in (7, 2, 32, 7)]
    for batch_size in (1, 3):
        for values, row in zip(metrics.token_nlls(judge, rows, batch_size=batch_size), rows, strict=True):
            np.testing.assert_allclose(values, loop_nlls(judge, row), rtol=1e-4)


def test_long_samples_are_read_in_windows_whose_first_token_is_unscored():
    judge = make_llama(vocab=23, context=8)
    row = np.random.default_rng(2).integers(0, 23, 21).tolist()
    (values,) = metrics.token_nlls(judge, [row])
    expected = [nll for start in (0, 8, 16) for nll in loop_nlls(judge, row[start : start + 8])]
    assert len(values) == 21 - 3
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_scores_do_not_depend_on_how_many_logits_are_widened_at_a_time(monkeypatch):
    judge, tokens = make_llama(vocab=23), np.random.default_rng(8).integers(0, 23, (5, 13))
    whole = metrics.token_nlls(judge, tokens)
    monkeypatch.setattr(likelihood, "_CPU_CHUNK", 23 * 4)
    for few, full in zip(metrics.token_nlls(judge, tokens), whole, strict=True):
        np.testing.assert_allclose(few, full, rtol=1e-12)


def test_a_broken_judge_is_an_error():
    judge = make_llama(vocab=23)
    judge.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="is its checkpoint intact"):
        metrics.token_nlls(judge, [[1, 2, 3]])


def test_a_bos_token_makes_every_token_count():
    judge = make_llama(vocab=23, context=8)
    row = np.random.default_rng(3).integers(0, 23, 15).tolist()  # windows of 7, 7 and a single token
    (values,) = metrics.token_nlls(judge, [row], bos_id=4)
    expected = [nll for start in (0, 7, 14) for nll in loop_nlls(judge, [4, *row[start : start + 7]])]
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_given_tokens_are_context_only():
    judge = make_llama(vocab=23)
    tokens = np.random.default_rng(4).integers(0, 23, (2, 9))
    scored = np.tile(np.arange(9) >= 5, (2, 1))
    for few, full in zip(
        metrics.token_nlls(judge, tokens, scored=scored), metrics.token_nlls(judge, tokens), strict=True
    ):
        np.testing.assert_array_equal(few, full[4:])


@pytest.mark.parametrize("rows", [[], [[]], [[1, 2], []], [[[1]]]])
def test_nothing_to_score_is_an_error(rows):
    with pytest.raises(DataError, match="nothing to score"):
        metrics.sample_rows(rows)


def test_tokens_that_the_judge_does_not_know_are_an_error():
    with pytest.raises(DataError, match=r"sample 1 holds token 23; the judge knows 0 … 22"):
        metrics.token_nlls(make_llama(vocab=23), [[1, 2], [1, 23]])
    with pytest.raises(SettingError, match="batch_size is 0"):
        metrics.token_nlls(make_llama(vocab=23), [[1, 2]], batch_size=0)


def test_perplexity_weighs_tokens_not_samples():
    assert metrics.generative_perplexity([10.0, 0.0], [10, 90]) == pytest.approx(math.exp(0.1))
    with pytest.raises(DataError, match="no sample has a scored token"):
        metrics.generative_perplexity([0.0, 0.0], [0, 0])
    with pytest.raises(DataError, match="one per sample"):
        metrics.generative_perplexity([1.0], [1, 1])


def test_bootstrap_interval_covers_the_truth():
    # Normal per-token means: the percentile interval at n = 50 covers with probability about 0.94. Over 400 trials
    # the count's standard deviation is 4.8; the bounds are 4 of them away, a false alarm below 1e-4.
    rng, truth = np.random.default_rng(5), math.exp(3.0)
    hits = 0
    for trial in range(400):
        sums = rng.normal(3.0, 0.5, 50) * 20
        low, high = metrics.bootstrap_interval(sums, np.full(50, 20), resamples=500, seed=trial)
        hits += low <= truth <= high
    assert 0.94 * 400 - 4 * 4.8 < hits < 0.94 * 400 + 4 * 4.8


@pytest.mark.parametrize("count", [8, 12, 29])
def test_intervals_of_few_samples_are_as_wide_as_students(count):
    # Normal per-token means: 95 % at any n, where percentiles alone hold the truth about 88 % of the time at n = 8.
    # Over 800 trials the count's standard deviation is 6.2; the bounds are 4 of them away.
    rng, counts, hits = np.random.default_rng(11), np.full(count, 20), 0
    for trial in range(800):
        change = rng.normal(0.0, 0.5, count) * 20
        paired = metrics.paired_bootstrap_difference((np.zeros(count), counts), (change, counts), seed=trial)
        hits += paired.within_noise
    assert abs(hits - 0.95 * 800) < 4 * 6.2


def test_the_widening_fades_out():
    values = np.random.default_rng(3).normal(size=200_000)
    plain = np.diff(metrics.percentiles(values))[0]
    wider = [np.diff(metrics.percentiles(values, num_samples=count))[0] / plain for count in (8, 29, 30, 1000)]
    assert wider == pytest.approx([2.365 * math.sqrt(8 / 7) / 1.96, 2.048 * math.sqrt(29 / 28) / 1.96, 1, 1], rel=0.02)


def test_false_alarms_of_paired_differences_are_as_stated():
    # No difference on average: the 95 % interval misses 0 in about 6 % of trials at n = 50; bounds as above.
    rng, counts = np.random.default_rng(6), np.full(50, 20)
    alarms = 0
    for trial in range(400):
        shared = rng.normal(3, 0.5, 50)
        first, second = (shared + rng.normal(0, 0.1, 50) for _ in range(2))
        paired = metrics.paired_bootstrap_difference(
            (first * 20, counts), (second * 20, counts), resamples=500, seed=trial
        )
        alarms += not paired.within_noise
    assert 0.06 * 400 - 4 * 4.8 < alarms < 0.06 * 400 + 4 * 4.8


def test_pairing_narrows_the_interval_of_correlated_scores():
    rng, counts = np.random.default_rng(7), np.full(40, 20.0)
    first = rng.normal(60, 10, 40)
    second = first + 2 + rng.normal(0, 1, 40)
    paired = metrics.paired_bootstrap_difference((first, counts), (second, counts))
    shuffled = metrics.paired_bootstrap_difference((first, counts), (rng.permutation(second), counts))
    assert paired.high - paired.low < 0.3 * (shuffled.high - shuffled.low)
    assert not paired.within_noise
    assert paired.difference == pytest.approx(shuffled.difference) == pytest.approx((second - first).mean() / 20)


def test_equal_scores_differ_by_exactly_nothing():
    scores = (np.array([3.3, 7.1, 5.9]), np.array([3, 7, 5]))
    assert metrics.paired_bootstrap_difference(scores, scores) == metrics.PairedDifference(0.0, 0.0, 0.0)
    assert metrics.paired_bootstrap_difference(scores, scores).within_noise


def test_intervals_are_functions_of_their_seed_and_want_two_samples():
    sums, counts = np.arange(1.0, 9.0), np.full(8, 4)
    assert metrics.bootstrap_interval(sums, counts, seed=3) == metrics.bootstrap_interval(sums, counts, seed=3)
    assert metrics.bootstrap_interval(sums, counts, seed=3) != metrics.bootstrap_interval(sums, counts, seed=4)
    with pytest.raises(SettingError, match="two samples"):
        metrics.bootstrap_interval([1.0], [1])
    with pytest.raises(SettingError, match="confidence between 0 and 1"):
        metrics.bootstrap_interval(sums, counts, confidence=1.0)
    with pytest.raises(DataError, match="cannot be paired"):
        metrics.paired_bootstrap_difference((sums, counts), (sums[:3], counts[:3]))


def test_entropy_of_constant_and_of_all_different_samples():
    values = metrics.token_entropy([[5] * 8, list(range(8)), [1, 1, 2, 2]])
    np.testing.assert_allclose(values, [0.0, math.log(8), math.log(2)], rtol=1e-15)
    assert math.copysign(1, values[0]) == 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_entropy_lies_between_nothing_and_log_l_and_ignores_order(ids):
    values = metrics.token_entropy([ids, sorted(ids)])
    assert 0 <= values[0] <= math.log(len(ids)) + 1e-12
    assert values[0] == pytest.approx(values[1])


def test_distinct_n_by_hand():
    # Bigrams: 12 23 31 | 12 22: four distinct of five; never across samples.
    rows = [[1, 2, 3, 1], [1, 2, 2]]
    assert metrics.distinct_n(rows, 1) == 3 / 7
    assert metrics.distinct_n(rows, 2) == 4 / 5
    assert metrics.distinct_n(torch.tensor([[7, 7, 7]]), 2) == 1 / 2
    with pytest.raises(DataError, match="no sample has 5 tokens"):
        metrics.distinct_n(rows, 5)
    with pytest.raises(SettingError, match="n is 0"):
        metrics.distinct_n(rows, 0)


def test_mean_and_error():
    assert metrics.mean_and_error([2.0]) == (2.0, None)
    assert metrics.mean_and_error([1.0, 3.0]) == (2.0, pytest.approx(1.0))
