"""Healing: the loss of distillation, the times it is drawn at, and runs that heal."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from driving import finish
from light_stage import LENGTH, make_blocks, make_tokenizer, save_heavy
from models import MASK, VOCAB, random_canvas, tiny_network
from sharding import SHARDED
from understudy.checkpoint import checkpoint_folders
from understudy.data import TokenBlocks, load_tokenizer
from understudy.denoisers.model_files import model_sha256
from understudy.errors import DataError, SettingError
from understudy.lightening import LightSettings, Weighing, held_out_text, keep_blocks, make_light, measure
from understudy.record_journal import RecordJournal
from understudy.training import TokenLoss, TrainingConfig, build_network, train
from understudy.training.batches import BatchMaker, drawn_times
from understudy.training.distillation import DistillationLoss, Teacher
from understudy.training.networks import load_dit

# The loss ---------------------------------------------------------------------------------------------------------


def example(seed=0, positions=9):
    """Input, positions, targets and sigma of one micro-batch."""
    ids, rng = random_canvas(3, 8, seed=seed, masked=0.6), np.random.default_rng(seed)
    chosen = torch.from_numpy(rng.choice(np.flatnonzero((ids == MASK).numpy()), positions, replace=False))
    return ids, chosen, torch.from_numpy(rng.integers(0, MASK, positions)), torch.linspace(0.2, 2, 3)


def student(network):
    return network.requires_grad_(True).train()


def distillation(network, teacher, share, **options):
    return DistillationLoss(student(network), Teacher(teacher), MASK, share, **options).train()


def gradient(loss, batch):
    loss.zero_grad()
    weights = torch.linspace(0.5, 2, len(batch[1]))
    (loss(*batch) * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])


@pytest.mark.parametrize("overrides", [{}, {"time_conditioning": True}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_loss_is_its_definition(share, overrides):
    """Against a statement in float64, without the tricks: all logits, the mask taken out of the vocabulary."""
    heavy, light = tiny_network(3, seed=1, **overrides), tiny_network(1, seed=2, dropout=0.0, **overrides)
    ids, positions, targets, sigma = example()
    found = distillation(light, heavy, share)(ids, positions, targets, sigma)
    probabilities = []
    for network in (heavy, light):
        with torch.no_grad():
            logits = network(ids, timesteps=sigma).logits.double().reshape(-1, VOCAB)[positions]
        probabilities.append(torch.softmax(logits[:, :MASK], dim=-1))
    p, q = probabilities
    divergence = (p * (p / q).log()).sum(-1)
    expected = share * divergence - (1 - share) * q[torch.arange(9), targets].log()
    torch.testing.assert_close(found.detach().double(), expected, rtol=1e-4, atol=1e-6)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    heavy = tiny_network(2, dropout=0.0)
    same = keep_blocks(heavy, (0, 1))
    loss, batch = distillation(same, heavy, 1.0), example()
    assert loss(*batch).abs().max() < 1e-6
    pull = gradient(distillation(keep_blocks(heavy, (0, 1)), heavy, 0.0), batch).norm()
    assert gradient(loss, batch).norm() < 1e-5 * pull


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_pieces_add_up_to_the_whole(rows):
    heavy, light, batch = tiny_network(3, seed=1), tiny_network(2, seed=2, dropout=0.0), example()
    whole, pieces = (distillation(light, heavy, 0.5, max_logits=size) for size in (2**20, rows * VOCAB))
    torch.testing.assert_close(pieces(*batch), whole(*batch))
    torch.testing.assert_close(gradient(pieces, batch), gradient(whole, batch))


def test_pieces_hold_few_logits_at_a_time():
    """Of what is kept for the gradient, nothing is as large as the logits of all positions."""
    heavy, light, batch = tiny_network(3, seed=1), tiny_network(1, seed=2, dropout=0.0), example()
    sizes = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.shape), t)[1], lambda t: t)
    for limit, is_large in ((2**20, True), (2 * VOCAB, False)):
        sizes.clear()
        with hooks:
            distillation(light, heavy, 0.5, max_logits=limit)(*batch)
        assert ((9, VOCAB) in sizes) == is_large
        assert (2, VOCAB) not in sizes


def test_in_evaluation_it_is_the_cross_entropy():
    heavy, light, batch = tiny_network(3, seed=1), tiny_network(1, seed=2), example()
    loss = distillation(light, heavy, 0.7).eval()
    assert torch.equal(loss(*batch), TokenLoss(light, MASK).eval()(*batch))


def test_the_teacher_is_no_part_of_what_is_trained():
    heavy = tiny_network(3)
    loss = distillation(tiny_network(1), heavy, 0.5)
    assert {name.split(".")[0] for name, _ in loss.named_parameters()} == {"network"}
    gradient(loss, example())
    assert all(parameter.grad is None for parameter in heavy.parameters())
    loss.train()
    assert not heavy.training


# Settings and times -----------------------------------------------------------------------------------------------

SPLIT = ((0.0, 0.125), (0.875, 1.0))


def config(**changes):
    return TrainingConfig(**{"data": "d", "output": "o", "batch_size": 8, **changes})


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "distillation"},
        {"teacher": "heavy"},
        {"objective": "ar", "initial": "heavy"},
        {"objective": "ar", "times": SPLIT},
        {"objective": "distillation", "teacher": "heavy", "distillation_weight": 1.5},
        {"times": ()},
        {"times": ((0.5, 0.2),)},
        {"times": ((0.5, 0.7), (0.6, 0.8))},
        {"times": ((-0.1, 0.5),)},
        {"times": ((0.5, 1.1),)},
        {"times": ((0.0, 0.001),)},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingError):
        config(**wrong)


def test_times_survive_json():
    wish = config(times=SPLIT, objective="distillation", teacher="heavy")
    assert TrainingConfig.from_json(json.loads(json.dumps(wish.to_json()))) == wish
    assert wish.differences(replace(wish, times=((0.0, 0.5),), teacher="moved")) == ["times"]


@pytest.mark.parametrize("size", [8, 512])
def test_drawn_times_are_those_of_the_light_steps(size):
    uniform = np.random.default_rng(0).random(size)
    times = drawn_times(config(times=SPLIT, t_min=1e-3), uniform)
    inside = [((times >= low) & (times <= high)).sum() for low, high in SPLIT]
    assert sum(inside) == size
    assert times.min() >= 1e-3
    assert inside[0] == pytest.approx(size * 0.124 / 0.249, abs=1)
    everything = drawn_times(config(times=((0.0, 1.0),)), uniform)
    np.testing.assert_allclose(everything, drawn_times(config(), uniform), rtol=1e-12)


# Runs -------------------------------------------------------------------------------------------------------------

WEIGHING = Weighing(num_blocks=16, num_times=4, batch_size=8)
WIDTH = 32
HEAL = {
    **{"steps": 12, "batch_size": 8, "learning_rate": 1e-2, "warmup": 2, "ema": 0.5, "log_every": 2},
    **{"validate_every": 6, "validation_blocks": 8, "validation_times": 4, "checkpoint_every": 4},
    **{"distillation_weight": 0.5, "precision": "fp32"},
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def heavy(tmp_path_factory, data):
    """Four blocks that know the text: nothing is learnt from a teacher that does not."""
    folder = tmp_path_factory.mktemp("models") / "heavy"
    recipe = {"steps": 150, "batch_size": 16, "learning_rate": 1e-2, "warmup": 10, "ema": 0.9, "validate_every": 0}
    shape = {"hidden_size": WIDTH, "blocks": 4, "heads": 2, "dropout": 0.0, "log_every": 100}
    list(train(TrainingConfig(data=str(data), output=str(folder), **recipe, **shape)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer):
    return make_blocks(tmp_path_factory.mktemp("data") / "packed", tokenizer)


def wish(data, **changes):
    return LightSettings(**{"blocks": 2, "data": str(data), "weighing": WEIGHING, **changes})


def heal(heavy, output, settings, **changes):
    return finish(make_light(heavy, output, settings, healing={**HEAL, **changes}))


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_healing_brings_the_light_model_closer_on_text_that_it_has_not_seen(tmp_path, heavy, data, share):
    digest = model_sha256(heavy)
    records, light = heal(heavy, tmp_path / "light", wish(data), steps=60, distillation_weight=share)
    assert [stage for stage, _ in stages(records)] == ["weighing blocks", "healing", "measuring"]
    assert all(last.done == last.total for _, last in stages(records))
    record = json.loads((light.path / "make_light.json").read_text())
    assert record == json.loads(json.dumps(light.record))
    before, after = record["kl"], record["healing"]["kl"]
    assert after["mean"] + 3 * after["se"] < before["mean"] - 3 * before["se"]
    assert model_sha256(heavy) == digest
    text = held_out_text(str(data), load_tokenizer(heavy), load_dit(heavy).config, count=16)
    run = measure(load_dit(heavy), load_dit(light.path), [(0, 1)], text, WEIGHING, RecordJournal(None, {}), "")
    assert finish(run)[1].estimate(0).mean == pytest.approx(after["mean"])


def stages(records):
    """The stages in their order, each with its last record."""
    return list({record.stage: record for record in records}.items())


def test_what_healing_leaves_behind(tmp_path, heavy, data):
    _, light = heal(heavy, tmp_path / "light", wish(data))
    names = {path.name for path in light.path.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "make_light.json", "pruned", "training.json"}
    assert not list(tmp_path.rglob("*partial*"))
    pruned = load_dit(light.path / "pruned")
    for one, other in zip(
        pruned.parameters(), keep_blocks(load_dit(heavy), light.record["kept"]).parameters(), strict=True
    ):
        assert torch.equal(one, other)
    checkpoint = load_file(checkpoint_folders(light.path / "checkpoints")[-1] / "weights.safetensors")
    assert checkpoint.keys() == {name for name, _ in pruned.named_parameters()}
    healing = light.record["healing"]["settings"]
    assert (healing["objective"], healing["teacher"], healing["blocks"]) == ("distillation", str(heavy), 2)


def test_interrupted_healing_ends_with_the_same_weights(tmp_path, heavy, data):
    """Stopped after the record of step 6, it goes on from the checkpoint of step 4."""
    settings = wish(data, weighing=replace(WEIGHING, intervals=SPLIT))
    _, whole = heal(heavy, tmp_path / "whole", settings)
    run = make_light(heavy, tmp_path / "cut", settings, healing=HEAL)
    for progress in run:
        if progress.training is not None and progress.done == 6:
            break
    run.close()
    records, cut = heal(heavy, tmp_path / "cut", settings)
    first = next(record.training for record in records if record.training)
    assert (first.step, first.notes) == (4, ("goes on from step 4",))
    assert_same_weights(weights(cut.path), weights(whole.path))
    assert cut.record["healing"]["kl"] == whole.record["healing"]["kl"]
    again, light = heal(heavy, tmp_path / "cut", settings)
    assert "finished" in again[-1].training.notes[0]
    assert light.record == json.loads(json.dumps(cut.record))


def test_other_settings_another_heavy_or_another_folder_are_refused(tmp_path, heavy, data, tokenizer):
    heal(heavy, tmp_path / "light", wish(data))
    with pytest.raises(SettingError, match=r"distillation_weight was 0\.5, now 0\.7"):
        heal(heavy, tmp_path / "light", wish(data), distillation_weight=0.7)
    with pytest.raises(SettingError, match="another settings"):
        heal(heavy, tmp_path / "light", wish(data, blocks=3))
    other = save_heavy(tmp_path / "other", tokenizer, blocks=5)
    with pytest.raises(SettingError, match="another heavy"):
        heal(other, tmp_path / "light", wish(data))
    finish(make_light(heavy, tmp_path / "only-pruned", wish(data)))
    with pytest.raises(SettingError, match="something else"):
        heal(heavy, tmp_path / "only-pruned", wish(data))


def test_a_teacher_that_has_changed_is_noticed(tmp_path, heavy, data, tokenizer):
    teacher = save_heavy(tmp_path / "teacher", tokenizer)
    wanted = run_settings(heavy, tmp_path, data, teacher=str(teacher), objective="distillation")
    stopped = train(wanted)
    list(islice(stopped, 4))
    stopped.close()
    save_heavy(teacher, tokenizer, blocks=3)
    with pytest.raises(SettingError, match="teacher is another"):
        next(train(wanted))


def run_settings(heavy, tmp_path, data, **changes):
    shape = {"hidden_size": WIDTH, "heads": 2, "blocks": 4, "initial": str(heavy), "steps": 8}
    heal = {name: value for name, value in HEAL.items() if name != "distillation_weight"}
    return TrainingConfig(**{"data": str(data), "output": str(tmp_path / "run"), **heal, **shape, **changes})


def test_training_begins_with_the_initial_model(tmp_path, heavy, data):
    wanted = run_settings(heavy, tmp_path, data, dropout=0.2)
    network, manifest = build_network(wanted, TokenBlocks.open(data).manifest), TokenBlocks.open(data).manifest
    assert network.config.dropout == network.blocks[0].dropout == 0.2
    for one, other in zip(network.parameters(), load_dit(heavy).parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(SettingError, match="num_hidden_layers is 3, but 4"):
        build_network(replace(wanted, blocks=3), manifest)


def test_batches_noised_within_intervals_hide_accordingly(tmp_path, heavy, data):
    wanted = run_settings(heavy, tmp_path, data, times=((0.9, 1.0),))
    batch = BatchMaker(TokenBlocks.open(data), wanted).step(0)[0]
    mask_id = TokenBlocks.open(data).manifest.mask_id
    assert (batch.input_ids == mask_id).float().mean() > 0.85
    t = (1 - torch.exp(-batch.sigma.double())) / (1 - 1e-3)
    assert ((t > 0.9 - 1e-6) & (t < 1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame": "bos"}, "bos_token_id"),
        ({"block_length": 40}, f"takes {LENGTH}"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_blocks_are_weighed(tmp_path, heavy, tokenizer, changes, message):
    other = make_blocks(tmp_path / "other", tokenizer, **changes)
    with pytest.raises(DataError, match=message):
        heal(heavy, tmp_path / "light", wish(other))
    assert not (tmp_path / "light").exists()


def test_data_of_another_tokenizer_is_refused(tmp_path, heavy):
    from understudy.data import train_bpe

    other = make_blocks(tmp_path / "other", train_bpe(["other words altogether"] * 3, 275))
    with pytest.raises(DataError, match="tokenizer"):
        heal(heavy, tmp_path / "light", wish(other))
    with pytest.raises(DataError, match="tokenizer"):
        heal(heavy, tmp_path / "light", wish(other, blocks=None, keep=(0, 1)))


def test_healing_needs_data_and_comes_before_rounding(tmp_path, heavy, data):
    with pytest.raises(SettingError, match="healing needs --data"):
        heal(heavy, tmp_path / "light", replace(wish(data, blocks=None, keep=(0, 1)), data=None))
    with pytest.raises(SettingError, match="heal first"):
        heal(heavy, tmp_path / "light", wish(data, quantise="int8"))
    assert not list(tmp_path.iterdir())


def test_data_without_validation_heals_blocks_chosen_by_hand(tmp_path, heavy, tokenizer):
    other = make_blocks(tmp_path / "other", tokenizer, validation_fraction=None)
    _, light = heal(heavy, tmp_path / "light", wish(other, blocks=None, keep=(0, 3)))
    assert (light.record["kl"], light.record["healing"]["kl"]) == (None, None)
    with pytest.raises(DataError, match="validation"):
        heal(heavy, tmp_path / "chosen", wish(other))


SCRIPT = """
import sys, json
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from sharding import shard_if_asked
shard_if_asked()
from understudy.lightening import LightSettings, Weighing, make_light
heavy, output, data, healing = sys.argv[1:]
wish = LightSettings(blocks=2, data=data, weighing=Weighing(16, 4, batch_size=8))
for progress in make_light(heavy, output, wish, healing=json.loads(healing)):
    pass
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ddp", "fsdp"])
def test_two_processes_heal_as_one(tmp_path, heavy, data, launcher):
    """The main process weighs blocks, the other waits; then both train: the same losses up to rounding."""
    _, alone = heal(heavy, tmp_path / "alone", wish(data))
    (tmp_path / "script.py").write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    arguments = [str(heavy), str(tmp_path / "together"), str(data), json.dumps({**HEAL, "micro_batch": 2})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*launch, str(tmp_path / "script.py"), *arguments],
        capture_output=True,
        text=True,
        env=environment | (SHARDED if launcher == "fsdp" else {}),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("alone", "together")
    ]
    assert len(logs[0]) == len(logs[1])
    for one, other in zip(*logs, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    together = json.loads((tmp_path / "together" / "make_light.json").read_text())
    assert together["kept"] == alone.record["kept"]
    assert together["healing"]["kl"]["mean"] == pytest.approx(alone.record["healing"]["kl"]["mean"], rel=1e-2)
