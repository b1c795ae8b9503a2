"""Both samplers draw from the law they claim to draw from."""

import numpy as np
import pytest
import torch

from driving import finish
from laws import FALSE_ALARM, ancestral_law, chi_square_p_value, exact_pair, random_law
from understudy import ModelSchedule, sample, sample_plain, sample_steps
from understudy.denoisers.exact import ExactDenoiser
from understudy.sampling import SamplingTask

MASK = 2
CASES = {
    "heavy alone": ("H4", [MASK, MASK, MASK], {}),
    "mixed schedule": ("L1,H2,L1", [MASK, MASK, MASK], {}),
    "prefix": ("H4", [1, MASK, MASK], {}),
    "prefix, mixed": ("L2,H1,L2", [0, MASK, MASK], {}),
    "infill": ("H3", [MASK, 1, MASK], {}),
    "cosine noise": ("L2,H3", [MASK, MASK, MASK], {"noise": "cosine"}),
    "one step": ("H1", [MASK, MASK, MASK], {}),
    "clean-up pass": ("L2,H1", [MASK, MASK, MASK], {"t_end": 0.6}),
    "clean-up pass by light, prefix": ("H2,L1", [1, MASK, MASK], {"t_end": 0.6}),
    "clean-up pass, cosine noise": ("H2,L1", [MASK, MASK, MASK], {"t_end": 0.7, "noise": "cosine"}),
    "clean-up pass of one in 100,000": ("H3", [MASK, MASK, MASK], {"t_end": 1e-5}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sampler", ["lazy", "plain", "plain with reuse"])
def test_samples_have_the_enumerated_law(name, sampler):
    # 20,000 samples tell a total variation of about 0.03 from 0 with near certainty at this false-alarm rate.
    schedule, template, grid = CASES[name]
    denoisers = exact_pair()
    options = {"num_samples": 20_000, "template": template, "seed": 7, "batch_size": 4096, **grid}
    if sampler == "lazy":
        tokens = sample(denoisers, schedule, **options).tokens
    else:
        task = SamplingTask.create(denoisers, schedule, **options)
        tokens = finish(sample_plain(task, reuse_unchanged=sampler != "plain"))[1].tokens
    assert chi_square_p_value(tokens, ancestral_law(denoisers, schedule, template, **grid)) > FALSE_ALARM


@pytest.mark.parametrize(("schedule", "t_end"), [("L2", 0.8), ("L1,H1", 0.0)])
def test_the_check_sees_who_cleans_up_and_how_much(schedule, t_end):
    # The clean-up pass by the first model, or none: were the check blind to it, the cases above would mean nothing.
    denoisers, template = exact_pair(), [MASK] * 3
    tokens = sample(denoisers, "L1,H1", num_samples=20_000, template=template, t_end=0.8, batch_size=4096).tokens
    assert chi_square_p_value(tokens, ancestral_law(denoisers, schedule, template, t_end=t_end)) < FALSE_ALARM


def test_the_check_can_fail():
    # The same samples against the light model's law: were the check blind, the tests above would mean nothing.
    denoisers = exact_pair()
    tokens = sample(denoisers, "H4", num_samples=20_000, template=[MASK] * 3, batch_size=4096).tokens
    assert chi_square_p_value(tokens, ancestral_law(denoisers, "L4", [MASK] * 3)) < FALSE_ALARM
    assert chi_square_p_value(tokens, ancestral_law(denoisers, "L1,H3", [MASK] * 3)) < FALSE_ALARM


def test_many_steps_recover_the_clean_law():
    # With exact marginals the only error is that two positions share a step, which happens less than 3/N of the time.
    law = random_law(2, 3, seed=1)
    tokens = sample({"H": ExactDenoiser(law)}, "H1000", num_samples=10_000, batch_size=4096).tokens
    frequency = np.bincount(tokens.numpy() @ [4, 2, 1], minlength=8) / len(tokens)
    distance = np.abs(frequency - law.flatten().numpy()).sum() / 2
    # Mean total variation of 10,000 draws over 8 cells is below sqrt(8 / 10,000) / 2 = .014; McDiarmid adds .026.
    assert distance < 0.014 + 0.026 + 0.003


def test_clean_up_pass_reveals_what_the_grid_leaves():
    denoisers = exact_pair()
    task = SamplingTask.create(denoisers, "L2,H2", num_samples=2_000, t_end=0.25, batch_size=256)
    records, result = finish(sample_steps(task))
    assert (result.tokens != MASK).all()
    cleaned = task.plan.reveal_step == 4
    # A position outlives the grid with probability 1 − alpha(0.25) = 0.25: 6,000 positions, 5 standard errors.
    assert abs(cleaned.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / cleaned.size)
    assert {record.key for record in records if 4 in record.steps} == {"H"}
    assert set(result.written_by()[cleaned]) == {"H"}


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_the_conditional_law(temperature):
    denoisers = exact_pair()
    law = random_law(2, 3, seed=1)
    given = law[1, :, 0] / law[1, :, 0].sum()  # one free position: its law is p(x0 | xt) itself
    expected = given ** (1 / temperature) / (given ** (1 / temperature)).sum()
    tokens = sample(
        denoisers, "H3", template=[1, MASK, 0], num_samples=20_000, temperature=temperature, batch_size=4096
    ).tokens
    hits = int((tokens[:, 1] == 1).sum())
    spread = 5 * np.sqrt(20_000 * float(expected[1] * expected[0]))
    assert abs(hits - 20_000 * float(expected[1])) < spread


def test_schedules_of_one_seed_share_their_noise():
    # Common random numbers: the difference of two schedules has less variance than that of independent samples.
    denoisers = exact_pair(num_tokens=3, length=4)
    schedules = [ModelSchedule.parse(text) for text in ("H8", "L2,H6")]
    first, second = (sample(denoisers, s, num_samples=4_000, seed=3, batch_size=4096).tokens for s in schedules)
    other = sample(denoisers, schedules[1], num_samples=4_000, seed=4, batch_size=4096).tokens
    assert (first == second).float().mean() > (first == other).float().mean() + 0.1
    assert torch.equal(first, sample(denoisers, schedules[0], num_samples=4_000, seed=3, batch_size=64).tokens)
