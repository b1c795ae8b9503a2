"""Confidence-ordered decoding: the rules token for token, blocks, schedules, accounting, batches."""

import numpy as np
import pytest
import torch

from driving import finish
from laws import exact_pair
from models import MASK, CountingDenoiser, tiny_denoiser, tiny_pair
from plain_decoding import plain_decoding
from understudy import sample, sample_steps
from understudy.errors import ModelError, ScheduleError, SettingError
from understudy.sampling import ConfidenceTask, decode, decode_steps, decoding_task

RULES = ("low_confidence", "margin", "entropy")
OPTIONS = {
    "all at once": {"schedule": "L2,H4,L2"},
    "greedy": {"schedule": "L2,H4,L2", "temperature": 0},
    "one token a step": {"schedule": "L5,H5,L6"},
    "blocks": {"schedule": "L2,H2,L2,H2", "block_length": 4},
    "sharp nucleus": {"schedule": "L2,H4,L2", "temperature": 0.7, "top_p": 0.8},
    "greedy nucleus": {"schedule": "L2,H2", "temperature": 0, "top_p": 0.5},
    "threshold": {"schedule": "L2,H3,L2", "threshold": 0.4, "temperature": 0.8},
    "threshold, blocks": {"schedule": "L2,H3,L2", "threshold": 0.3, "block_length": 5},
    "threshold, more steps than tokens": {"schedule": "L20,H30,L20", "threshold": 0.6},
}


def request(rule, name, **more):
    options = dict(OPTIONS[name])
    if rule == "entropy" and "threshold" in options:
        pytest.skip("an entropy is no probability")
    return options.pop("schedule"), {"decoding": rule, **options, **more}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("rule", RULES)
def test_tokens_are_those_of_the_plain_loop(rule, name):
    # 16 free positions behind a prefix of 2; the last sample of five, in batches of two.
    models, template = tiny_pair(), [3, 4] + [MASK] * 16 + [5]
    schedule, options = request(rule, name)
    task = decoding_task(models, schedule, template=template, num_samples=5, seed=9, batch_size=2, **options)
    records, result = finish(decode_steps(task))
    keys = task.schedule.steps()
    plain = {key: value for key, value in options.items() if key != "decoding"}
    for index in range(5):
        tokens, passes = plain_decoding(models, keys, template, MASK, rule=rule, seed=9, index=index, **plain)
        assert result.tokens[index].tolist() == tokens
        assert story(records, index) == passes


def story(records, index):
    """[(key, step, {position: token}), …] of one sample, from the records."""
    found = []
    for record in records:
        for row in np.flatnonzero(record.samples == index):
            cells = record.rows == row
            tokens = dict(zip(record.positions[cells].tolist(), record.tokens[cells].tolist(), strict=True))
            found.append((record.key, int(record.steps[row]), tokens))
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temperature", [0, 1])
def test_tokens_are_those_of_the_plain_loop_under_known_laws(rule, temperature):
    models, template = exact_pair(num_tokens=3, length=5), [3, 3, 1, 3, 3]
    options = {"seed": 2, "temperature": temperature}
    tokens = decode(models, "L1,H2,L1", decoding=rule, template=template, num_samples=20, **options).tokens
    for index in range(20):
        expected, _ = plain_decoding(models, "LHHL", template, 3, rule=rule, index=index, **options)
        assert tokens[index].tolist() == expected


@pytest.mark.parametrize("name", ["blocks", "threshold, blocks", "sharp nucleus"])
@pytest.mark.parametrize("time_conditioning", [False, True])
def test_a_sample_is_the_same_alone_and_in_any_batch(name, time_conditioning):
    models = {
        key: tiny_denoiser(blocks, seed=blocks, time_conditioning=time_conditioning)
        for key, blocks in {"H": 3, "L": 1}.items()
    }
    schedule, options = request("low_confidence", name, length=20, seed=4)
    whole = decode(models, schedule, num_samples=20, batch_size=20, **options)
    for batch_size in (1, 3):
        other = decode(models, schedule, num_samples=20, batch_size=batch_size, **options)
        assert torch.equal(whole.tokens, other.tokens)
        assert (other.nfe, other.flops) == (whole.nfe, whole.flops)
        np.testing.assert_array_equal(other.reveal_step, whole.reveal_step)
    for index in (0, 7, 19):
        alone = decode(models, schedule, num_samples=1, first_index=index, **options)
        assert torch.equal(alone.tokens[0], whole.tokens[index])


@pytest.mark.parametrize("rule", RULES)
def test_greedy_order_follows_the_score(rule):
    # One token a step: each goes to the position where the model is surest, by a score computed from dense logits.
    # A prefix, because a network that knows positions only relative to each other says the same at every mask.
    model, template = tiny_denoiser(2, seed=5), [7] + [MASK] * 12
    task = decoding_task({"H": model}, "H12", decoding=rule, template=template, temperature=0)
    canvas = torch.tensor([template])
    for record in decode_steps(task):
        logits = model.logits(canvas)[0].double()
        logits[:, MASK] = -torch.inf
        probs, masked = logits.softmax(-1), canvas[0] == MASK
        top = probs.topk(2).values
        score = {
            "low_confidence": top[:, 0],
            "margin": top[:, 0] - top[:, 1],
            "entropy": -torch.distributions.Categorical(probs=probs + 1e-300).entropy(),
        }[rule]
        best = int(score.masked_fill(~masked, -torch.inf).argmax())
        assert record.positions.tolist() == [best]
        assert record.tokens.tolist() == [int(probs[best].argmax())]
        canvas[0, best] = record.tokens[0]


@pytest.mark.parametrize("pace", ["equal", "timestep"])
def test_steps_index_the_schedule_and_every_step_reveals(pace):
    task = decoding_task(
        tiny_pair(), "L3,H5,L3", decoding="margin", length=29, prefix=[1], num_samples=3, block_length=8, pace=pace
    )
    records, result = finish(decode_steps(task))
    for index in range(3):
        assert [(key, step) for key, step, _ in story(records, index)] == list(
            zip(task.schedule.steps(), range(11), strict=True)
        )
    assert result.nfe == {"L": 18, "H": 15}
    assert task.num_passes == 33
    # 28 tokens in blocks of 8, 8, 8 and 4 on 11 steps, one each and 7 in proportion to 7, 7, 7 and 3: 3, 3, 3 and 2.
    revealed = np.bincount(result.reveal_step[0, 1:]).tolist()
    by_pace = {"equal": [3, 3, 2] * 3 + [2, 2], "timestep": [2, 3, 3] * 3 + [2, 2]}
    assert revealed == by_pace[pace]


def test_a_threshold_reads_the_schedule_by_share_revealed():
    task = decoding_task(tiny_pair(), "L10,H20,L10", decoding="low_confidence", length=24, num_samples=4, threshold=0.5)
    assert task.num_passes is None
    records, result = finish(decode_steps(task))
    for index in range(4):
        done = 0
        for key, step, tokens in story(records, index):
            assert (step, key) == (done * 40 // 24, task.schedule.key_at(step))
            done += len(tokens)
        assert done == 24
    assert sum(result.nfe.values()) == sum(len(record.samples) for record in records)
    assert set(result.written_by().ravel()) == {"H", "L"}


def test_a_threshold_out_of_reach_means_one_token_a_pass_and_a_low_one_all_at_once():
    options = {"decoding": "low_confidence", "length": 16, "num_samples": 2}
    assert decode(tiny_pair(), "H8", threshold=1.0, **options).nfe == {"H": 32}
    assert decode(tiny_pair(), "H8", threshold=1e-9, **options).nfe == {"H": 2}
    assert decode(tiny_pair(), "H8", threshold=1e-9, block_length=4, **options).nfe == {"H": 8}
    # One at a time is also what as many steps as tokens do.
    fixed, reached = (decode(tiny_pair(), "L4,H8,L4", **how, **options) for how in ({}, {"threshold": 1.0}))
    assert torch.equal(fixed.tokens, reached.tokens)
    np.testing.assert_array_equal(fixed.reveal_step, reached.reveal_step)


@pytest.mark.parametrize("how", [{}, {"threshold": 0.4}])
@pytest.mark.parametrize("rule", ["random", "low_confidence"])
def test_blocks_are_finished_in_order_and_given_tokens_stay(rule, how):
    if rule == "random" and how:
        pytest.skip("random has no score")
    template = [1, 2, MASK, MASK, 3] + [MASK] * 10 + [4]
    task = decoding_task(
        tiny_pair(), "L2,H2,L2", decoding=rule, template=template, num_samples=6, block_length=5, **how
    )
    run = decode_steps(task) if isinstance(task, ConfidenceTask) else sample_steps(task)
    records, result = finish(run)
    given = np.array(template) != MASK
    for index in range(6):
        order = [(position - 2) // 5 for _, _, tokens in story(records, index) for position in tokens]
        assert order == sorted(order)
        assert len({(position - 2) // 5 for position in story(records, index)[0][2]}) == 1
    assert (result.tokens.numpy()[:, given] == np.array(template)[given]).all()
    assert (result.tokens != MASK).all()
    assert (result.reveal_step[:, given] == -1).all()
    assert (result.reveal_step[:, ~given] >= 0).all()
    assert (result.written_by()[:, given] == "").all()


@pytest.mark.parametrize("how", [{}, {"threshold": 0.3}])
def test_passes_and_flops_are_what_counting_denoisers_saw(how):
    pair = {key: CountingDenoiser(model) for key, model in tiny_pair().items()}
    task = decoding_task(
        pair, "L3,H4,L3", decoding="low_confidence", length=20, num_samples=5, batch_size=3, block_length=8, **how
    )
    before = {}
    executed = heavy = positions = 0
    records, result = finish(decode_steps(task))
    for record in records:
        for row, index in enumerate(record.samples.tolist()):
            left = before.setdefault(index, [8, 8, 4])  # masked positions of the blocks to come
            asked, kept = left[0], int((record.rows == row).sum())
            executed += pair[record.key].pass_flops(20, asked).total
            heavy += pair["H"].pass_flops(20, asked).total
            positions += asked
            left[0] -= kept
            if left[0] == 0:
                del left[0]
    assert result.nfe == {key: model.sequences for key, model in pair.items()}
    assert positions == sum(model.positions for model in pair.values())
    assert result.flops.executed == executed
    assert result.flops.executed_saved == pytest.approx(1 - executed / (5 * 10 * pair["H"].pass_flops(20).total))
    assert result.flops.schedule_saved == pytest.approx(1 - executed / heavy)
    assert result.flops.nominal_blocks_saved == pytest.approx(0.6 * 2 / 3)


def test_identical_models_make_every_schedule_the_same():
    model = tiny_denoiser()
    options = {"decoding": "entropy", "length": 12, "num_samples": 3, "block_length": 4}
    mixed = decode({"H": model, "L": model}, "L2,H3,L1", **options)
    assert torch.equal(mixed.tokens, decode({"H": model}, "H6", **options).tokens)


class ClockedDenoiser(CountingDenoiser):
    """Notes the time it is told for every number of tokens still masked."""

    uses_time = True

    def __init__(self, inner, noise):
        super().__init__(inner)
        self.noise, self.told = noise, set()

    def logits(self, xt, t=None, where=None):
        self.told |= set(zip((xt == MASK).sum(1).tolist(), t.tolist(), strict=True))
        return self.inner.logits(xt, None, where)


@pytest.mark.parametrize("how", [{}, {"threshold": 0.3}])
@pytest.mark.parametrize(
    ("noise", "time_of"), [("loglinear", lambda m: m), ("cosine", lambda m: 2 / np.pi * np.arcsin(m))]
)
def test_a_model_is_told_when_that_share_of_tokens_is_masked(noise, time_of, how):
    clocked = ClockedDenoiser(tiny_denoiser(), noise)
    decode({"H": clocked}, "H5", decoding="low_confidence", length=20, prefix=[1, 2], num_samples=3, **how)
    assert (18, 1.0) in clocked.told
    for masked, told in clocked.told:
        assert told == pytest.approx(time_of(masked / 18))


def test_ancestral_decoding_is_sampling():
    options = {"length": 16, "num_samples": 2, "seed": 3}
    decoded, sampled = decode(tiny_pair(), "L4,H4", **options), sample(tiny_pair(), "L4,H4", **options)
    assert torch.equal(decoded.tokens, sampled.tokens)


def test_memory_is_spared_without_changing_a_sample(monkeypatch):
    options = {"decoding": "margin", "length": 16, "num_samples": 3}
    whole = decode(tiny_pair(), "L2,H2", **options)
    monkeypatch.setattr("understudy.sampling.decoding.engine.MAX_ENTRIES", 100)
    assert torch.equal(whole.tokens, decode(tiny_pair(), "L2,H2", **options).tokens)


class BrokenDenoiser(CountingDenoiser):
    """Gives one logit of one position that is no number."""

    def logits(self, xt, t=None, where=None):
        logits = super().logits(xt, t, where).clone()
        logits[-1, 3] = torch.nan
        return logits


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("rule", RULES)
def test_nan_logits_end_the_run_and_name_the_model(rule, temperature):
    pair = {"H": tiny_denoiser(), "L": BrokenDenoiser(tiny_denoiser())}
    with pytest.raises(ModelError, match="model L returned logits with NaN"):
        decode(pair, "H2,L2", decoding=rule, length=8, temperature=temperature)


BAD_REQUESTS = {
    "rule": ({"decoding": "greedy"}, "decoding is 'greedy'; it must be one of: ancestral, first_hitting, random"),
    "blocks of ancestral": ({"decoding": "ancestral", "block_length": 4}, "block_length does not go with ancestral"),
    "threshold of first-hitting": ({"decoding": "first_hitting", "threshold": 0.5}, "threshold does not go with first"),
    "pace of ancestral": ({"decoding": "ancestral", "pace": "equal"}, "pace does not go with ancestral"),
    "threshold of random": (
        {"decoding": "random", "threshold": 0.5},
        "goes with low_confidence or margin, not with ran",
    ),
    "threshold of entropy": ({"decoding": "entropy", "threshold": 0.5}, "not with entropy; leave it out"),
    "threshold 0": ({"threshold": 0}, "threshold is 0; it must be a probability above 0 and at most 1"),
    "threshold 2": ({"threshold": 2}, "threshold is 2"),
    "threshold NaN": ({"threshold": float("nan")}, "threshold is nan"),
    "threshold and pace": ({"threshold": 0.5, "pace": "equal"}, "give one of them"),
    "pace": ({"pace": "fast"}, "pace is 'fast'; it must be one of: equal, timestep"),
    "no block": ({"block_length": 0}, "block_length is 0; it must be from 1 to the length, 16"),
    "long block": ({"block_length": 17}, "block_length is 17; it must be from 1 to the length, 16"),
    "t_end": ({"t_end": 0.1}, "t_end is 0.1, which goes with ancestral decoding only"),
    "many steps": ({"schedule": "H17"}, "17 steps are too many for low_confidence .*at most 16 steps"),
    "many steps, prefix": ({"prefix": [1] * 9}, "8 steps are too many .* where 7 are to be sampled"),
    "few steps": ({"block_length": 1}, "8 steps are too few for 16 blocks of 1 tokens"),
    "many steps at random": ({"decoding": "random", "schedule": "H17"}, "17 steps are too many for random"),
    "steps disagree": ({"steps": 9}, "9"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests_say_what_is_wrong(name):
    options, words = BAD_REQUESTS[name]
    with pytest.raises((SettingError, ScheduleError), match=words) as error:
        decode(tiny_pair(), **{"schedule": "H8", "decoding": "low_confidence", "length": 16, **options})
    assert "\n" not in str(error.value)
