"""Cost figures: the paper's, torch's own count, and the laws they must obey."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import random_canvas, tiny_denoiser, tiny_pair
from understudy import ModelSchedule, sample
from understudy.denoisers.protocol import Positions
from understudy.errors import SettingError
from understudy.flops import TransformerShape, executed_report, expected_passes, expected_report, nominal_saved
from understudy.noise import Cosine, LogLinear
from understudy.sampling import SamplingTask

PAPER = {"H": TransformerShape(768, 12, 50258), "L": TransformerShape(768, 4, 50258)}


def counted(function):
    """FLOPs by torch's counter, which sees attention on the CPU under the MATH backend only."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        function()
    return counter.get_total_flops()


def test_the_papers_figures():
    blocks, with_head = nominal_saved(PAPER, ModelSchedule.parse("L125,H750,L125"), 1024)
    assert blocks == pytest.approx(1 / 6)
    assert with_head == pytest.approx(0.1215, abs=5e-5)
    sentences = {key: TransformerShape(768, shape.blocks, 30522) for key, shape in PAPER.items()}
    assert nominal_saved(sentences, ModelSchedule.parse("L250,H750"), 128)[1] == pytest.approx(0.1314, abs=5e-5)


@pytest.mark.parametrize(("length", "batch"), [(8, 1), (20, 3)])
def test_full_pass_is_what_torch_counts(length, batch):
    denoiser = tiny_denoiser(3)
    xt = random_canvas(batch, length)
    assert counted(lambda: denoiser.logits(xt)) == batch * denoiser.pass_flops(length).total


@pytest.mark.parametrize("revealed", [1, 2, 7])
def test_pruned_pass_is_what_torch_counts(revealed):
    denoiser = tiny_denoiser(3)
    where = Positions(np.zeros(revealed, dtype=np.int64), np.arange(revealed))
    assert counted(lambda: denoiser.logits(random_canvas(1, 20), None, where)) == (
        denoiser.pass_flops(20, revealed).total
    )


def test_executed_is_what_torch_counts_over_a_whole_run():
    pair, run = tiny_pair(), {}
    total = counted(lambda: run.update(result=sample(pair, "L4,H8,L4", length=12, num_samples=3)))
    assert run["result"].flops.executed == total


schedules = st.lists(st.tuples(st.sampled_from("HL"), st.integers(1, 30)), min_size=1, max_size=6).map(
    lambda parts: ModelSchedule.parse(",".join(f"{key}{count}" for key, count in parts))
)


@given(schedules, st.randoms(use_true_random=False))
def test_nominal_cost_is_blind_to_order(schedule, random):
    steps = list(schedule.steps())
    random.shuffle(steps)
    shuffled = nominal_saved(PAPER, ModelSchedule.from_keys(steps), 128)
    assert nominal_saved(PAPER, schedule, 128) == pytest.approx(shuffled)


@given(schedules)
def test_nominal_cost_is_additive_over_segments(schedule):
    parts = [nominal_saved(PAPER, ModelSchedule((segment,)), 128)[1] for segment in schedule.segments]
    weights = [segment.count / schedule.num_steps for segment in schedule.segments]
    assert nominal_saved(PAPER, schedule, 128)[1] == pytest.approx(float(np.dot(parts, weights)))


@given(schedules)
def test_heavy_alone_saves_nothing_by_schedule_and_light_the_most(schedule):
    plan = SamplingTask.create(tiny_pair(), schedule, length=16, num_samples=2).plan
    reports = {
        text: executed_report(tiny_pair(), ModelSchedule.parse(text) if isinstance(text, str) else text, plan)
        for text in (f"H{schedule.num_steps}", f"L{schedule.num_steps}", schedule)
    }
    heavy, light, mixed = reports.values()
    assert heavy.schedule_saved == heavy.nominal_saved == 0
    assert heavy.schedule_saved <= mixed.schedule_saved <= light.schedule_saved
    assert mixed.executed_saved >= mixed.schedule_saved  # the plan only ever skips work


@pytest.mark.parametrize("noise", [LogLinear(), Cosine()])
@pytest.mark.parametrize("schedule", ["H32", "L8,H16,L8", "H1", "L16,H16"])
def test_expected_cost_is_the_mean_of_executed_cost(schedule, noise):
    pair, parsed, num_samples = tiny_pair(), ModelSchedule.parse(schedule), 3000
    expected = expected_report(pair, parsed, noise, length=24)
    task = SamplingTask.create(pair, parsed, length=24, num_samples=num_samples, noise=noise.name)
    executed = executed_report(pair, parsed, task.plan)
    # 3000 samples: the relative standard error is below 0.3 %, the bound five of them.
    assert executed.executed / num_samples == pytest.approx(expected.executed, rel=0.015)
    assert executed.executed_saved == pytest.approx(expected.executed_saved, abs=0.01)


@pytest.mark.parametrize("free", [-1, 0, 25])
def test_free_positions_lie_within_the_length(free):
    with pytest.raises(SettingError, match=f"free_positions is {free}; it must lie between 1 and the length, 24"):
        expected_report(tiny_pair(), ModelSchedule.parse("L8,H16,L8"), LogLinear(), length=24, free_positions=free)


def test_one_free_position_costs_one_pass():
    # It is revealed once, by each step with probability 1/N: half the time by each model.
    pair, schedule = tiny_pair(), ModelSchedule.parse("L8,H16,L8")
    report = expected_report(pair, schedule, LogLinear(), length=24, free_positions=1)
    assert sum(expected_passes(schedule, LogLinear(), 1).values()) == pytest.approx(1)
    assert report.executed == pytest.approx(sum(pair[key].pass_flops(24, 1).total for key in "HL") / 2)
    whole = expected_report(pair, schedule, LogLinear(), length=24)
    assert expected_report(pair, schedule, LogLinear(), length=24, free_positions=24) == whole
