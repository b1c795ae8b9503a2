"""First-hitting and random order draw from the law they claim to draw from, and are the same where they should be."""

from collections import defaultdict
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import torch

from driving import finish
from laws import FALSE_ALARM, TableDenoiser, ancestral_law, chi_square_p_value, exact_pair, random_law
from models import CountingDenoiser, tiny_denoiser, tiny_pair
from understudy import sample_steps
from understudy.denoisers.exact import ExactDenoiser
from understudy.noise import noise_schedule
from understudy.sampling import decode, decoding_task
from understudy.schedule import ModelSchedule

MASK = 2
CASES = {
    "heavy alone": ("H1", [MASK, MASK, MASK], "loglinear"),
    "mixed schedule": ("L1,H2,L1", [MASK, MASK, MASK], "loglinear"),
    "infill, mixed": ("L2,H1", [MASK, 1, MASK], "loglinear"),
    "cosine noise": ("L2,H1", [MASK, MASK, MASK], "cosine"),
}


def first_hitting_law(denoisers, schedule, template, noise):
    """{sequence: probability} by enumeration: steps are independent; within one, each order is as likely as another."""
    law, keys = noise_schedule(noise), ModelSchedule.parse(schedule).steps()
    share = np.diff(law.alpha(law.grid(len(keys))))
    free = [i for i, token in enumerate(template) if token == MASK]
    found = defaultdict(float)
    orders = list(permutations(range(len(free))))
    for steps in product(range(len(keys)), repeat=len(free)):
        valid = [order for order in orders if all(steps[a] <= steps[b] for a, b in pairwise(order))]
        for order in valid:
            mass = np.prod(share[list(steps)]) / len(valid)
            for sequence, p in in_order(denoisers, template, [(free[i], keys[steps[i]]) for i in order]).items():
                found[sequence] += mass * p
    return dict(found)


def in_order(denoisers, template, moves):
    """{sequence: probability} of revealing (position, key) after (position, key)."""
    canvases = {tuple(template): 1.0}
    for position, key in moves:
        following = defaultdict(float)
        for canvas, mass in canvases.items():
            probs = denoisers[key].logits(torch.tensor([canvas]))[0, position].softmax(-1).tolist()
            for token in range(MASK):
                following[(*canvas[:position], token, *canvas[position + 1 :])] += mass * probs[token]
        canvases = following
    return canvases


@pytest.mark.parametrize("name", CASES)
def test_first_hitting_samples_have_the_enumerated_law(name):
    # 20,000 samples tell a total variation of about 0.03 from 0 with near certainty at this false-alarm rate.
    schedule, template, noise = CASES[name]
    denoisers = exact_pair()
    options = {"num_samples": 20_000, "template": template, "seed": 7, "batch_size": 4096, "noise": noise}
    tokens = decode(denoisers, schedule, decoding="first_hitting", **options).tokens
    law = first_hitting_law(denoisers, schedule, template, noise)
    assert sum(law.values()) == pytest.approx(1)
    assert chi_square_p_value(tokens, law) > FALSE_ALARM
    if "L" in schedule:  # were the check blind to who reveals what, it would mean nothing
        assert chi_square_p_value(tokens, first_hitting_law(denoisers, "H4", template, noise)) < FALSE_ALARM


@pytest.mark.parametrize("decoding", ["first_hitting", "random"])
def test_one_model_one_by_one_draws_the_clean_law(decoding):
    # One token at a time from exact conditionals is the chain rule, in whatever order: no error of the step size.
    law = random_law(2, 3, seed=1)
    expected = {tuple(sequence): float(law[tuple(sequence)]) for sequence in product(range(2), repeat=3)}
    tokens = decode({"H": ExactDenoiser(law)}, "H3", decoding=decoding, num_samples=20_000, batch_size=4096).tokens
    assert chi_square_p_value(tokens, expected) > FALSE_ALARM
    one_step = ancestral_law({"H": ExactDenoiser(law)}, "H1", [MASK] * 3)
    assert chi_square_p_value(tokens, one_step) < FALSE_ALARM


@pytest.mark.parametrize("noise", ["loglinear", "cosine"])
def test_first_hitting_is_ancestral_sampling_with_ever_more_steps(noise):
    # Both laws by enumeration, boundaries in one place. They differ only where two of three positions share a step.
    denoisers, template = exact_pair(), [MASK] * 3
    limit = first_hitting_law(denoisers, "L1,H1", template, noise)
    distances = []
    for half in (2, 8, 32):
        law = ancestral_law(denoisers, f"L{half},H{half}", template, noise)
        distances.append(sum(abs(law.get(sequence, 0) - p) for sequence, p in limit.items()) / 2)
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    steepest = np.diff(noise_schedule(noise).alpha(noise_schedule(noise).grid(64))).max()
    assert distances[-1] < 3 * steepest


def test_first_hitting_keeps_the_steps_of_the_ancestral_plan_and_reveals_one_at_a_time():
    options = {"length": 24, "num_samples": 4, "seed": 5, "prefix": [1, 2]}
    task = decoding_task(tiny_pair(), "L3,H6,L3", decoding="first_hitting", **options)
    ancestral = decoding_task(tiny_pair(), "L3,H6,L3", **options)
    np.testing.assert_array_equal(task.plan.reveal_step, ancestral.plan.reveal_step)
    np.testing.assert_array_equal(task.plan.uniforms, ancestral.plan.uniforms)
    records, result = finish(sample_steps(task))
    assert task.num_passes == 4 * 22 == sum(len(record.samples) for record in records) == sum(result.nfe.values())
    assert all(len(record.rows) == len(record.samples) for record in records)
    hits = [[] for _ in range(4)]
    for record in records:
        assert {task.schedule.key_at(step) for step in record.steps} == {record.key}
        for index, position in zip(record.places, record.positions, strict=True):
            hits[index].append(task.plan.hits[index, position])
    assert all(times == sorted(times) for times in hits)
    # 88 passes of one position each, by whichever model: the accounting of plans needs nothing new.
    executed = sum(count * task.denoisers[key].pass_flops(24, 1).total for key, count in result.nfe.items())
    assert result.flops.executed == executed


def test_the_grid_of_first_hitting_says_only_which_model():
    options = {"decoding": "first_hitting", "length": 20, "num_samples": 4, "batch_size": 3}
    coarse, fine = (decode(tiny_pair(), schedule, **options) for schedule in ("L1,H2,L1", "L50,H100,L50"))
    assert torch.equal(coarse.tokens, fine.tokens)
    assert coarse.nfe == fine.nfe


@pytest.mark.parametrize("prefix", [None, [3, 4, 5]])
def test_random_order_one_by_one_is_first_hitting_under_one_model(prefix):
    # The same law, as above; and as both read the same noise, the same tokens in the same order.
    options = {"length": 16, "num_samples": 6, "seed": 8, "prefix": prefix, "batch_size": 2}
    free = 16 - len(prefix or ())
    orders, tokens = [], []
    for decoding in ("random", "first_hitting"):
        task = decoding_task({"H": tiny_denoiser()}, f"H{free}", decoding=decoding, **options)
        records, result = finish(sample_steps(task))
        order = [[] for _ in range(6)]
        for record in records:
            for index, position in zip(record.places, record.positions, strict=True):
                order[index].append(int(position))
        orders.append(order)
        tokens.append(result.tokens)
    assert orders[0] == orders[1]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("pace", ["equal", "timestep"])
def test_random_order_reveals_by_pace_and_block_and_asks_for_no_more(pace):
    pair = {key: CountingDenoiser(model) for key, model in tiny_pair().items()}
    task = decoding_task(
        pair,
        "L2,H4",
        decoding="random",
        length=17,
        prefix=[1],
        num_samples=400,
        block_length=8,
        pace=pace,
        batch_size=64,
    )
    counts = [np.bincount(row[1:], minlength=6).tolist() for row in task.plan.reveal_step]
    assert counts == [[3, 3, 2, 3, 3, 2] if pace == "equal" else [2, 3, 3, 2, 3, 3]] * 400
    assert (task.plan.reveal_step[:, 1:9] < 3).all()
    assert (task.plan.reveal_step[:, 9:] >= 3).all()
    np.testing.assert_allclose(task.plan.times, 1 - np.arange(7) / 6, atol=1e-15)
    # Every position of a block is as likely to be first: 400 draws of `counts[0][0]` of 8, 5 standard errors.
    first = (task.plan.reveal_step[:, 1:9] == 0).mean(axis=0)
    share = counts[0][0] / 8
    assert (np.abs(first - share) < 5 * np.sqrt(share * (1 - share) / 400)).all()
    _, result = finish(sample_steps(task))
    assert sum(model.positions for model in pair.values()) == 400 * 16
    assert result.nfe == {"L": 800, "H": 1600}


def confidence_law(denoisers, keys, template, rule):
    """{sequence: probability} at temperature 1 by enumeration: all candidates are drawn, the surest is kept."""
    canvases = {tuple(template): 1.0}
    for key in keys:
        following = defaultdict(float)
        for canvas, mass in canvases.items():
            probs = denoisers[key].logits(torch.tensor([canvas]))[0].softmax(-1).tolist()
            masked = [i for i, token in enumerate(canvas) if token == MASK]
            for drawn in product(range(MASK), repeat=len(masked)):
                p = np.prod([probs[i][token] for i, token in zip(masked, drawn, strict=True)])
                score = {
                    "low_confidence": [probs[i][token] for i, token in zip(masked, drawn, strict=True)],
                    "margin": [abs(probs[i][0] - probs[i][1]) for i in masked],
                    "entropy": [sum(q * np.log(q) for q in probs[i][:MASK]) for i in masked],
                }[rule]
                best = int(np.argmax(score))
                position = masked[best]
                following[(*canvas[:position], drawn[best], *canvas[position + 1 :])] += mass * p
        canvases = following
    return canvases


@pytest.mark.parametrize("rule", ["low_confidence", "margin", "entropy"])
def test_confidence_samples_have_the_enumerated_law(rule):
    # Were a position to keep its noise from pass to pass, low_confidence would have another law.
    denoisers = exact_pair()
    tokens = decode(denoisers, "L1,H2", decoding=rule, num_samples=5_000, seed=1, batch_size=512).tokens
    law = confidence_law(denoisers, "LHH", [MASK] * 3, rule)
    assert chi_square_p_value(tokens, law) > FALSE_ALARM
    assert chi_square_p_value(tokens, ancestral_law(denoisers, "L1,H2", [MASK] * 3)) < FALSE_ALARM


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("how", [{}, {"threshold": 0.6}, {"temperature": 0.5, "top_p": 0.9}])
def test_a_device_changes_nothing_but_roundings(device, how):
    exact = exact_pair()
    tables = {key: TableDenoiser(model, device) for key, model in exact.items()}
    options = {"decoding": "low_confidence", "template": [MASK, MASK, 1], "num_samples": 200, **how}
    # Tokens are float64 draws from the same numbers: a rounding moves one with a probability of 1e-12.
    assert torch.equal(decode(tables, "L1,H1", **options).tokens, decode(exact, "L1,H1", **options).tokens)
