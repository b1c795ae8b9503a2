"""Model folders: whole ones load silently and exactly, and every other one is one line that says what is wrong."""

import json
import logging
import shutil
import time
import warnings

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from models import random_canvas, tiny_network
from prepared_text import small_bpe
from stage import VOCAB, make_llama, make_network, make_tokenizer
from understudy import load_denoiser, load_judge, load_tokenizer
from understudy.denoisers.loading import stated_by_config
from understudy.denoisers.model_set import load_model_set
from understudy.errors import DataError, ModelError, PairingError
from understudy.quiet import quiet

LOADERS = {"denoiser": load_denoiser, "judge": load_judge}
IDS = torch.arange(3, 15)[None]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def folders(tmp_path, tokenizer):
    """A whole folder for each loader."""
    for name, network in (("denoiser", make_network(1, 0, tokenizer)), ("judge", make_llama())):
        network.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


@pytest.fixture(params=LOADERS)
def kind(request):
    return request.param


def refuse(load, *arguments, error=ModelError, match=None):
    with pytest.raises(error, match=match) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


# Folders that are no models


def test_missing_folder(tmp_path, kind):
    refuse(LOADERS[kind], tmp_path / "gone", match="there is no folder")
    (tmp_path / "file").write_text("")
    refuse(LOADERS[kind], tmp_path / "file", match="there is no folder")
    refuse(load_tokenizer, tmp_path / "gone", error=DataError, match="there is no folder")


def test_no_config(folders, kind):
    (folders / kind / "config.json").unlink()
    refuse(LOADERS[kind], folders / kind, match=r"no readable config\.json")


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00\xff"])
def test_damaged_config(folders, kind, content):
    (folders / kind / "config.json").write_bytes(content.encode("latin1"))
    refuse(LOADERS[kind], folders / kind, match=r"config\.json")


def test_no_weights(folders, kind):
    weights = folders / kind / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    refuse(LOADERS[kind], folders / kind, match=r"has no model\.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.9, 0.9999])
def test_truncated_weights(folders, kind, share):
    weights = folders / kind / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    refuse(LOADERS[kind], folders / kind, match=r"cannot be read .* copy it again")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "gone.safetensors"}}'])
def test_damaged_index(folders, kind, content):
    (folders / kind / "model.safetensors").unlink()
    (folders / kind / "model.safetensors.index.json").write_text(content)
    refuse(LOADERS[kind], folders / kind)


def test_another_kind_of_model(folders):
    refuse(load_denoiser, folders / "judge", match="of type 'llama'")
    refuse(load_judge, folders / "denoiser", match="type 'understudy_dit', cannot judge")
    rewrite(folders / "judge", model_type="unheard_of")
    refuse(load_judge, folders / "judge", match="type 'unheard_of', cannot judge")


def test_code_in_a_repository_is_not_run(folders):
    (folders / "judge" / "evil.py").write_text("raise SystemExit(7)")
    rewrite(folders / "judge", model_type="evil", auto_map={"AutoConfig": "evil.A", "AutoModelForCausalLM": "evil.B"})
    refuse(load_judge, folders / "judge", match="cannot judge")


# Weights that do not fit


def test_weights_of_another_shape(folders, kind):
    rewrite(folders / kind, hidden_size=8)
    refuse(LOADERS[kind], folders / kind, match="of another shape")


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": "wide"}, {"num_hidden_layers": -1}, {"vocab_size": 0}, {"num_attention_heads": 0}],
)
def test_shapes_that_cannot_be(folders, kind, changes):
    rewrite(folders / kind, **changes)
    refuse(LOADERS[kind], folders / kind)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_attention_heads": 3}, "3 heads"),
        ({"mask_token_id": VOCAB}, "mask_token_id is 275"),
        ({"mask_token_id": -1}, "mask_token_id is -1"),
        ({"noise": "loud"}, "'loud'"),
    ],
)
def test_denoisers_that_cannot_be(folders, changes, reason):
    rewrite(folders / "denoiser", **changes)
    refuse(load_denoiser, folders / "denoiser", match=f"no network that can be: .*{reason}")


def test_missing_and_unknown_weights(folders, kind):
    path = folders / kind / "model.safetensors"
    weights = load_file(path)
    first = sorted(weights)[0]
    changed = {name: tensor for name, tensor in weights.items() if name != first}
    save_file(changed, path, metadata={"format": "pt"})
    assert first in refuse(LOADERS[kind], folders / kind, match="1 missing")
    save_file(weights | {"stray.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    assert "stray.weight" in refuse(LOADERS[kind], folders / kind, match="1 unknown")


def test_a_head_that_is_not_tied_must_be_there(folders):
    path = folders / "judge" / "model.safetensors"
    weights = load_file(path)
    weights.pop("lm_head.weight")
    save_file(weights, path, metadata={"format": "pt"})
    refuse(load_judge, folders / "judge", match="1 missing")


# The hub


class HttpError(Exception):
    """The errors of a HTTP library are not always OSErrors."""


@pytest.mark.parametrize("error", [OSError("no route\nto host"), ValueError("no such repository"), HttpError()])
def test_a_hub_name_without_connection_is_one_line_at_once(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    began = time.monotonic()
    for load in LOADERS.values():
        refuse(load, "someone/none-such", match="could not be fetched from the hub")
    refuse(load_tokenizer, "someone/none-such", error=DataError, match="could not be fetched from the hub")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("LocalEntryNotFoundError", "there is no connection"),
        ("RepositoryNotFoundError", "it is not there, or not for you to see"),
        ("GatedRepoError", "it asks for access to be granted first"),
        ("SomethingElse", "a long tale a long tale"),
    ],
)
def test_a_wrong_path_is_told_in_few_words(monkeypatch, kind, reason):
    error = type(kind, (Exception,), {})("a long\ntale " * 40)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError) as refused:
        load_denoiser("runs/heavi")
    message = str(refused.value)
    assert message.startswith("'runs/heavi' is no folder here and could not be fetched from the hub (")
    assert f"({reason}" in message
    assert len(message) < 200


def test_what_is_asked_of_the_hub(monkeypatch, folders):
    asked = []

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(folders / "denoiser")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    load_denoiser("someone/model", revision="abc")
    load_tokenizer("someone/model", revision="abc")
    assert [(name, revision) for name, revision, _ in asked] == [("someone/model", "abc")] * 2
    models, tokenizers = (patterns for _, _, patterns in asked)
    assert "model*.safetensors" in models
    assert not any("safetensors" in pattern for pattern in tokenizers)
    assert not {"*.bin", "*.py", "*.pkl"} & {*models, *tokenizers}


# Whole folders


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}, {"time_conditioning": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_denoiser_comes_back_in_any_precision(tmp_path, dtype, options):
    network = tiny_network(2, **options)
    network.save_pretrained(tmp_path)
    loaded = load_denoiser(tmp_path, dtype=dtype).network
    assert not loaded.training
    expected = dict(network.named_parameters())
    assert dict(loaded.named_parameters()).keys() == expected.keys()
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == dtype
        assert not parameter.requires_grad
        assert torch.equal(parameter, expected[name].to(dtype))


def test_weights_saved_in_bfloat16_are_computed_in_float32(tmp_path):
    network = tiny_network(2).to(torch.bfloat16)
    network.save_pretrained(tmp_path)
    xt = random_canvas(2, 8)
    loaded = load_denoiser(tmp_path)
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(xt), network.float()(xt).logits)


def test_weights_in_several_files(tmp_path):
    network = tiny_network(3)
    network.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    xt = random_canvas(1, 8)
    with torch.no_grad():
        assert torch.equal(load_denoiser(tmp_path).logits(xt), network(xt).logits)
    next(tmp_path.glob("*.safetensors")).unlink()
    refuse(load_denoiser, tmp_path, match="cannot be read")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("saved_as", [torch.float32, torch.bfloat16])
def test_a_judge_is_what_transformers_loads_in_float32(tmp_path, tied, saved_as):
    judge = make_llama(tie_word_embeddings=tied).to(saved_as)
    judge.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    loaded = load_judge(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    reference = AutoModelForCausalLM.from_pretrained(tmp_path).float().eval()
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, reference(IDS).logits)


def test_a_judge_with_the_names_of_published_gpt2(tmp_path):
    """Its files leave out the prefix `transformer.` and hold the attention's masks, which are no weights."""
    network = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    network.config.save_pretrained(tmp_path)
    weights = {name: tensor.clone() for name, tensor in network.transformer.state_dict().items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        assert torch.equal(load_judge(tmp_path)(IDS).logits, network(IDS).logits)


def test_loading_prints_nothing_and_touches_nothing(folders, capfd, recwarn):
    level, bars = logging.getLogger("transformers").level, transformers_logging.is_progress_bar_enabled()
    state = torch.get_rng_state()
    load_denoiser(folders / "denoiser")
    load_judge(folders / "judge")
    load_tokenizer(folders / "judge")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    assert logging.getLogger("transformers").level == level
    assert transformers_logging.is_progress_bar_enabled() == bars


@pytest.fixture(params=[True, False])
def had_bars(request):
    was_shown = transformers_logging.is_progress_bar_enabled()
    set_bars(request.param)
    yield request.param
    set_bars(was_shown)


def set_bars(is_shown):
    (transformers_logging.enable_progress_bar if is_shown else transformers_logging.disable_progress_bar)()


def test_quiet_puts_everything_back_even_after_an_error(had_bars):
    def fail():
        with quiet():
            assert not transformers_logging.is_progress_bar_enabled()
            assert huggingface_hub.utils.are_progress_bars_disabled()
            warnings.warn("not heard", UserWarning, stacklevel=1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert transformers_logging.is_progress_bar_enabled() == had_bars
    assert huggingface_hub.utils.are_progress_bars_disabled() != had_bars


# Models that share a schedule


def test_models_of_one_tokenizer_load_together(folders, tokenizer):
    paths = {"H": folders / "denoiser", "L": folders / "denoiser"}
    models = load_model_set(paths)
    assert list(models.denoisers) == ["H", "L"]
    assert models.decode(tokenizer("the cat").input_ids) == "the cat"
    assert models.paths == {key: str(path) for key, path in paths.items()}


def test_tokenizers_that_differ_are_refused(folders, tmp_path):
    network = make_network(1, 0, make_tokenizer())
    network.save_pretrained(tmp_path / "other")
    small_bpe().save_pretrained(tmp_path / "other")
    paths = {"H": folders / "denoiser", "L": tmp_path / "other"}
    refuse(load_model_set, paths, error=PairingError, match="H .* and L .* have different tokenizers")


def test_models_whose_blocks_began_differently_are_refused(folders, tmp_path, tokenizer):
    # One saw every block begin with token 0 and one did not: no prefix could be right for both.
    network = make_network(1, 0, tokenizer)
    network.config.bos_token_id = 0
    network.save_pretrained(tmp_path / "framed")
    tokenizer.save_pretrained(tmp_path / "framed")
    paths = {"H": folders / "denoiser", "L": tmp_path / "framed"}
    refuse(load_model_set, paths, error=PairingError, match="begin differently .*H: None, L: 0")
    alone = load_model_set({"H": tmp_path / "framed", "L": tmp_path / "framed"})
    assert alone.encode_prefix("the")[0] == 0
    assert len(alone.encode_prefix("the")) == 1 + len(load_model_set({"H": paths["H"]}).encode_prefix("the"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bos_token_id": 0}, "begin differently .*H: None, L: 0"),
        ({"mask_token_id": 2}, r"differ in mask id \(H has \d+, L has 2\)"),
        ({"vocab_size": 300, "mask_token_id": 4}, "differ in "),
    ],
)
def test_what_configurations_say_is_compared_before_weights_are_read(folders, tmp_path, monkeypatch, change, match):
    shutil.copytree(folders / "denoiser", tmp_path / "other")
    rewrite(tmp_path / "other", **change)

    def read(folder):
        raise AssertionError("weights were read")

    monkeypatch.setattr("understudy.denoisers.families.dit.read_weights", read)
    paths = {"H": folders / "denoiser", "L": tmp_path / "other"}
    refuse(load_model_set, paths, error=PairingError, match=match)
    assert stated_by_config(tmp_path / "nowhere") == {}


def test_a_model_without_tokenizer_is_refused(folders):
    for path in (folders / "denoiser").glob("*token*"):
        path.unlink()
    refuse(load_model_set, {"H": folders / "denoiser"}, error=DataError, match="no usable tokenizer")


def test_a_pickle_is_sent_to_convert(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"PK")
    refuse(load_denoiser, tmp_path / "last.ckpt", match="understudy convert")
