"""Models of one tokenizer under one mask id, and functions as models."""

import numpy as np
import pytest
import torch

from laws import random_law
from models import MASK, VOCAB, random_canvas, tiny_denoiser
from stage import make_network, make_tokenizer
from understudy import sample
from understudy.conformance import DenoiserConformance
from understudy.denoisers import ExactDenoiser, FunctionDenoiser, Positions
from understudy.denoisers.model_set import load_model_set
from understudy.denoisers.remapped import RemappedDenoiser, remap
from understudy.errors import ModelError, PairingError, PromptError


class TestFunction(DenoiserConformance):
    def make(self):
        inner = tiny_denoiser(2, seed=1)
        return FunctionDenoiser(lambda xt: _one_by_one(inner, xt), vocab_size=VOCAB, mask_id=MASK, max_length=16)


class TestTimedFunction(DenoiserConformance):
    def make(self):
        inner = tiny_denoiser(2, seed=1)
        return FunctionDenoiser(
            lambda xt, t: _one_by_one(inner, xt) * (1 + t[:, None, None]),
            vocab_size=VOCAB,
            mask_id=MASK,
            noise="cosine",
        )


class TestRemapped(DenoiserConformance):
    def make(self):
        return RemappedDenoiser(tiny_denoiser(2, seed=1), mask_id=3, vocab_size=VOCAB, barred=(MASK,))


def _one_by_one(model, xt):
    return torch.cat([model.logits(xt[row : row + 1]) for row in range(len(xt))])


def test_a_function_is_sampled_as_what_it_calls():
    inner = ExactDenoiser(random_law(3, 4, seed=0))
    outer = FunctionDenoiser(inner.logits, vocab_size=inner.vocab_size, mask_id=inner.mask_id, max_length=4)
    ours, theirs = (sample({"A": model}, "A6", num_samples=20, seed=2).tokens for model in (outer, inner))
    assert torch.equal(ours, theirs)


def test_the_mask_of_one_is_the_mask_of_the_other():
    inner = tiny_denoiser(2, seed=1)
    outer = RemappedDenoiser(inner, mask_id=3, vocab_size=VOCAB, barred=(MASK,))
    xt = random_canvas(2, 8)
    xt[xt == 3] = 4  # what is the mask outside cannot be a token there
    moved = xt.masked_fill(xt == MASK, 3)
    where = Positions(np.array([0, 1]), np.array([2, 5]))
    kept = [token for token in range(VOCAB) if token != MASK]
    assert torch.equal(outer.logits(moved, None, where)[:, kept], inner.logits(xt, None, where)[:, kept])


def test_no_model_draws_what_another_does_not_know():
    wide = FunctionDenoiser(lambda xt: torch.zeros(*xt.shape, 9), vocab_size=9, mask_id=8, max_length=6)
    narrow = FunctionDenoiser(lambda xt: torch.zeros(*xt.shape, 6), vocab_size=6, mask_id=2, max_length=6)
    models = remap({"H": wide, "L": narrow})
    tokens = sample(models, "L5,H5", num_samples=200).tokens
    assert sorted(set(tokens.ravel().tolist())) == [0, 1, 3, 4, 5]
    assert all(model.vocab_size == 9 and model.mask_id == 8 for model in models.values())


def test_a_pair_of_different_masks_is_refused_until_asked_for(tmp_path):
    tokenizer = make_tokenizer()
    for name, mask in (("heavy", 1), ("light", 2)):
        network = make_network(1, 0, tokenizer)
        network.config.mask_token_id = mask
        network.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    paths = {"H": tmp_path / "heavy", "L": tmp_path / "light"}
    with pytest.raises(PairingError, match=r"mask id \(H has 1, L has 2\).*--remap-masks"):
        load_model_set(paths)
    models = load_model_set(paths, remap_masks=True).denoisers
    tokens = sample(models, "L2,H2", length=8, num_samples=16).tokens
    assert not set(tokens.ravel().tolist()) & {1, 2}


def test_what_is_no_token_to_every_model_cannot_be_given():
    wide = FunctionDenoiser(lambda xt: torch.zeros(*xt.shape, 9), vocab_size=9, mask_id=8, max_length=6)
    narrow = FunctionDenoiser(lambda xt: torch.zeros(*xt.shape, 6), vocab_size=6, mask_id=2, max_length=6)
    models = remap({"H": wide, "L": narrow})
    for token in (2, 7):
        with pytest.raises(PromptError, match=f"token {token} is given"):
            sample(models, "L2,H2", prefix=[token])
    assert sample(models, "L2,H2", prefix=[5]).tokens[0, 0] == 5


def test_a_function_of_another_width_is_refused():
    model = FunctionDenoiser(lambda xt: torch.zeros(*xt.shape, 12), vocab_size=8, mask_id=7, max_length=4)
    with pytest.raises(ModelError, match="vocabulary of 8"):
        sample({"A": model}, "A2")
