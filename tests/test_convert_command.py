"""`understudy convert`: the same model in our layout, from files whose code must not run, or nothing at all."""

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from published_mdlm import CONFIG, published, save_published, state_of
from stage import VOCAB, make_network, make_tokenizer
from test_mdlm_checkpoints import TIMES, canvas
from understudy import cli, load_denoiser
from understudy.denoisers.inert_pickle import MOST_PICKLED, Inert, open_archive
from understudy.denoisers.model_set import load_model_set
from understudy.errors import ModelError
from understudy.tokenizer_files import tokenizer_sha256


class Bomb:
    """Leaves a folder behind where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


class Shell(Bomb):
    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class Node:
    """Shaped as OmegaConf's nodes are: `_content` of containers, `_val` of values, and a way back up."""

    def __init__(self, value, parent=None):
        self.__dict__["_parent"] = parent
        if isinstance(value, dict):
            self.__dict__["_content"] = {name: Node(item, self) for name, item in value.items()}
        else:
            self.__dict__["_val"] = value


class Meter(dict):
    """A dictionary with a class of its own, as Lightning's are."""


def hyper_parameters(config, **changes):
    model = {
        "hidden_size": config["hidden_dim"],
        "length": config["model_length"],
        "dropout": 0.2,
        "scale_by_sigma": True,
    }
    model |= {name: config[name] for name in ("cond_dim", "n_blocks", "n_heads")}
    training = {"parameterization": "subs", "backbone": "dit", "noise": {"type": "loglinear"}, "model": model}
    return training | {"time_conditioning": config["time_conditioning"], "ids": "${seed}"} | changes


def lightning(network, config, **changes):
    """What Lightning saves of a run; the last weights are not the averaged ones."""
    raw = {name: tensor if "inv_freq" in name else tensor + 1 for name, tensor in state_of(network).items()}
    content = {
        "state_dict": raw,
        "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": [p.clone() for p in network.parameters()]},
        "hyper_parameters": {"config": Node(hyper_parameters(config))},
        "loops": Meter(fit_loop={"state_dict": {}}),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "seen": {1, 2}}],
    }
    return content | changes


@pytest.fixture
def run(capfd, monkeypatch):
    """Give (status, standard output, standard error) of `understudy convert`, in this process."""

    def convert(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", "convert", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return (end.value.code, *capfd.readouterr())

    return convert


@pytest.fixture
def refuse(run, tmp_path):
    """Conversion that must fail in one line and leave nothing."""

    def convert(source, *options, match):
        before = sorted(tmp_path.iterdir())
        status, out, err = run(source, "--output", tmp_path / "out", *options)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert match in err
        assert sorted(tmp_path.iterdir()) == before

    return convert


@pytest.fixture
def model():
    return published()


@pytest.fixture
def checkpoint(tmp_path, model):
    path = tmp_path / "last.ckpt"
    torch.save(lightning(*model), path)
    return path


def same_logits(folder, network, config):
    denoiser = load_denoiser(folder)
    xt = canvas(config)
    torch.testing.assert_close(denoiser.logits(xt, TIMES), network.at(xt, TIMES), atol=2e-5, rtol=2e-5)
    return denoiser


# What comes out


@pytest.mark.parametrize("conditioned", [False, True])
def test_the_averaged_weights_of_a_lightning_file(run, tmp_path, conditioned):
    network, config = published(time_conditioning=conditioned)
    torch.save(lightning(network, config), tmp_path / "last.ckpt")
    status, out, err = run(tmp_path / "last.ckpt", "--output", tmp_path / "out")
    assert (status, out) == (0, f"{tmp_path / 'out'}\n")
    assert err.count("\n") == 1
    assert "mask 50257" in err
    assert "ema weights in float32" in err
    denoiser = same_logits(tmp_path / "out", network, config)
    assert denoiser.uses_time == conditioned
    shape = denoiser.network.config
    assert (shape.dropout, shape.max_position_embeddings, shape.bos_token_id) == (0.2, 24, 50256)
    # Equal to the last bit to what the published folder of the same weights loads as.
    direct = load_denoiser(save_published(tmp_path / "hub", network, config))
    for name, weight in direct.network.state_dict().items():
        assert torch.equal(denoiser.network.state_dict()[name], weight), name


def test_the_last_weights_on_request(run, checkpoint, tmp_path, model):
    assert run(checkpoint, "--output", tmp_path / "out", "--weights", "raw")[0] == 0
    network, _ = model
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    denoiser = load_denoiser(tmp_path / "out")
    for name, weight in denoiser.network.named_parameters():
        if name.startswith("blocks.0.mlp"):
            assert torch.equal(weight, dict(network.named_parameters())[name])


def test_a_published_folder(run, tmp_path, model):
    source = save_published(tmp_path / "hub", *model)
    status, out, _ = run(source, "--output", tmp_path / "deep" / "out", "--json")
    assert status == 0
    document = json.loads(out)
    assert document["weights"] == "as published"
    assert document["config"]["mask_token_id"] == 50257
    again = same_logits(tmp_path / "deep" / "out", *model)
    xt = canvas(model[1])
    assert torch.equal(again.logits(xt), load_denoiser(source).logits(xt))


def test_a_tokenizer_goes_along_and_the_model_is_whole(run, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    network, config = published(vocab_size=VOCAB)
    torch.save(lightning(network, config), tmp_path / "last.ckpt")
    options = ("--output", tmp_path / "out", "--tokenizer", tmp_path / "tokenizer", "--dtype", "bfloat16")
    assert run(tmp_path / "last.ckpt", *options)[0] == 0
    models = load_model_set({"H": tmp_path / "out"})
    assert models.denoisers["H"].mask_id == tokenizer.mask_token_id
    assert tokenizer_sha256(models.tokenizer) == tokenizer_sha256(tokenizer)
    assert {weight.dtype for weight in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert not list(tmp_path.glob(".*"))
    # Of a published folder that holds its tokenizer, it goes along by itself.
    tokenizer.save_pretrained(save_published(tmp_path / "hub", network, config))
    assert run(tmp_path / "hub", "--output", tmp_path / "second")[0] == 0
    load_model_set({"H": tmp_path / "out", "L": tmp_path / "second"})


def test_duo_keeps_some_settings_elsewhere(run, tmp_path):
    network, config = published(time_conditioning=True)
    settings = hyper_parameters(config, noise={"type": "log-linear", "eps": 1e-3})
    del settings["time_conditioning"], settings["parameterization"]
    settings["algo"] = {"name": "mdlm", "parameterization": "subs", "time_conditioning": True}
    torch.save(lightning(network, config, hyper_parameters={"config": Node(settings)}), tmp_path / "last.ckpt")
    assert run(tmp_path / "last.ckpt", "--output", tmp_path / "out")[0] == 0
    assert same_logits(tmp_path / "out", network, config).uses_time


def test_what_a_file_does_not_say_is_asked_for(run, refuse, tmp_path, model):
    source = tmp_path / "last.ckpt"
    torch.save(lightning(*model, hyper_parameters={}), source)
    refuse(source, match="does not say its length; give --length")
    refuse(source, "--length", 24, match="time_conditioning; give --time-conditioning or --no-time-conditioning")
    refuse(source, "--length", 24, "--time-conditioning", match="does not say its noise; give --noise")
    options = ("--length", 24, "--no-time-conditioning")
    refuse(source, *options, "--heads", 4, match="n_heads is 2 by one account and 4 by another")
    assert run(source, "--output", tmp_path / "out", *options, "--heads", 2)[0] == 0
    same_logits(tmp_path / "out", *model)


# What must not happen


@pytest.mark.parametrize("kind", [Bomb, Shell])
@pytest.mark.parametrize("place", ["hyper_parameters", "loops", "state_dict"])
def test_no_code_of_the_file_runs(run, refuse, tmp_path, model, kind, place):
    mark = tmp_path / "it-ran"
    content = lightning(*model)
    if place == "state_dict":
        content[place]["backbone.extra"] = kind(mark)
    elif place == "loops":
        content[place] = kind(mark)
    else:
        content[place]["tokenizer"] = kind(mark)
    source = tmp_path / "last.ckpt"
    torch.save(content, source)
    if place == "state_dict":
        refuse(source, match="backbone.extra in a form that is not read without running its code")
    else:
        assert run(source, "--output", tmp_path / "out")[0] == 0
        same_logits(tmp_path / "out", *model)
    assert not mark.exists()
    torch.load(source, weights_only=False)  # as others read it
    assert mark.exists()


def test_foreign_objects_keep_what_they_were_made_of_only(tmp_path):
    path = tmp_path / "objects.ckpt"
    torch.save({"shell": Shell(tmp_path / "it-ran"), "meter": Meter(a=1), "node": Node(3)}, path)
    with open_archive(path) as archive:
        shell, meter, node = (archive.content[name] for name in ("shell", "meter", "node"))
    assert all(isinstance(thing, Inert) for thing in (shell, meter, node))
    assert shell.name.endswith(".system")
    assert shell.arguments == (f"touch {tmp_path / 'it-ran'}",)
    assert (meter.items, node.fields()["_val"]) == ({"a": 1}, 3)
    assert not (tmp_path / "it-ran").exists()


def test_tensors_that_share_or_stride_are_read_as_torch_reads_them(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    content = {"t": base.t(), "part": base[1:3, ::2], "empty": base[:0], "one": torch.tensor(7), "half": base.half()}
    content |= {"parameter": torch.nn.Parameter(base), "flags": base > 3}
    torch.save(content, tmp_path / "tensors.ckpt")
    with open_archive(tmp_path / "tensors.ckpt") as archive:
        for name, tensor in content.items():
            assert torch.equal(archive.read(archive.content[name]), tensor.detach()), name


# Files that cannot be converted


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.99999])
def test_truncated_files(refuse, checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * share)])
    refuse(checkpoint, match="is no zip archive")


def test_damage_inside(refuse, checkpoint, tmp_path):
    with zipfile.ZipFile(checkpoint) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    number = next(name for name in members if name.endswith("/data/0"))
    changes = [
        ({pickled: members[pickled][:-40]}, "cannot be read"),
        ({pickled: b"cos\nsystem\n(S'touch gone'\ntR."}, "but not of Lightning"),
        ({number: members[number][:-4]}, "cannot be read"),
        ({}, "no checkpoint of PyTorch"),
    ]
    damaged = tmp_path / "damaged.ckpt"
    for change, match in changes:
        with zipfile.ZipFile(damaged, "w") as archive:
            for name, content in (members | change).items() if change else [("readme", b"")]:
                archive.writestr(name, content)
        # The first storage belongs to the last weights.
        refuse(damaged, "--weights", "raw", match=match)
    assert not Path("gone").exists()


def test_a_pickle_that_unpacks_to_more_than_it_may_is_not_unpacked(refuse, checkpoint, tmp_path, monkeypatch):
    with zipfile.ZipFile(checkpoint) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (members | {pickled: bytes(MOST_PICKLED + 1)}).items():
            archive.writestr(name, content)
    assert bomb.stat().st_size < checkpoint.stat().st_size + MOST_PICKLED // 500
    read = zipfile.ZipFile.read
    unpacked = []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *asked: unpacked.append(asked[1]) or read(*asked))
    refuse(bomb, match="data.pkl would unpack to 67,108,865 bytes, more than 67,108,864")
    assert pickled not in unpacked


def test_a_storage_is_unpacked_to_what_its_tensor_has_and_no_further(tmp_path, monkeypatch):
    torch.save({"t": torch.zeros(4)}, tmp_path / "small.ckpt")
    with zipfile.ZipFile(tmp_path / "small.ckpt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(10**6) if name.endswith("/data/0") else content)
    message = "would unpack to 1,000,000 bytes, more than 16"
    with open_archive(tmp_path / "bomb.ckpt") as opened, pytest.raises(ModelError, match=message):
        opened.read(opened.content["t"])


def test_other_files(refuse, tmp_path):
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    refuse(text, match="is no zip archive")
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "linear.ckpt")
    refuse(tmp_path / "linear.ckpt", match="no network of MDLM")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pt")
    refuse(tmp_path / "plain.pt", match="it has no state_dict")
    refuse(tmp_path / "absent.ckpt", match="there is no folder")
    tokenizer = make_tokenizer()
    make_network(1, 0, tokenizer).save_pretrained(tmp_path / "ours")
    refuse(tmp_path / "ours", match="of type 'understudy_dit'; what can be converted is")


def test_averaged_weights_that_are_missing_or_do_not_fit(refuse, tmp_path, model):
    source, whole = tmp_path / "last.ckpt", lightning(*model)
    without = {name: value for name, value in whole.items() if name != "ema"}
    torch.save(without, source)
    refuse(source, match="no averaged weights (ema.shadow_params); take its last ones: --weights raw")
    for shadows in (whole["ema"]["shadow_params"][:-1], whole["ema"]["shadow_params"][::-1]):
        torch.save(without | {"ema": {"shadow_params": shadows}}, source)
        refuse(source, match="averaged weights that do not fit its network of 30")


@pytest.mark.parametrize(("name", "wrong"), [("n_blocks", 3), ("hidden_size", 32), ("cond_dim", 128), ("n_heads", 4)])
def test_hyper_parameters_that_contradict_the_tensors(refuse, tmp_path, model, name, wrong):
    network, config = model
    settings = hyper_parameters(config)
    settings["model"][name] = wrong
    torch.save(lightning(network, config, hyper_parameters={"config": Node(settings)}), tmp_path / "last.ckpt")
    refuse(tmp_path / "last.ckpt", match=f"{name} is ")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"parameterization": "sedd"}, "parameterization sedd; only MDLM (subs)"),
        ({"algo": {"name": "duo_base", "parameterization": "mean"}}, "trained as duo_base"),
        ({"time_conditioning": True, "noise": {"type": "cosine"}}, "on the time of 'cosine' noise"),
    ],
)
def test_other_diffusions_are_refused(refuse, tmp_path, model, changes, match):
    network, config = model
    content = lightning(network, config, hyper_parameters={"config": Node(hyper_parameters(config, **changes))})
    torch.save(content, tmp_path / "last.ckpt")
    refuse(tmp_path / "last.ckpt", match=match)


def test_tensors_that_do_not_belong_are_named(refuse, tmp_path, model):
    content = lightning(*model)
    content["state_dict"]["teacher.weight"] = torch.zeros(2)
    torch.save(content, tmp_path / "last.ckpt")
    refuse(tmp_path / "last.ckpt", match="1 unknown (teacher.weight)")


def test_a_folder_that_is_there_is_never_replaced(refuse, run, checkpoint, tmp_path, model):
    output = tmp_path / "out"
    output.mkdir()
    assert run(checkpoint, "--output", output)[0] == 0
    refuse(checkpoint, match="is there already")
    same_logits(output, *model)


def test_sizes_are_not_stated_of_a_folder(refuse, tmp_path, model):
    refuse(save_published(tmp_path / "hub", *model), "--heads", 2, match="is a folder")


def test_an_unknown_vocabulary_asks_for_the_mask(run, refuse, tmp_path):
    network, config = published(vocab_size=40)
    torch.save(lightning(network, config), tmp_path / "last.ckpt")
    refuse(tmp_path / "last.ckpt", match="which of its 40 tokens is the mask")
    assert run(tmp_path / "last.ckpt", "--output", tmp_path / "out", "--mask-id", 3)[0] == 0
    assert load_denoiser(tmp_path / "out").mask_id == 3
    assert CONFIG["vocab_size"] == 50258
