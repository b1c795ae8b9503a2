"""The engine: the same samples whatever the batch, passes that were counted, and records that tell the whole story."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from driving import finish
from laws import exact_pair
from models import MASK, VOCAB, CountingDenoiser, tiny_denoiser, tiny_pair
from understudy import ModelSchedule, sample, sample_plain, sample_steps
from understudy.errors import ModelError, PairingError, PromptError, ScheduleError, SettingError
from understudy.sampling import SamplingTask
from understudy.sampling.queue import PassQueue


@given(st.lists(st.tuples(st.sampled_from("HLM"), st.integers(1, 9)), min_size=1, max_size=5))
@settings(max_examples=15)
def test_identical_models_make_every_schedule_the_same(segments):
    schedule = ",".join(f"{key}{count}" for key, count in segments)
    num_steps = sum(count for _, count in segments)
    model = tiny_denoiser()
    mixed = sample(dict.fromkeys("HLM", model), schedule, length=12, num_samples=2, seed=5)
    alone = sample({"H": model}, ModelSchedule.single(num_steps), length=12, num_samples=2, seed=5)
    assert torch.equal(mixed.tokens, alone.tokens)


def test_heavy_alone_is_no_schedule():
    pair = tiny_pair()
    alone = sample(pair, "H20", length=16, num_samples=3)
    unscheduled = sample(pair, None, steps=20, length=16, num_samples=3)
    assert torch.equal(alone.tokens, unscheduled.tokens)
    assert alone.nfe == unscheduled.nfe
    assert not torch.equal(alone.tokens, sample(pair, "L20", length=16, num_samples=3).tokens)


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_a_sample_is_the_same_alone_and_in_any_batch(time_conditioning):
    pair = {
        key: tiny_denoiser(blocks, seed=blocks, time_conditioning=time_conditioning)
        for key, blocks in {"H": 3, "L": 1}.items()
    }
    options = {"length": 24, "num_samples": 64, "seed": 11}
    whole = sample(pair, "L6,H20,L6", **options, batch_size=64)
    for batch_size in (1, 7):
        other = sample(pair, "L6,H20,L6", **options, batch_size=batch_size)
        assert torch.equal(whole.tokens, other.tokens)
        assert other.nfe == whole.nfe
    for index in (0, 9, 63):
        single = sample(pair, "L6,H20,L6", length=24, num_samples=1, seed=11, first_index=index)
        assert torch.equal(single.tokens[0], whole.tokens[index])


def test_logits_do_not_depend_on_neighbours_to_the_last_bit():
    # Stronger than equal tokens, and at a width where batched matrix products do round differently.
    model = tiny_denoiser(2, hidden_size=64, num_attention_heads=2)
    seen = {}

    class Recording(CountingDenoiser):
        def logits(self, xt, t=None, where=None):
            logits = super().logits(xt, t, where)
            for row in range(len(xt)):
                mine = where.rows == row
                question = (xt[row].numpy().tobytes(), where.cols[mine].tobytes())
                seen.setdefault(question, set()).add(logits[torch.from_numpy(mine)].numpy().tobytes())
            return logits

    for batch_size in (1, 5, 16):
        sample({"H": Recording(model)}, "H12", length=32, num_samples=16, batch_size=batch_size)
    assert max(len(answers) for answers in seen.values()) == 1


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_nfe_is_what_a_counting_denoiser_saw(batch_size):
    pair = {key: CountingDenoiser(model) for key, model in tiny_pair().items()}
    task = SamplingTask.create(pair, "L5,H10,L5", length=20, num_samples=9, batch_size=batch_size)
    predicted = task.plan.num_passes(task.schedule)
    records, result = finish(sample_steps(task))
    assert result.nfe == predicted == {key: model.sequences for key, model in pair.items()}
    assert sum(len(record.samples) for record in records) == task.num_passes
    assert sum(model.positions for model in pair.values()) == 9 * 20  # the head sees each position once


def test_plain_counts_every_step():
    pair = {key: CountingDenoiser(model) for key, model in tiny_pair().items()}
    task = SamplingTask.create(pair, "L2,H4,L2", length=10, num_samples=5, batch_size=2)
    _, result = finish(sample_plain(task))
    assert result.nfe == {"L": 20, "H": 20} == {key: model.sequences for key, model in pair.items()}


def test_reuse_belongs_to_one_model():
    # One free position, ten steps: with one model a single pass serves until the reveal; a new key needs its own.
    pair = {key: CountingDenoiser(model) for key, model in exact_pair().items()}
    task = SamplingTask.create(pair, "L5,H5", template=[0, 1, 2], num_samples=1, seed=2)
    records, result = finish(sample_plain(task, reuse_unchanged=True))
    revealed_at = next(int(record.steps[0]) for record in records if len(record.rows))
    if revealed_at < 5:
        assert result.nfe == {"L": 1 + (revealed_at < 4), "H": 1}
    else:
        assert result.nfe["L"] == 1
        assert result.nfe["H"] == 1 + (revealed_at < 9)


def test_records_rebuild_the_canvas():
    task = SamplingTask.create(tiny_pair(), "L5,H10,L5", length=20, num_samples=6, prefix=[1, 2, 3], suffix=[4])
    canvas, author = task.template.copy(), np.full(task.template.shape, "", dtype="<U1")
    steps = sample_steps(task)
    records, result = finish(steps)
    for record in records:
        cells = record.samples[record.rows], record.positions
        assert (canvas[cells] == MASK).all()
        assert all(task.schedule.key_at(step) == record.key for step in record.steps)
        canvas[cells], author[cells] = record.tokens.numpy(), record.key
    np.testing.assert_array_equal(canvas, result.tokens.numpy())
    np.testing.assert_array_equal(author, result.written_by())
    assert (result.tokens[:, :3] == torch.tensor([1, 2, 3])).all()
    assert (result.tokens[:, -1] == 4).all()
    assert (result.tokens != MASK).all()


def pass_sizes(num_samples, batch_size):
    denoisers = {key: tiny_denoiser(1, max_position_embeddings=256) for key in "HL"}
    task = SamplingTask.create(denoisers, "L32,H192,L32", length=256, num_samples=num_samples, batch_size=batch_size)
    sizes = [len(batch.samples) for batch in PassQueue(task.plan, task.schedule, batch_size)]
    assert sum(sizes) == task.num_passes
    return sizes, task


@pytest.mark.parametrize(("num_samples", "batch_size"), [(64, 8), (64, 32), (100, 1)])
def test_batches_stay_full_to_the_end(num_samples, batch_size):
    sizes, task = pass_sizes(num_samples, batch_size)
    waves = max(1, num_samples // (2 * batch_size))
    assert len(sizes) <= task.num_passes / batch_size + 3 * waves  # of each segment one pass may not be full


def test_a_lone_batch_needs_as_many_passes_as_its_slowest_sequence_in_each_segment():
    sizes, task = pass_sizes(32, 32)
    events = task.plan.events
    segments = np.searchsorted([32, 224], events.steps, side="right")
    slowest = [np.bincount(events.samples[segments == segment]).max() for segment in range(3)]
    assert len(sizes) <= sum(slowest)


def test_a_batch_never_holds_a_sequence_twice_nor_two_models():
    task = SamplingTask.create(tiny_pair(), "L8,H16,L8", length=20, num_samples=20, batch_size=6)
    last = {}
    for batch in PassQueue(task.plan, task.schedule, 6):
        assert len(set(batch.samples)) == len(batch.samples) <= 6
        assert {task.schedule.key_at(step) for step in batch.steps} == {batch.key}
        for sample_index, step in zip(batch.samples, batch.steps, strict=True):
            assert last.get(sample_index, -1) < step
            last[sample_index] = step


def test_written_template_and_prefix_agree():
    pair = tiny_pair()
    template = np.full(12, MASK)
    template[:2] = [3, 4]
    by_template = sample(pair, "H9", template=template, num_samples=2)
    by_prefix = sample(pair, "H9", length=12, prefix=[3, 4], num_samples=2)
    assert torch.equal(by_template.tokens, by_prefix.tokens)


@pytest.mark.parametrize("run", [sample_steps, sample_plain])
def test_a_task_can_be_run_again_also_after_one_that_was_left(run):
    task = SamplingTask.create(tiny_pair(), "L3,H6,L3", length=16, num_samples=4, batch_size=2)
    first = finish(run(task))[1]
    template = task.template.copy()
    left = run(task)
    next(left)
    next(left)
    left.close()
    again = finish(run(task))[1]
    np.testing.assert_array_equal(task.template, template)
    assert torch.equal(first.tokens, again.tokens)
    assert (task.template == MASK).all()


def test_seeds_of_the_plain_sampler_do_not_overlap():
    pair = tiny_pair()
    many = SamplingTask.create(pair, "H6", length=16, num_samples=4, batch_size=2, seed=0)
    later = SamplingTask.create(pair, "H6", length=16, num_samples=2, batch_size=2, seed=2)
    assert not torch.equal(finish(sample_plain(many))[1].tokens[2:], finish(sample_plain(later))[1].tokens)


class ClockedDenoiser(CountingDenoiser):
    """Notes the time it is told for every canvas, by the number of tokens still masked."""

    uses_time, noise = True, "loglinear"

    def __init__(self, inner):
        super().__init__(inner)
        self.told = []

    def logits(self, xt, t=None, where=None):
        self.told += list(zip((xt == MASK).sum(1).tolist(), t.tolist(), strict=True))
        return self.inner.logits(xt, None, where)


@pytest.mark.parametrize("run", [sample_steps, sample_plain])
@pytest.mark.parametrize("t_end", [0.0, 0.3])
def test_a_model_is_told_the_time_at_which_it_looks(run, t_end):
    clocked = ClockedDenoiser(tiny_denoiser())
    task = SamplingTask.create({"H": clocked}, "H7", length=20, num_samples=3, batch_size=2, t_end=t_end, seed=1)
    finish(run(task))
    assert {t for _, t in clocked.told} <= set(task.plan.times.tolist())
    if run is sample_steps:
        # Before step k a sequence holds as many masks as its plan reveals at step k or later.
        expected = sorted(
            (int((row >= step).sum()), float(task.plan.times[step]))
            for row in task.plan.reveal_step
            for step in set(row)
        )
        assert sorted(clocked.told) == expected
    else:
        steps = 7 + (t_end > 0)
        assert [t for _, t in clocked.told[::2]][:steps] == task.plan.times[:steps].tolist()


def test_a_time_conditioned_model_wants_the_noise_of_its_training():
    pair = {"H": tiny_denoiser(time_conditioning=True, noise="cosine"), "L": tiny_denoiser(1)}
    assert SamplingTask.create(pair, "H4,L4", length=8).noise.name == "cosine"
    with pytest.raises(SettingError, match="was trained with cosine"):
        sample(pair, "H4,L4", length=8, noise="loglinear")


class BrokenDenoiser(CountingDenoiser):
    def logits(self, xt, t=None, where=None):
        return super().logits(xt, t, where) * float("nan")


@pytest.mark.parametrize("run", [sample_steps, sample_plain])
def test_nan_logits_end_the_run_and_name_the_model(run):
    pair = {"H": tiny_denoiser(), "L": BrokenDenoiser(tiny_denoiser())}
    task = SamplingTask.create(pair, "H4,L4", length=8, num_samples=2)
    with pytest.raises(ModelError, match="model L returned logits with NaN"):
        finish(run(task))


BAD_REQUESTS = {
    "unbound key": ({"schedule": "M8"}, SettingError, "names M"),
    "steps disagree": ({"schedule": "H8", "steps": 9}, (ScheduleError, SettingError), "9"),
    "no steps": ({"schedule": None}, SettingError, "number of steps"),
    "no samples": ({"schedule": "H8", "num_samples": 0}, SettingError, "num_samples is 0"),
    "too long": ({"schedule": "H8", "length": 33}, SettingError, "at most 32"),
    "prefix too long": ({"schedule": "H8", "length": 4, "prefix": [1, 2, 3, 4]}, PromptError, "nothing to sample"),
    "mask in prefix": ({"schedule": "H8", "prefix": [1, MASK]}, PromptError, "mask token"),
    "unknown token": ({"schedule": "H8", "prefix": [VOCAB]}, PromptError, "another tokenizer"),
    "full template": ({"schedule": "H8", "template": [1, 2]}, PromptError, "nothing to sample"),
    "template and prefix": ({"schedule": "H8", "template": [1, MASK], "prefix": [1]}, PromptError, "leave out prefix"),
    "rows disagree": ({"schedule": "H8", "template": [[1, MASK]] * 3, "num_samples": 2}, PromptError, "3 rows"),
    "temperature": ({"schedule": "H8", "temperature": -1}, SettingError, "temperature"),
    "top_p": ({"schedule": "H8", "top_p": 0}, SettingError, "top_p"),
    "empty prefix": ({"schedule": "H8", "prefix": []}, PromptError, "prefix is empty"),
    "first_index": ({"schedule": "H8", "first_index": -1}, SettingError, "index of a sample"),
    "real seed": ({"schedule": "H8", "seed": 0.5}, SettingError, "seed"),
    "empty template": ({"schedule": "H8", "template": []}, PromptError, "at least one"),
    "real template": ({"schedule": "H8", "template": [0.5, 22.0]}, PromptError, "whole numbers"),
    "noise": ({"schedule": "H8", "noise": "linear"}, SettingError, "loglinear"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests_say_what_is_wrong(name):
    request, kind, words = BAD_REQUESTS[name]
    with pytest.raises(kind, match=words) as error:
        sample(tiny_pair(), **request)
    assert "\n" not in str(error.value)


def test_models_must_share_a_vocabulary():
    with pytest.raises(PairingError, match="vocab_size"):
        sample({"H": tiny_denoiser(), "L": exact_pair()["L"]}, "H4")


def test_no_model_at_all():
    with pytest.raises(SettingError, match="no model"):
        sample({}, "H4")
