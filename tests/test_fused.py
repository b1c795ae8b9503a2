"""The folded form of the DiT computes what the network computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import tiny_network
from understudy.denoisers.dit import rotary_table, rotate
from understudy.denoisers.fused import FusedDiT, normed, rotated


@given(
    blocks=st.integers(1, 4),
    tied=st.booleans(),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20)),
    data=st.data(),
)
@settings(max_examples=25)
def test_logits_are_those_of_the_network(blocks, tied, shape, data):
    network = tiny_network(blocks, tie_word_embeddings=tied)
    batch, length = shape
    xt = torch.randint(0, 23, shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    width = data.draw(st.integers(1, length))
    places = st.lists(st.integers(0, length - 1), min_size=width, max_size=width)
    columns = torch.tensor([data.draw(places) for _ in range(batch)])
    flat = torch.tensor(data.draw(st.lists(st.integers(0, batch * width - 1), min_size=1, max_size=9)))
    with torch.inference_mode():
        wanted = network.head(network.hidden(xt).gather(1, columns[..., None].expand(-1, -1, 16)))
        folded = FusedDiT(network).logits_at(xt, columns, flat)
    torch.testing.assert_close(folded, wanted.flatten(0, 1)[flat], atol=1e-5, rtol=1e-4)  # float32, another order


def test_the_network_is_left_as_it_was():
    network = tiny_network(2)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    FusedDiT(network).logits_at(torch.zeros(1, 8, dtype=torch.long), torch.tensor([[3]]), torch.tensor([0]))
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])


def test_rotation_by_given_positions_is_a_selection():
    x = torch.randn(2, 9, 3, 8)
    tables = rotary_table(9, 8, torch.device("cpu"))
    everywhere = rotated(x, *tables)
    torch.testing.assert_close(everywhere, rotate(x, *(table[:, None] for table in tables)))
    positions = torch.tensor([[4, 0], [8, 8]])
    chosen = x[torch.arange(2)[:, None], positions]
    torch.testing.assert_close(rotated(chosen, *tables, positions), everywhere[torch.arange(2)[:, None], positions])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_adds_the_offset_first(dtype):
    x, (offset, weight, shift) = torch.randn(5, 16).to(dtype), torch.randn(3, 16)
    moved = x.double() + offset
    centred = moved - moved.mean(-1, keepdim=True)
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + shift
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype is torch.float32 else {"atol": 1e-2, "rtol": 1e-2}
    torch.testing.assert_close(normed(x, offset, weight, shift, 1e-5).double(), wanted, **tolerance)
