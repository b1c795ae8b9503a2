import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import understudy.training.loop as loop
from sharding import SHARDED
from understudy.checkpoint import checkpoint_folders
from understudy.errors import DataError, ModelError, SettingError
from understudy.noise import noise_schedule
from understudy.training import (
    TokenLoss,
    TrainingConfig,
    build_network,
    ema_decay,
    learning_rate,
    train,
    validation_bound,
    validation_likelihood,
)
from understudy.training.batches import BatchMaker, batches_ahead, step_blocks, strata_order, stratified_times
from understudy.training.state import TrainingState

VOCAB, LENGTH, MASK, PAD = 50, 16, 49, 48
TINY = {
    "hidden_size": 16,
    "blocks": 2,
    "heads": 2,
    "steps": 12,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "warmup": 2,
    "ema": 0.9,
    "log_every": 2,
    "validate_every": 6,
    "validation_blocks": 8,
    "validation_times": 4,
    "checkpoint_every": 4,
}


class MemoryBlocks:
    """Blocks in memory, with the interface of TokenBlocks."""

    def __init__(self, ids, layout="packed"):
        self.ids = np.asarray(ids, dtype=np.int64)
        self.manifest = SimpleNamespace(
            vocab_size=VOCAB,
            mask_id=MASK,
            bos_id=0,
            eos_id=1,
            pad_id=PAD if layout == "padded" else None,
            block_length=self.ids.shape[1],
            layout=layout,
            frame="none",
            tokenizer_sha256="0" * 64,
            splits=("train", "validation"),
        )

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, indices):
        return self.ids[indices]


def random_blocks(count=40, seed=0, layout="packed"):
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, PAD, (count, LENGTH))
    if layout == "padded":
        ids[np.arange(LENGTH) >= rng.integers(4, LENGTH, count)[:, None]] = PAD
    return MemoryBlocks(ids, layout)


def patterned_blocks(count=40):
    """Rows that count upwards: learnable in a few steps."""
    return MemoryBlocks(2 + (np.arange(count)[:, None] + np.arange(LENGTH)) % 20)


@pytest.fixture
def memory_data(monkeypatch):
    """Let `train` find blocks in memory; gives the dictionary of splits."""
    splits = {"train": patterned_blocks(), "validation": patterned_blocks(20)}

    monkeypatch.setattr(loop, "_open_blocks", lambda _, split: splits[split])
    return splits


def tiny(tmp_path, name="run", **changes):
    return TrainingConfig(data=str(tmp_path / "none"), output=str(tmp_path / name), **{**TINY, **changes})


def run(config):
    return list(train(config))


def losses(records):
    return [(record.step, record.loss, record.grad_norm, record.validation) for record in records if record.loss]


def final_weights(config):
    return load_file(Path(config.output) / "model.safetensors")


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# Settings ---------------------------------------------------------------------------------------------------------


def test_defaults_are_the_published_recipe():
    config = TrainingConfig(data="d", output="o")
    assert (config.learning_rate, config.beta1, config.beta2, config.epsilon) == (3e-4, 0.9, 0.999, 1e-8)
    assert (config.weight_decay, config.warmup, config.decay, config.grad_clip) == (0.0, 2500, "constant", 1.0)
    assert (config.ema, config.batch_size, config.steps, config.dropout, config.seed) == (0.9999, 512, 10**6, 0.1, 1)
    assert (config.hidden_size, config.blocks, config.heads, config.t_min) == (768, 12, 12, 1e-3)


def test_config_survives_json():
    config = TrainingConfig(data="d", output="o", micro_batch=4, decay="cosine")
    assert TrainingConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "bert"},
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"dropout": -0.1},
        {"t_min": 0.0},
        {"heads": 5},
        {"micro_batch": 3},
        {"noise": "square"},
        {"objective": "ar", "time_conditioning": True},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingError):
        TrainingConfig(data="d", output="o", **wrong)


def test_learning_rate_warms_up_and_decays():
    config = TrainingConfig(data="d", output="o", learning_rate=1.0, warmup=4, steps=105, min_lr_fraction=0.1)
    assert [learning_rate(config, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate(config, 104) == 1.0
    linear, cosine = replace(config, decay="linear"), replace(config, decay="cosine")
    for decaying in (linear, cosine):
        assert learning_rate(decaying, 4) == 1.0
        assert learning_rate(decaying, 54) == pytest.approx(0.55)
        assert learning_rate(decaying, 104) == pytest.approx(0.1)


def test_ema_follows_the_published_formula():
    assert [ema_decay(0.9999, n) for n in (1, 2, 90)] == [2 / 11, 3 / 12, 91 / 100]
    assert ema_decay(0.9999, 10**6) == 0.9999
    network = nn.Linear(2, 2)
    state = TrainingState(network, torch.optim.AdamW(network.parameters()), 0.5)
    expected = network.weight.detach().clone()
    for n in (1, 2, 3):
        with torch.no_grad():
            network.weight += 1.0
        state.update_ema(n)
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * network.weight.detach()
    torch.testing.assert_close(state.ema[0], expected)
    kept = network.weight.detach().clone()
    with state.averaged():
        torch.testing.assert_close(network.weight.detach(), expected)
    assert torch.equal(network.weight.detach(), kept)


# Batches ----------------------------------------------------------------------------------------------------------


def test_every_epoch_visits_every_block_once():
    seen = np.concatenate([step_blocks(1, step, 6, 20) for step in range(10)])
    for epoch in range(3):
        assert sorted(seen[20 * epoch : 20 * epoch + 20]) == list(range(20))
    assert not np.array_equal(seen[:20], seen[20:40])


@pytest.mark.parametrize("size", [1, 2, 8, 21, 256, 512])
def test_times_are_stratified_over_the_global_batch(size):
    t = stratified_times(np.random.default_rng(0).random(size), 1e-3)
    strata = np.floor((t - 1e-3) / (1 - 1e-3) * size * (1 - 1e-12)).astype(int)
    assert sorted(strata) == list(range(size))


def test_every_share_of_the_batch_gets_times_from_everywhere():
    order = strata_order(512)
    for start in range(0, 512, 64):  # what 8 processes take
        assert max(np.diff(np.sort(order[start : start + 64]))) <= 24  # 8 would be perfect, 64·8 the worst


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_batches_do_not_depend_on_processes_or_micro_batches(tmp_path, layout):
    blocks = random_blocks(layout=layout)
    config = tiny(tmp_path, batch_size=8)
    whole = BatchMaker(blocks, config).step(5)[0]
    parts = [
        batch for rank in range(2) for batch in BatchMaker(blocks, replace(config, micro_batch=2), rank, 2).step(5)
    ]
    assert len(parts) == 4
    assert torch.equal(torch.cat([part.input_ids for part in parts]), whole.input_ids)
    assert torch.equal(torch.cat([part.sigma for part in parts]), whole.sigma)
    real = [part.weights > 0 for part in parts]
    weights = torch.cat([part.weights[mine] for part, mine in zip(parts, real, strict=True)])
    assert torch.equal(weights, whole.weights[whole.weights > 0])
    places = [p.positions[mine] + 2 * LENGTH * i for i, (p, mine) in enumerate(zip(parts, real, strict=True))]
    assert torch.equal(torch.cat(places), whole.positions[whole.weights > 0])


def test_batch_hides_what_it_asks_for(tmp_path):
    blocks = random_blocks()
    config = tiny(tmp_path, batch_size=8)
    batch = BatchMaker(blocks, config).step(3)[0]
    real = batch.weights > 0
    flat, ids = batch.input_ids.flatten(), torch.from_numpy(blocks[step_blocks(1, 3, 8, 40)]).flatten()
    assert (flat[batch.positions[real]] == MASK).all()
    assert torch.equal(ids[batch.positions[real]], batch.targets[real])
    assert int(real.sum()) == int((flat == MASK).sum())
    kept = flat != MASK
    assert torch.equal(flat[kept], ids[kept])
    assert len(batch.positions) % (8 * LENGTH // 16) == 0


def test_masked_fraction_is_the_time(tmp_path):
    """Of 512 blocks, each stratum of 64 has 1024 tokens: the fraction is within 5 s.e. of the mean time."""
    blocks = random_blocks(512)
    batch = BatchMaker(blocks, tiny(tmp_path, batch_size=512)).step(0)[0]
    random = np.sort((batch.input_ids == MASK).float().mean(1).numpy())
    t = np.sort(1 - np.exp(-batch.sigma.numpy().astype(np.float64)))  # sigma = -log(1 - (1 - eps) t)
    by_time = (batch.input_ids == MASK).float().mean(1).numpy()[np.argsort(batch.sigma.numpy())]
    for start in range(0, 512, 64):
        mean_t = t[start : start + 64].mean()
        error = 5 * math.sqrt(max(mean_t * (1 - mean_t), 1e-3) / 1024)
        assert abs(by_time[start : start + 64].mean() - mean_t) < error + 1e-3
    assert random[0] < 0.1
    assert random[-1] > 0.9


def test_padding_is_noised_but_not_counted(tmp_path):
    blocks = random_blocks(layout="padded")
    batch = BatchMaker(blocks, tiny(tmp_path)).step(0)[0]
    ids = torch.from_numpy(blocks[step_blocks(1, 0, 8, 40)])
    is_pad = ids == PAD
    assert (batch.input_ids[is_pad] == MASK).any()
    real = batch.weights > 0
    assert not is_pad.flatten()[batch.positions[real]].any()
    t = stratified_times_of(batch)
    expected = (1 / t)[batch.positions[real] // LENGTH] / int((~is_pad).sum())
    torch.testing.assert_close(batch.weights[real].double(), expected, rtol=1e-4, atol=0)


def stratified_times_of(batch):
    return (1 - torch.exp(-batch.sigma.double())) / (1 - 1e-3)


def test_next_tokens_leave_out_padding(tmp_path):
    blocks = random_blocks(layout="padded")
    batch = BatchMaker(blocks, tiny(tmp_path, objective="ar")).step(0)[0]
    ids = torch.from_numpy(blocks[step_blocks(1, 0, 8, 40)])
    assert torch.equal(batch.input_ids, ids)
    real = batch.weights > 0
    assert torch.equal(batch.targets[real], ids.flatten()[batch.positions[real] + 1])
    assert int(real.sum()) == int((ids[:, 1:] != PAD).sum())
    assert batch.weights.sum() == pytest.approx(1.0, rel=1e-5)


def test_text_that_holds_the_mask_is_refused(tmp_path):
    with pytest.raises(DataError, match="mask token"):
        BatchMaker(MemoryBlocks(np.full((4, LENGTH), MASK)), tiny(tmp_path)).step(0)


def test_batch_that_does_not_split_is_refused(tmp_path):
    with pytest.raises(SettingError, match="multiple of 6"):
        BatchMaker(random_blocks(), tiny(tmp_path, micro_batch=2), 0, 3)


def test_loader_gives_the_same_batches_and_leaves_torchs_generator_alone(tmp_path):
    maker = BatchMaker(random_blocks(), tiny(tmp_path))
    before = torch.get_rng_state()
    made = list(batches_ahead(maker, range(3, 5), pin_memory=False))
    assert torch.equal(torch.get_rng_state(), before)
    assert [torch.equal(b[0].input_ids, maker.step(s)[0].input_ids) for s, b in zip((3, 4), made, strict=True)] == [
        True,
        True,
    ]


# Loss and validation ----------------------------------------------------------------------------------------------


class Unigram(nn.Module):
    """A denoiser that ignores its input: logits of every position are `table` (V,)."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)
        self.config = SimpleNamespace(mask_token_id=MASK)

    def hidden(self, ids, sigma):
        # What stands left and right says how sure the model is, so the loss depends on time.
        seen = (ids != MASK).float().mean(1, keepdim=True)
        return (0.2 + seen)[:, :, None].expand(-1, ids.shape[1], 1)

    def head(self, hidden):
        return hidden * self.table


@pytest.mark.parametrize("noise", ["loglinear", "cosine"])
def test_bound_of_an_untrained_network_is_the_log_of_the_vocabulary(tmp_path, noise):
    """The head starts at zero: uniform over all tokens but the mask, so CE(t) = log(V - 1) at every t."""
    network = build_network(tiny(tmp_path, noise=noise), random_blocks().manifest).eval()
    bound = validation_bound(network, random_blocks(), noise=noise_schedule(noise), num_times=200, batch_size=40)
    assert bound["cross_entropy"] == pytest.approx([math.log(VOCAB - 1)] * 200, rel=1e-5)
    integral = float(np.mean([-noise_schedule(noise).alpha_derivative((k + 0.5) / 200) for k in range(200)]))
    assert integral == pytest.approx(1.0, rel=1e-4)
    assert bound["bound"] == pytest.approx(math.log(VOCAB - 1) * integral, rel=1e-5)
    assert bound["perplexity"] == pytest.approx(math.exp(bound["bound"]))
    assert bound["num_blocks"] == 40
    assert np.mean(bound["per_block"]) == pytest.approx(bound["bound"])


def test_bound_does_not_depend_on_batches_or_processes():
    model, blocks, noise = Unigram(torch.randn(VOCAB)), random_blocks(), noise_schedule("loglinear")
    options = {"noise": noise, "num_times": 5, "num_blocks": 13}
    whole = validation_bound(model, blocks, **options, batch_size=13)
    small = validation_bound(model, blocks, **options, batch_size=4)
    assert small["bound"] == pytest.approx(whole["bound"], rel=1e-6)
    passed = []
    for rank in range(2):
        validation_bound(
            model, blocks, **options, batch_size=4, part=(rank, 2), reduce=lambda a: (passed.append(a.copy()), a + 1)[1]
        )
    sums, counts, other_sums, other_counts = passed
    ratio = (sums + other_sums).sum(0) / (counts + other_counts).sum(0)
    assert ratio == pytest.approx(whole["cross_entropy"], rel=1e-6)


def test_training_loss_estimates_the_bound_without_bias(tmp_path):
    """600 batches of 40 blocks against the bound on the same blocks: equal within 4 s.e. of both."""
    torch.manual_seed(0)
    blocks, config = random_blocks(), tiny(tmp_path, batch_size=40, t_min=1e-3)
    loss, maker = TokenLoss(Unigram(torch.randn(VOCAB)), MASK), BatchMaker(blocks, config)
    with torch.no_grad():
        values = [
            float((loss(b.input_ids, b.positions, b.targets, b.sigma) * b.weights).sum())
            for b in (maker.step(step)[0] for step in range(600))
        ]
    bounds = [
        validation_bound(loss, blocks, noise=noise_schedule("loglinear"), num_times=64, seed=s, batch_size=40)["bound"]
        for s in range(12)
    ]
    error = math.hypot(np.std(values) / math.sqrt(600), np.std(bounds, ddof=1) / math.sqrt(12))
    assert error < 0.02
    assert abs(np.mean(values) - np.mean(bounds)) < 4 * error


def test_bound_of_padded_text_leaves_out_padding():
    blocks = random_blocks(layout="padded")
    changed = MemoryBlocks(blocks.ids, "padded")
    model = Unigram(torch.zeros(VOCAB))
    with torch.no_grad():
        model.table[PAD] = 30.0  # only padding is predicted well
    bound = validation_bound(model, changed, noise=noise_schedule("loglinear"), num_times=8)
    assert bound["bound"] > math.log(VOCAB - 1)


def test_likelihood_of_an_unpredictable_text(tmp_path):
    network = build_network(tiny(tmp_path, objective="ar"), random_blocks().manifest).eval()
    result = validation_likelihood(network, random_blocks(), batch_size=10)
    ids = torch.from_numpy(random_blocks().ids)
    assert result["bound"] == pytest.approx(network(ids, labels=ids).loss.item(), rel=1e-5)


def test_nan_in_validation_is_an_error():
    with pytest.raises(ModelError, match="not finite"):
        validation_bound(Unigram(torch.full((VOCAB,), math.nan)), random_blocks(), noise=noise_schedule("loglinear"))


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_micro_batches_add_up_to_the_same_gradient(tmp_path, objective):
    blocks, config = random_blocks(), tiny(tmp_path, objective=objective)
    gradients = []
    for micro_batch in (8, 2):
        network = build_network(config, blocks.manifest).eval()
        for parameter in network.parameters():  # away from zero, or most gradients vanish
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
        loss = TokenLoss(network, MASK if objective == "mdlm" else None)
        for batch in BatchMaker(blocks, replace(config, micro_batch=micro_batch)).step(0):
            entropy = loss(batch.input_ids, batch.positions, batch.targets, batch.sigma)
            (entropy * batch.weights).sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # the compiler uses what torch deprecates
@pytest.mark.parametrize("time_conditioning", [False, True])
def test_compiled_gradients_are_those_of_the_plain_network(tmp_path, time_conditioning):
    """Bfloat16 on CUDA: each parameter's gradient within 2 % of the uncompiled one's norm."""
    shape = {"hidden_size": 256, "heads": 4, "batch_size": 64, "dropout": 0.0, "time_conditioning": time_conditioning}
    blocks = MemoryBlocks(np.random.default_rng(0).integers(2, PAD, (64, 256)))
    config = tiny(tmp_path, **shape)
    network = build_network(config, blocks.manifest).cuda().train()
    for number, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator("cuda").manual_seed(number))
    plain, compiled = (TokenLoss(network, MASK, torch.bfloat16).train() for _ in range(2))
    compiled.compile_parts(by_block=False)
    for step in range(3):
        batch = BatchMaker(blocks, config).step(step)[0].to(torch.device("cuda"))
        gradients = []
        for loss in (plain, compiled):
            network.zero_grad()
            (loss(batch.input_ids, batch.positions, batch.targets, batch.sigma) * batch.weights).sum().backward()
            gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
        for name, expected in gradients[0].items():
            assert (gradients[1][name] - expected).norm() < 0.02 * expected.norm(), name


# Runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_interrupted_run_ends_as_the_uninterrupted_one(tmp_path, memory_data, objective):
    """Stopped at step 6, it goes on from the checkpoint at 4: every loss and the final weights, to the last bit."""
    whole, cut = tiny(tmp_path, "whole", objective=objective), tiny(tmp_path, "cut", objective=objective)
    expected = run(whole)
    interrupted = train(cut)
    first = list(islice(interrupted, 4))
    interrupted.close()
    assert first[-1].step == 6
    rest = run(cut)
    assert (rest[0].step, rest[0].notes) == (4, ("goes on from step 4",))
    assert losses(rest) == [entry for entry in losses(expected) if entry[0] > 4]
    assert_same_weights(final_weights(whole), final_weights(cut))
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "tokens_per_second"}
            for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("log_every", [1, 5])
def test_a_run_that_is_asked_to_stop_writes_a_checkpoint_first(tmp_path, memory_data, log_every):
    changes = {"log_every": log_every, "checkpoint_every": 0, "validate_every": 0}
    whole, cut = tiny(tmp_path, "whole", **changes), tiny(tmp_path, "cut", **changes)
    expected, answers = run(whole), iter([False, False, True])
    first = list(train(cut, stop=lambda: next(answers)))
    assert (first[-1].step, first[-1].notes) == (3, ("stopped at step 3; the run goes on from there",))
    rest = run(cut)
    assert (rest[0].step, rest[0].notes) == (3, ("goes on from step 3",))
    if log_every == 1:
        assert losses(first) + losses(rest) == losses(expected)
    assert_same_weights(final_weights(whole), final_weights(cut))


def test_finished_run_says_so(tmp_path, memory_data):
    config = tiny(tmp_path, steps=2, validate_every=0)
    run(config)
    (record,) = run(config)
    assert record.step == 2
    assert "finished" in record.notes[0]


def fill_the_disk(monkeypatch, refusal):
    """Let the file of the final weights begin and not end."""

    def refuse(weights, path, metadata):
        path.write_bytes(b"the first bytes")
        raise refusal

    monkeypatch.setattr("understudy.training.run_folder.save_file", refuse)


@pytest.mark.parametrize(
    "refusal", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_full_disk_at_the_end_leaves_no_half_model(tmp_path, memory_data, monkeypatch, refusal):
    fill_the_disk(monkeypatch, refusal)
    with pytest.raises(ModelError, match=r"cannot write the model to .*No space left on device.*make room") as error:
        run(tiny(tmp_path, validate_every=0))
    assert "\n" not in str(error.value)
    assert not {"config.json", "model.safetensors"} & {path.name for path in (tmp_path / "run").iterdir()}
    assert json.loads((tmp_path / "run" / "training.json").read_text())["finished"] is False


def test_a_run_whose_model_found_no_room_ends_when_there_is_some(tmp_path, memory_data, monkeypatch):
    whole, cut = tiny(tmp_path, "whole", validate_every=0), tiny(tmp_path, "cut", validate_every=0)
    run(whole)
    with monkeypatch.context() as patch:
        fill_the_disk(patch, OSError(28, "No space left on device"))
        with pytest.raises(ModelError):
            run(cut)
    run(cut)
    assert_same_weights(final_weights(whole), final_weights(cut))
    assert json.loads((tmp_path / "cut" / "training.json").read_text())["finished"] is True
    assert not list((tmp_path / "cut").glob("*.partial"))


def test_other_settings_are_refused_by_name(tmp_path, memory_data):
    config = tiny(tmp_path, steps=2)
    run(config)
    with pytest.raises(SettingError, match=r"learning_rate was 0\.01, now 0\.02"):
        run(replace(config, learning_rate=0.02))
    memory_data["train"] = patterned_blocks(17)
    with pytest.raises(SettingError, match="data is another"):
        run(config)


def test_a_run_stopped_before_its_first_checkpoint_takes_other_settings(tmp_path, memory_data):
    config = tiny(tmp_path, "cut")
    other = replace(config, learning_rate=0.02, blocks=3)
    stopped = train(config)
    assert [record.step for record in islice(stopped, 2)] == [0, 2]  # the first checkpoint would be at 4
    stopped.close()
    records = run(other)
    assert records[0].notes == ("starts at step 0",)
    assert json.loads((tmp_path / "cut" / "training.json").read_text())["config"]["learning_rate"] == 0.02
    logged = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert logged == [record.step for record in records[1:]]
    fresh = replace(other, output=str(tmp_path / "fresh"))
    run(fresh)
    assert_same_weights(final_weights(other), final_weights(fresh))


def test_settings_of_a_run_with_a_checkpoint_stay(tmp_path, memory_data):
    config = tiny(tmp_path)
    stopped = train(config)
    list(islice(stopped, 3))  # the checkpoint at step 4
    stopped.close()
    with pytest.raises(SettingError, match=r"learning_rate was 0\.01, now 0\.02"):
        run(replace(config, learning_rate=0.02))


def test_folder_of_something_else_is_refused(tmp_path, memory_data):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(SettingError, match="something else"):
        run(tiny(tmp_path))


def test_truncated_checkpoint_falls_back(tmp_path, memory_data):
    config = tiny(tmp_path)
    stopped = train(config)
    expected = list(islice(stopped, 6))  # step 10, checkpoints at 4 and 8
    stopped.close()
    newest = checkpoint_folders(tmp_path / "run" / "checkpoints")[-1] / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    rest = run(config)
    assert rest[0].step == 4
    assert "step-00000008" in rest[0].notes[0]
    assert "damaged" in rest[0].notes[0]
    assert losses(rest)[:3] == losses(expected)[2:]


def test_model_of_another_shape_is_refused_by_the_state(tmp_path, memory_data):
    config = tiny(tmp_path)
    stopped = train(config)
    list(islice(stopped, 4))
    stopped.close()
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    record["config"]["hidden_size"] = 32
    (tmp_path / "run" / "training.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="holds no"):
        run(replace(config, hidden_size=32))


def test_four_sequences_are_learnt_by_heart(tmp_path, memory_data):
    """Four rows that share no column's token: the least possible bound is log(4) / 16 = 0.09 nats per token.

    Whoever only knew the tokens of each column would pay log(4) = 1.39.
    """
    memory_data["train"] = MemoryBlocks(2 + np.arange(4 * LENGTH).reshape(4, LENGTH) % 46)
    memory_data["validation"] = MemoryBlocks(np.tile(memory_data["train"].ids, (8, 1)))
    changes = {"hidden_size": 32, "steps": 300, "dropout": 0.0, "validate_every": 300, "log_every": 50, "ema": 0.99}
    changes |= {"validation_blocks": 32, "validation_times": 8, "decay": "linear"}
    records = run(tiny(tmp_path, **changes, batch_size=16, checkpoint_every=0))
    assert records[1].loss > 1.5
    assert math.log(4) / LENGTH < records[-1].loss < 1.0
    assert math.log(4) / LENGTH < records[-1].validation["bound"] < 1.0


@pytest.mark.parametrize("changes", [{"weight_dtype": "bf16"}, {"time_conditioning": True}, {"tie_embeddings": True}])
def test_result_is_a_model_folder(tmp_path, memory_data, changes):
    config = tiny(tmp_path, steps=4, **changes)
    run(config)
    dtype = torch.bfloat16 if "weight_dtype" in changes else torch.float32
    model = AutoModelForMaskedLM.from_pretrained(config.output, dtype="auto")
    assert model.dtype == dtype
    assert model.config.mask_token_id == MASK
    assert model.config.bos_token_id is None  # the blocks have no frame
    ema = load_file(checkpoint_folders(tmp_path / "run" / "checkpoints")[-1] / "ema.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, ema[name].to(dtype))


def test_left_to_right_result_is_a_causal_model(tmp_path, memory_data):
    config = tiny(tmp_path, objective="ar", steps=4)
    run(config)
    model = AutoModelForCausalLM.from_pretrained(config.output)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ema = load_file(checkpoint_folders(tmp_path / "run" / "checkpoints")[-1] / "ema.safetensors")
    assert all(torch.equal(parameter, ema[name]) for name, parameter in model.named_parameters())


def test_torchs_generator_is_left_alone(tmp_path, memory_data):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(tiny(tmp_path, steps=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_data_without_validation_trains_without(tmp_path, memory_data):
    del memory_data["validation"]
    memory_data["train"].manifest.splits = ("train",)
    assert all(record.validation is None for record in run(tiny(tmp_path, steps=6)))


def test_loss_that_is_not_finite_stops_the_run(tmp_path, memory_data, monkeypatch):
    monkeypatch.setattr(TokenLoss, "forward", lambda self, ids, p, *_: p * math.nan + next(self.parameters()).sum())
    with pytest.raises(ModelError, match="not finite"):
        run(tiny(tmp_path))


def test_bf16_trains_close_to_fp32(tmp_path, memory_data):
    single = run(tiny(tmp_path, "fp32", dropout=0.0, steps=4))
    half = run(tiny(tmp_path, "bf16", dropout=0.0, steps=4, precision="bf16"))
    assert half[-1].loss == pytest.approx(single[-1].loss, rel=0.02)
    assert half[-1].loss != single[-1].loss


# Processes --------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, json
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import understudy.training.loop as loop
from sharding import SHARDED
import test_training as here
from sharding import shard_if_asked
shard_if_asked()
splits = {{"train": here.patterned_blocks(), "validation": here.patterned_blocks(20)}}
loop._open_blocks = lambda _, split: splits[split]
config = loop.TrainingConfig(**json.loads(sys.argv[1]))
stop_at, stop_in = map(int, sys.argv[2:] or (-1, -1))
asked = [0]
def stop():
    asked[0] += 1
    return (asked[0], int(os.environ.get("RANK", 0))) == (stop_at, stop_in)
for record in loop.train(config, stop=stop):
    print(json.dumps(record.to_json()), flush=True)
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    return path


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "ACCELERATE_USE_CPU": "true"}


def test_killed_run_goes_on(tmp_path, script, memory_data):
    """kill -9 somewhere after the second checkpoint, then on in this process."""
    whole = tiny(tmp_path, "whole", steps=40)
    cut = replace(whole, output=str(tmp_path / "cut"))
    expected = run(whole)
    command = [sys.executable, str(script), json.dumps(cut.to_json())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    for line in process.stdout:
        if json.loads(line)["step"] >= 10:
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    rest = run(cut)
    assert 8 <= rest[0].step < 40
    assert losses(rest) == [entry for entry in losses(expected) if entry[0] > rest[0].step]
    assert_same_weights(final_weights(whole), final_weights(cut))


@pytest.mark.parametrize("launcher", ["ddp", "fsdp"])
def test_two_processes_train_as_one(tmp_path, script, memory_data, launcher):
    """Two gloo processes, killed by us after a checkpoint of one process: same losses up to rounding."""
    alone = tiny(tmp_path, "alone", dropout=0.0)
    together = replace(alone, output=str(tmp_path / "together"), micro_batch=2)
    expected = run(alone)
    stopped = train(together)
    list(islice(stopped, 4))  # one process until the checkpoint at step 4, two from there
    stopped.close()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*launch, str(script), json.dumps(together.to_json())],
        capture_output=True,
        text=True,
        env=environment() | SHARDED if launcher == "fsdp" else environment(),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "together" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [record.step for record in expected if record.loss]
    for line, record in zip(lines, expected[1:], strict=True):
        assert line["loss"] == pytest.approx(record.loss, rel=1e-4)
        assert line["grad_norm"] == pytest.approx(record.grad_norm, rel=1e-3)
        if record.validation:
            assert line["validation"]["bound"] == pytest.approx(record.validation["bound"], rel=1e-4)
    for name, tensor in final_weights(alone).items():
        torch.testing.assert_close(final_weights(together)[name], tensor, rtol=1e-2, atol=1e-3)


def test_processes_stop_together(tmp_path, script, memory_data):
    """Asked of the second process only, in a run that would write no checkpoint."""
    config = tiny(tmp_path, validate_every=0, checkpoint_every=0, log_every=1)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(script), json.dumps(config.to_json()), "5", "1"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr[-3000:]
    assert [path.name for path in checkpoint_folders(tmp_path / "run" / "checkpoints")][-1].endswith("5")
    assert [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert run(config)[0].notes == ("goes on from step 5",)


COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_training as here
from understudy import cli
from understudy.training import loop
loop._open_blocks = lambda _, split: here.patterned_blocks()
ahead = loop.batches_ahead
loop.batches_ahead = lambda maker, steps, pin_memory: ahead(maker, steps, pin_memory=True)
cli.main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_leaves_the_one_that_makes_batches_at_work(tmp_path, number, status):
    """As Ctrl-C at a terminal, with batches made ahead in a process of their own, as on a GPU."""
    (tmp_path / "command.py").write_text(COMMAND.format(tests=str(Path(__file__).parent)))
    size = ("--hidden-size", "16", "--blocks", "1", "--heads", "2", "--batch-size", "8", "--validate-every", "0")
    command = [sys.executable, "command.py", "train", "--data", "none", "--output", "run", *size, "--log-every", "1"]
    options = {"stderr": subprocess.PIPE, "text": True, "env": environment(), "cwd": tmp_path}
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        for line in process.stderr:
            if line.startswith("step 3/"):
                break
        os.killpg(process.pid, number)
        rest = process.stderr.read()
    assert process.returncode == status, rest
    step = int(checkpoint_folders(tmp_path / "run" / "checkpoints")[-1].name.removeprefix("step-"))
    assert step >= 3
    assert f"the checkpoint of step {step:,} is kept in 'run'" in rest.splitlines()[-1]
