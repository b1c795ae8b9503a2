"""The parts of decoding rules on their own: scores, blocks, steps of blocks, positions of steps."""

import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.sampling.decoding import engine, pace
from understudy.sampling.decoding.pace import (
    PACES,
    block_indices,
    highest,
    reach_threshold,
    reveal_counts,
    steps_of_blocks,
)
from understudy.sampling.decoding.rules import CONFIDENCE_RULES, entropy, low_confidence, margin

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@pytest.fixture
def scored():
    generator = torch.Generator().manual_seed(3)
    probs = torch.softmax(3 * torch.randn(20, 7, generator=generator, dtype=torch.float64), -1)
    probs[0] = torch.eye(7, dtype=torch.float64)[2]  # certain
    probs[1] = 1 / 7
    return probs, torch.randint(0, 7, (20,), generator=generator)


def test_scores_are_what_their_names_say(scored):
    probs, tokens = scored
    rows = probs.tolist()
    drawn = [row[token] for row, token in zip(rows, tokens.tolist(), strict=True)]
    leads = [sorted(row)[-1] - sorted(row)[-2] for row in rows]
    surprises = [sum(p * math.log(p) for p in row if p > 0) for row in rows]
    np.testing.assert_allclose(low_confidence(probs, tokens), drawn)
    np.testing.assert_allclose(margin(probs, tokens), leads, atol=1e-15)
    np.testing.assert_allclose(entropy(probs, tokens), surprises, atol=1e-15)


@pytest.mark.parametrize("name", CONFIDENCE_RULES)
def test_nothing_beats_certainty_and_nan_is_passed_on(name, scored):
    probs, _ = scored
    tokens = probs.argmax(-1)
    score = CONFIDENCE_RULES[name].score
    scores = score(probs, tokens)
    assert int(scores.argmax()) == 0
    assert float(scores.min()) == pytest.approx(float(scores[1]))
    assert score(torch.full_like(probs, torch.nan), tokens).isnan().all()


@given(st.lists(st.sampled_from([0.1, 0.4, 0.8, 0.9]), min_size=1, max_size=12), st.floats(0.01, 1), st.data())
def test_choosing_by_count_and_by_threshold(scores, threshold, data):
    scores = np.array(scores)
    count = data.draw(st.integers(1, len(scores)))
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert highest(scores, count).tolist() == sorted(best[:count])
    assert reach_threshold(scores, threshold).tolist() == (
        [i for i, s in enumerate(scores) if s >= threshold] or best[:1]
    )


@given(st.integers(1, 200), st.integers(1, 200))
def test_paces_are_those_of_the_published_loops(masked, steps):
    # LLaDA: the share of each step, and one more in the first steps.
    equal = [masked // steps] * steps
    for step in range(masked % steps):
        equal[step] += 1
    assert PACES["equal"](masked, steps) == equal
    # Dream: of those left, the share 1 − s/t of a grid from 1 to 0; all in the last step.
    timestep, left = [], masked
    for step in range(steps):
        t, s = (steps - step) / steps, (steps - step - 1) / steps
        timestep.append(int(left * (1 - s / t) + 1e-9) if step < steps - 1 else left)
        left -= timestep[-1]
    assert PACES["timestep"](masked, steps) == timestep


@given(SIZES, st.data())
def test_every_block_has_steps_and_no_more_than_positions(sizes, data):
    num_steps = data.draw(st.integers(len(sizes), sum(sizes)))
    steps = steps_of_blocks(sizes, num_steps)
    assert sum(steps) == num_steps
    assert all(1 <= own <= size for own, size in zip(steps, sizes, strict=True))
    for name in PACES:
        counts = reveal_counts(sizes, num_steps, name)
        assert (len(counts), min(counts) >= 1) == (num_steps, True)
        ends = np.cumsum(counts)
        assert set(np.cumsum(sizes)) <= set(ends)  # a block ends where a step ends


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 8))
def test_equal_blocks_have_equal_steps(size, blocks, steps):
    assert steps_of_blocks([size] * blocks, blocks * min(steps, size)) == [min(steps, size)] * blocks


def test_blocks_begin_where_there_is_something_to_sample():
    free = np.array([[0, 0, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0]], dtype=bool)
    assert block_indices(free, 3).tolist() == [[-1, -1, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 2, 2]]


@pytest.mark.parametrize("module", [pace, engine])
def test_examples_of_the_docstrings_run(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)
