"""Published MDLM checkpoints: their logits to rounding, their mask, and no half-fitting file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from published_mdlm import CONFIG, published, save_published
from stage import VOCAB, make_tokenizer
from understudy import load_denoiser, sample
from understudy.conformance import DenoiserConformance
from understudy.denoisers.network import DiTDenoiser
from understudy.denoisers.protocol import Positions
from understudy.denoisers.published_ids import special_ids
from understudy.errors import ModelError
from understudy.noise import LogLinear
from understudy.reveal import RevealPlan

TIMES = torch.tensor([0.05, 0.5, 1.0])


def canvas(config, batch=3, length=20, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, config["vocab_size"], (batch, length))
    tokens[rng.random((batch, length)) < 0.5] = config["vocab_size"] - 1
    return torch.from_numpy(tokens)


def refuse(folder, match):
    with pytest.raises(ModelError, match=match) as caught:
        load_denoiser(folder)
    assert "\n" not in str(caught.value)


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path):
    return save_published(tmp_path / "mdlm", *published())


# The same numbers


@pytest.mark.parametrize("prefix", ["backbone.", "", "model."])
@pytest.mark.parametrize("conditioned", [False, True])
def test_logits_are_those_of_the_published_network(tmp_path, prefix, conditioned):
    network, config = published(time_conditioning=conditioned)
    denoiser = load_denoiser(save_published(tmp_path / "mdlm", network, config, prefix=prefix))
    assert isinstance(denoiser, DiTDenoiser)
    assert denoiser.uses_time == conditioned
    assert (denoiser.vocab_size, denoiser.max_length) == (50258, 24)
    xt = canvas(config)
    expected = network.at(xt, TIMES)
    found = denoiser.logits(xt, TIMES)
    # float32 sums in another order, logits of order 1 to 10.
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    where = Positions(np.array([0, 0, 1, 2]), np.array([3, 19, 7, 0]))
    wanted = expected[torch.from_numpy(where.rows), torch.from_numpy(where.cols)]
    torch.testing.assert_close(denoiser.logits(xt, TIMES, where), wanted, atol=2e-5, rtol=2e-5)


def test_time_matters_only_where_the_config_says_so(tmp_path):
    network, config = published()
    conditioned, _ = published(time_conditioning=True)
    xt = canvas(config)
    assert torch.equal(network.at(xt, TIMES), network.at(xt, TIMES / 2))
    assert not torch.allclose(conditioned.at(xt, TIMES), conditioned.at(xt, TIMES / 2), atol=1e-2)
    folded = load_denoiser(save_published(tmp_path / "mdlm", network, config))
    assert not any("sigma_map" in name for name, _ in folded.network.named_parameters())


def plain_run(network, *, steps, length, num_samples, seed, mask):
    """Ancestral sampling step by step with the published network, all logits at every step; the engine's noise."""
    noise = LogLinear()
    times = noise.grid(steps)
    plan = RevealPlan.draw(np.ones((num_samples, length), dtype=bool), times, noise, seed=seed)
    xt = torch.full((num_samples, length), mask)
    for step in range(steps):
        logits = network.at(xt, torch.full((num_samples,), float(times[step]))).double()
        logits[..., mask] = -torch.inf
        cdf = logits.softmax(-1).cumsum(-1)
        drawn = (cdf > torch.from_numpy(plan.uniforms)[..., None]).long().argmax(-1)
        xt = torch.where(torch.from_numpy(plan.reveal_step == step), drawn, xt)
    return xt


@pytest.mark.parametrize("conditioned", [False, True])
def test_a_run_is_that_of_a_plain_loop(tmp_path, conditioned):
    network, config = published(time_conditioning=conditioned, vocab_size=30522)
    denoiser = load_denoiser(save_published(tmp_path / "mdlm", network, config))
    options = {"length": 12, "num_samples": 3, "seed": 5}
    found = sample({"H": denoiser}, "H16", **options).tokens
    assert torch.equal(found, plain_run(network, steps=16, mask=103, **options))
    assert (found != 103).all()


def test_bfloat16_weights_are_those_rounded_at_the_end(folder):
    exact, rounded = load_denoiser(folder), load_denoiser(folder, dtype=torch.bfloat16)
    for (name, weight), other in zip(exact.network.named_parameters(), rounded.network.parameters(), strict=True):
        assert torch.equal(weight.to(torch.bfloat16), other), name


class TestConformance(DenoiserConformance):
    @pytest.fixture(autouse=True, params=[False, True])
    def _load(self, request, tmp_path):
        network, config = published(vocab_size=40, time_conditioning=request.param)
        self.model = load_denoiser(save_published(tmp_path / "mdlm", network, config | {"mask_token_id": 7}))

    def make(self):
        return self.model


# The mask and the frame


@pytest.mark.parametrize(("vocab_size", "mask", "begin", "end"), [(50258, 50257, 50256, 50256), (30522, 103, 101, 102)])
def test_known_vocabularies_need_no_tokenizer(tmp_path, vocab_size, mask, begin, end):
    denoiser = load_denoiser(save_published(tmp_path / "mdlm", *published(vocab_size=vocab_size)))
    assert (denoiser.mask_id, denoiser.begin_id, denoiser.end_id) == (mask, begin, end)
    assert f"mask {mask}" in denoiser.description


def test_an_unknown_vocabulary_is_not_guessed_at(tmp_path):
    network, config = published(vocab_size=VOCAB)
    folder = save_published(tmp_path / "mdlm", network, config)
    refuse(folder, "which of its 275 tokens is the mask")
    rewrite(folder, mask_token_id=274)
    assert load_denoiser(folder).mask_id == 274
    rewrite(folder, mask_token_id=275)
    refuse(folder, "275; it must lie in 0 to 274")


def test_a_tokenizer_in_the_folder_decides(tmp_path):
    tokenizer = make_tokenizer()
    folder = save_published(tmp_path / "mdlm", *published(vocab_size=VOCAB))
    tokenizer.save_pretrained(folder)
    denoiser = load_denoiser(folder)
    assert denoiser.mask_id == tokenizer.mask_token_id
    assert "the tokenizer's mask token" in denoiser.description


def test_the_frame_of_a_known_vocabulary_fills_in_for_a_tokenizer_that_names_none():
    class Nameless:
        """GPT-2's, from files without its configuration."""

        mask_token_id = pad_token_id = bos_token_id = eos_token_id = cls_token_id = sep_token_id = None

        def get_vocab(self):
            return {"<|endoftext|>": 50256}

    ids = special_ids(Path("here"), 50258, tokenizer=Nameless(), config={})
    assert (ids.mask, ids.begin, ids.end) == (50257, 50256, 50256)


@pytest.mark.parametrize("with_pad", [False, True])
def test_the_mask_is_after_the_last_token_of_a_tokenizer_without_one(tmp_path, with_pad):
    """As with GPT-2's, to which the published data code adds "[PAD]" under the id of the mask."""
    tokenizer = make_tokenizer()
    tokenizer.mask_token = None
    if with_pad:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        assert tokenizer.pad_token_id == VOCAB
    folder = save_published(tmp_path / "mdlm", *published(vocab_size=VOCAB + 1))
    tokenizer.save_pretrained(folder)
    denoiser = load_denoiser(folder)
    assert denoiser.mask_id == VOCAB
    assert denoiser.network.config.pad_token_id != VOCAB


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    tokenizer = make_tokenizer()
    folder = save_published(tmp_path / "mdlm", *published(vocab_size=VOCAB - 1))
    tokenizer.save_pretrained(folder)
    refuse(folder, "the tokenizer knows 275 tokens, .* only 274")


# Files that do not fit


def test_missing_unknown_and_misshaped_tensors(folder):
    change_weights(folder, lambda weights: weights.pop("backbone.blocks.1.mlp.0.bias"))
    refuse(folder, r"1 missing \(blocks\.1\.mlp\.0\.bias\)")
    change_weights(folder, lambda weights: weights.update({"backbone.blocks.1.mlp.0.bias": torch.zeros(3)}))
    refuse(folder, r"1 of another shape \(blocks\.1\.mlp\.0\.bias\)")
    change_weights(folder, lambda weights: weights.update({"stray": torch.zeros(3)}))
    refuse(folder, r"1 unknown \(stray\), 1 of another shape")
    change_weights(folder, lambda weights: weights.pop("backbone.vocab_embed.embedding"))
    refuse(folder, r"no tensor backbone\.vocab_embed\.embedding")


def test_rotary_frequencies_are_checked_and_not_needed(folder):
    name = "backbone.rotary_emb.inv_freq"
    change_weights(folder, lambda weights: weights.update({name: weights[name] * 1.01}))
    refuse(folder, "rotary frequencies .* base 10000")
    change_weights(folder, lambda weights: weights.pop(name))
    load_denoiser(folder)


@pytest.mark.parametrize("name", ["cond_dim", "hidden_dim", "model_length", "n_blocks", "n_heads", "vocab_size"])
def test_every_size_is_read_and_none_assumed(folder, name):
    rewrite(folder, **{name: "gone"})
    refuse(folder, f"lacks {name}")


@pytest.mark.parametrize(("name", "wrong"), [("cond_dim", 129), ("n_blocks", 3), ("n_heads", 4), ("hidden_dim", 32)])
def test_sizes_that_are_not_those_of_the_weights(folder, name, wrong):
    rewrite(folder, **{name: wrong})
    refuse(folder, "missing|of another shape")


@pytest.mark.parametrize(
    "changes", [{"n_heads": 3}, {"n_heads": 0}, {"cond_dim": "wide"}, {"time_conditioning": "no"}, {"vocab_size": 0}]
)
def test_sizes_that_cannot_be(folder, changes):
    rewrite(folder, **changes)
    refuse(folder, "no network that can be|must be true or false|which of its 0 tokens")


def test_names_of_the_training_configuration_are_understood(folder):
    expected = load_denoiser(folder)
    rewrite(folder, hidden_dim="gone", hidden_size=CONFIG["hidden_dim"], model_length="gone", length=24)
    xt = canvas(CONFIG)
    assert torch.equal(load_denoiser(folder).logits(xt), expected.logits(xt))


def test_duo_models_and_others_of_the_name_are_told_apart(folder):
    rewrite(folder, model_type="duo")
    refuse(folder, "is a Duo model: its noise is uniform")
    (folder / "config.json").write_text(json.dumps({"model_type": "mdlm", "backbone_config": {}}))
    refuse(folder, "of type 'mdlm', which is none of these")
