"""Masked language models of transformers as denoisers: parity, frames, tails, sparse heads, costs."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from masked_lms import KINDS, LETTERS, MAX_POSITIONS, SPECIAL, letter_tokenizer, save_masked_lm
from understudy import load_denoiser, sample
from understudy.conformance import DenoiserConformance
from understudy.denoisers import Positions
from understudy.denoisers.families.masked_lm import frame_of
from understudy.denoisers.model_set import load_model_set
from understudy.errors import ModelError, PairingError

MASK, KNOWN = SPECIAL.index("<mask>"), len(SPECIAL) + len(LETTERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder and the network in it, for every kind."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = folder, save_masked_lm(folder, kind)
    return made


@pytest.fixture(params=KINDS)
def pair(request, folders):
    """A denoiser, and the network that it came from."""
    folder, network = folders[request.param]
    return load_denoiser(folder), network


@pytest.mark.parametrize("kind", KINDS)
class TestConformance(DenoiserConformance):
    @pytest.fixture(autouse=True)
    def _made(self, kind, folders):
        self.model = load_denoiser(folders[kind][0])

    def make(self):
        return self.model


def canvas():
    xt = torch.randint(len(SPECIAL), KNOWN, (3, 9), generator=torch.Generator().manual_seed(1))
    xt[:, ::2] = MASK
    return xt


def plain_logits(network, xt):
    """The network's own answer to framed text, cut to what the tokenizer knows."""
    framed = torch.cat([torch.full((len(xt), 1), 0), xt, torch.full((len(xt), 1), 2)], dim=1)
    with torch.no_grad():
        return network(input_ids=framed, attention_mask=torch.ones_like(framed)).logits[:, 1:-1, :KNOWN]


def test_logits_are_those_of_transformers(pair):
    model, network = pair
    xt = canvas()
    own, expected = model.logits(xt), plain_logits(network, xt)
    assert torch.isneginf(own[..., : len(SPECIAL)]).all()  # special tokens are never drawn
    torch.testing.assert_close(own[..., len(SPECIAL) :], expected[..., len(SPECIAL) :], atol=1e-5, rtol=1e-5)


def test_a_sampling_run_is_a_plain_loop_over_transformers(pair):
    model, network = pair
    result = sample({"A": model}, "A6", length=9, num_samples=2, seed=5)
    again = torch.full((2, 9), MASK)
    from understudy.sampling import SamplingTask

    plan = SamplingTask.create({"A": model}, "A6", length=9, num_samples=2, seed=5).plan
    for step in range(6):
        for row, col in zip(*np.nonzero(plan.reveal_step == step), strict=True):
            seen = torch.where(torch.from_numpy(plan.reveal_step[row] < step), again[row], MASK)
            weights = plain_logits(network, seen[None])[0, col].double()
            weights[: len(SPECIAL)] = -torch.inf
            below = weights.softmax(-1).cumsum(-1)
            again[row, col] = int((below <= plan.uniforms[row, col]).sum())
    assert torch.equal(result.tokens, again)


def test_the_head_reads_revealed_positions_only(pair):
    model, _ = pair
    seen = []
    head = model.network.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[:-1].numel()))
    where = Positions(np.array([0, 1, 1, 2]), np.array([2, 0, 4, 8]))
    model.logits(canvas(), None, where)
    handle.remove()
    assert sum(seen) == 4


def test_cost_is_what_torch_counts(pair):
    model, _ = pair
    from torch.nn.attention import SDPBackend, sdpa_kernel

    where = Positions(np.array([0, 0]), np.array([2, 5]))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.logits(canvas()[:1], None, where)
    # In transformers 4 ModernBERT makes its rotary table by a matrix product, which is none of the model's layers.
    assert model.pass_flops(9, 2).total == pytest.approx(counter.get_total_flops(), rel=0.002)


def test_the_frame_is_the_models_and_not_the_samples(folders):
    model = load_denoiser(folders["roberta"][0])
    assert model.max_length == MAX_POSITIONS - 2 - 2  # its positions begin after the padding's, two frame a text
    assert "between <s> and </s>" in model.description
    assert sample({"A": model}, "A4", num_samples=2).tokens.shape == (2, model.max_length)


def test_a_pair_shares_a_schedule(tmp_path, folders):
    save_masked_lm(tmp_path, "roberta", layers=1, seed=1)
    models = load_model_set({"H": folders["roberta"][0], "L": tmp_path})
    result = sample(models.denoisers, "L2,H4,L2", length=12, num_samples=4)
    assert set(result.nfe) == {"L", "H"}
    assert result.flops.schedule_saved > 0
    assert all(letter in LETTERS for letter in models.decode(result.tokens[0].tolist()).split())


def test_other_tokens_are_named(tmp_path, folders):
    save_masked_lm(tmp_path, "roberta", tokenizer=letter_tokenizer(LETTERS[::-1]))
    with pytest.raises(PairingError, match="token 5 is 'a' in one and 'z' in the other"):
        load_model_set({"H": folders["roberta"][0], "L": tmp_path})


def test_a_tokenizer_without_mask_is_refused(tmp_path):
    tokenizer = letter_tokenizer()
    save_masked_lm(tmp_path, "bert", tokenizer=tokenizer)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("mask_token")
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no mask token"):
        load_denoiser(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_masked_lm(tmp_path, "bert")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights.pop(next(name for name in sorted(weights) if "attention.self.query.weight" in name))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 missing"):
        load_denoiser(tmp_path)


def test_the_default_length_can_be_sampled(pair):
    model, _ = pair
    tokens = sample({"A": model}, "A2", num_samples=1).tokens
    assert tokens.shape == (1, model.max_length)


def test_threads_may_share_a_model(pair):
    model, _ = pair
    xt = canvas()
    places = [Positions(np.array([0, 1, 2]), np.array([col, col, col])) for col in range(9)]
    expected = [model.logits(xt, None, where) for where in places]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda where: model.logits(xt, None, where), places * 8))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected * 8, strict=True))


def test_a_model_that_chats_may_end_its_answer(tmp_path):
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    save_masked_lm(tmp_path, tokenizer=tokenizer)
    model = load_denoiser(tmp_path)
    assert model.end_id == 2
    assert torch.isfinite(model.logits(canvas())[..., 2]).all()


def test_a_tokenizer_of_few_letters_still_shows_its_frame():
    assert frame_of(letter_tokenizer("xyz")) == ([0], [2])


def test_weights_outside_of_the_folder_are_refused(tmp_path):
    save_masked_lm(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../other.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="no safetensors file of that folder"):
        load_denoiser(tmp_path / "model")
