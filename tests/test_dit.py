"""The network against an independent statement of it, and its shortcuts against the whole."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM

from models import VOCAB, random_canvas, tiny_denoiser, tiny_network
from understudy import load_denoiser
from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM, sigma_of_alpha
from understudy.denoisers.protocol import Positions


def published_forward(state, tokens, *, heads, sigma=None):
    """The MDLM forward pass written out from its description, loop by loop, in float64.

    Embedding; per block LN (weight only) · (1 + scale) + shift, packed qkv, half-split rotary of q and k, softmax
    attention, gate, again with a 4× tanh-GELU MLP; final LN, modulation, head with bias.
    """
    weights = {name: value.double() for name, value in state.items()}

    def norm(x, weight):
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weight

    def modulation(name, count):
        vector = weights[f"{name}.bias"]
        if sigma is not None:
            vector = vector + condition @ weights[f"{name}.weight"].T
        return vector.chunk(count, dim=-1)

    if sigma is not None:
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
        embedded = torch.cat([(sigma * frequencies).cos(), (sigma * frequencies).sin()])
        hidden = embedded @ weights["sigma_map.mlp.0.weight"].T + weights["sigma_map.mlp.0.bias"]
        condition = (hidden * torch.sigmoid(hidden)) @ weights["sigma_map.mlp.2.weight"].T
        condition = condition + weights["sigma_map.mlp.2.bias"]
        condition = condition * torch.sigmoid(condition)
    x = weights["vocab_embed.weight"][tokens]
    length, width = x.shape
    head_dim = width // heads
    angles = torch.outer(torch.arange(length).double(), 10_000 ** (-torch.arange(0, head_dim, 2) / head_dim).double())
    for block in range(sum(name.endswith("attn_qkv.weight") for name in weights)):
        part = f"blocks.{block}"
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation(f"{part}.modulation", 6)
        h = norm(x, weights[f"{part}.norm1.weight"]) * (1 + scale) + shift
        q, k, v = (h @ weights[f"{part}.attn_qkv.weight"].T).chunk(3, dim=-1)
        attended = []
        for head in range(heads):
            columns = slice(head * head_dim, (head + 1) * head_dim)
            rotated = []
            for vector in (q[:, columns], k[:, columns]):
                a, b = vector[:, : head_dim // 2], vector[:, head_dim // 2 :]
                rotated.append(torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], 1))
            scores = rotated[0] @ rotated[1].T / math.sqrt(head_dim)
            attended.append(torch.softmax(scores, -1) @ v[:, columns])
        x = x + gate * (torch.cat(attended, 1) @ weights[f"{part}.attn_out.weight"].T)
        h = norm(x, weights[f"{part}.norm2.weight"]) * (1 + mlp_scale) + mlp_shift
        h = h @ weights[f"{part}.mlp.0.weight"].T + weights[f"{part}.mlp.0.bias"]
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + mlp_gate * (h @ weights[f"{part}.mlp.2.weight"].T + weights[f"{part}.mlp.2.bias"])
    shift, scale = modulation("output_layer.modulation", 2)
    h = norm(x, weights["output_layer.norm_final.weight"]) * (1 + scale) + shift
    head = weights.get("output_layer.weight", weights["vocab_embed.weight"])
    return h @ head.T + weights["output_layer.bias"]


@pytest.mark.parametrize("time_conditioning", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_forward_is_the_published_one(time_conditioning, tied):
    network = tiny_network(time_conditioning=time_conditioning, tie_word_embeddings=tied)
    tokens = random_canvas(2, 12)
    sigma = torch.tensor([0.3, 4.0]) if time_conditioning else None
    with torch.no_grad():
        logits = network(tokens, timesteps=sigma).logits
    for row in range(2):
        time = None if sigma is None else float(sigma[row])
        expected = published_forward(network.state_dict(), tokens[row], heads=2, sigma=time)
        # float32 through three blocks with weights of order 0.3: rounding stays below 1e-4 of logits of order 1.
        torch.testing.assert_close(logits[row].double(), expected, atol=1e-4, rtol=1e-4)


@given(
    st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=16, unique=True), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 100),
)
@settings(max_examples=40)
def test_pruned_pass_equals_the_full_one_at_any_positions(columns, time_conditioning, seed):
    denoiser = tiny_denoiser(2, seed=seed, time_conditioning=time_conditioning)
    xt = random_canvas(len(columns), 16, seed=seed)
    t = torch.linspace(0.1, 0.9, len(columns))
    rows = np.repeat(np.arange(len(columns)), [len(wanted) for wanted in columns])
    where = Positions(rows, np.concatenate([np.array(wanted, dtype=np.int64) for wanted in columns]))
    with torch.no_grad():
        full, pruned = denoiser.logits(xt, t), denoiser.logits(xt, t, where)
        padded, flat = where.padded()
        sigma = denoiser._sigma(t) if time_conditioning else None
        hidden = denoiser.network.hidden_at(xt, torch.from_numpy(padded), sigma)
        batched = denoiser.network.head(hidden.flatten(0, 1)[torch.from_numpy(flat)])
    wanted = full[torch.from_numpy(where.rows), torch.from_numpy(where.cols)]
    # The same sums in another order, float32, logits of order 1.
    torch.testing.assert_close(pruned, wanted, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(batched, wanted, atol=2e-5, rtol=2e-5)


def test_time_reaches_the_logits_where_conditioned_and_nowhere_else():
    xt = random_canvas(1, 8)
    for conditioned in (False, True):
        denoiser = tiny_denoiser(time_conditioning=conditioned)
        early, late = (denoiser.logits(xt, torch.tensor([t])) for t in (0.9, 0.1))
        assert torch.equal(early, late) != conditioned
        assert denoiser.uses_time == conditioned


def test_sigma_is_the_published_one():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(sigma_of_alpha(1 - t), -torch.log1p(-(1 - 1e-3) * t))


def test_untrained_network_knows_nothing():
    network = DiTForMaskedLM(DiTConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2))
    assert torch.count_nonzero(network(random_canvas(2, 8)).logits) == 0


def test_folder_round_trip(tmp_path):
    network = tiny_network(time_conditioning=True, bos_token_id=3)
    network.save_pretrained(tmp_path)
    xt, t = random_canvas(2, 8), torch.tensor([0.2, 0.7])
    again = load_denoiser(tmp_path)
    assert again.begin_id == 3
    assert torch.equal(again.logits(xt, t), tiny_denoiser(time_conditioning=True).logits(xt, t))
    auto = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert isinstance(auto, DiTForMaskedLM)
    torch.testing.assert_close(auto(xt, timesteps=sigma_of_alpha(1 - t)).logits, again.logits(xt, t))


def test_a_padding_mask_is_refused():
    with pytest.raises(ValueError, match="no padding mask"):
        tiny_network()(random_canvas(1, 4), attention_mask=torch.tensor([[1, 1, 1, 0]]))


def test_positions_pad_rows_of_unequal_length():
    where = Positions(np.array([0, 1, 1, 1, 2]), np.array([4, 7, 8, 9, 5]))
    columns, flat = where.padded()
    assert columns.tolist() == [[4, 4, 4], [7, 8, 9], [5, 5, 5]]
    assert columns.ravel()[flat].tolist() == where.cols.tolist()


def test_a_pruned_pass_embeds_the_time_once(monkeypatch):
    network, xt = tiny_network(time_conditioning=True), random_canvas(3, 12)
    columns, sigma = torch.tensor([[0, 5], [3, 3], [11, 1]]), torch.tensor([0.2, 1.5, 6.0])
    with torch.no_grad():
        # The two halves on their own, each of which has to embed it.
        condition = network.condition(sigma)
        expected = network.last_hidden_at(network.before_last(xt, condition), columns, condition)
        calls = []
        embed = network.sigma_map.forward
        monkeypatch.setattr(network.sigma_map, "forward", lambda sigma: calls.append(sigma) or embed(sigma))
        found = network.hidden_at(xt, columns, sigma)
    assert len(calls) == 1
    assert torch.equal(found, expected)
