"""Passes of a network that leave some of its blocks out, and networks that hold the others only.

Every block adds to a residual stream of one width (dit.py), so any of them can be skipped. Shapes: B sequences, L
length, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch

from understudy.denoisers.dit import DiTForMaskedLM, Linear, rotary_table
from understudy.errors import SettingError

Kept = tuple[int, ...]
INT8_MAX = 127


def check_kept(kept: Sequence[int], num_blocks: int) -> Kept:
    """Give `kept`, blocks counted from 0, as a tuple. SettingError unless they ascend within the network's blocks."""
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= num_blocks:
        raise SettingError(
            f"blocks to keep are {','.join(map(str, kept)) or 'none'}; name some of 0 to {num_blocks - 1} in ascending "
            "order, each once"
        )
    return tuple(kept)


def hidden_states(
    network: DiTForMaskedLM, input_ids: torch.Tensor, sigma: torch.Tensor, subsets: Sequence[Kept]
) -> Iterator[tuple[int, torch.Tensor]]:
    """What the head reads (B, L, D) when only the blocks of a subset work, for each: (its number, hidden states).

    input_ids: int64 (B, L). sigma: float (B,), read where the network is conditioned on time. The numbers come in the
    subsets' lexicographic order, so that what subsets begin with in common is computed once; states of one pass, at
    most as many as the network has blocks, are held. Each is what the network with these blocks only gives, to the bit.
    """
    config = network.config
    condition = network.condition(sigma)
    rope = rotary_table(input_ids.shape[1], config.hidden_size // config.num_attention_heads, input_ids.device)
    states, path = [network.vocab_embed(input_ids)], Kept()
    for number in sorted(range(len(subsets)), key=lambda number: subsets[number]):
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, subsets[number], strict=False)))
        del states[common + 1 :]
        for block in subsets[number][common:]:
            states.append(network.blocks[block](states[-1], rope, condition))
        path = subsets[number]
        yield number, network.output_layer(states[-1], condition)


def keep_blocks(network: DiTForMaskedLM, kept: Sequence[int]) -> DiTForMaskedLM:
    """Give a network of its own, in evaluation mode, with these blocks only, in their order; weights are copied.

    SettingError unless `kept` ascends within the network's blocks.
    """
    chosen = check_kept(kept, len(network.blocks))
    config = copy.deepcopy(network.config)
    config.num_hidden_layers = len(chosen)
    with torch.device("meta"):
        smaller = DiTForMaskedLM(config)
    places = {f"blocks.{old}": f"blocks.{new}" for new, old in enumerate(chosen)}
    weights = {}
    for name, tensor in network.state_dict().items():
        place = ".".join(name.split(".")[:2])
        if place in places or not name.startswith("blocks."):
            weights[name.replace(place, places.get(place, place), 1)] = tensor.clone()
    smaller.load_state_dict(weights, assign=True)
    smaller.eval().requires_grad_(False)
    return smaller


@torch.no_grad()
def round_weights(network: DiTForMaskedLM) -> None:
    """Round the matrices of all blocks, in place, to what int8 holds: whole multiples of max|w| / 127 in each row.

    Symmetric, one scale per output channel; norms, modulations, embedding and head stay as they are. The values are
    still stored and multiplied as floating-point numbers: this shows what such weights do to the text, and saves no
    time by itself.
    """
    for module in network.blocks.modules():
        if isinstance(module, Linear):
            weight = module.weight.float()
            scale = weight.abs().amax(dim=1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny) / INT8_MAX
            module.weight.copy_((weight / scale).round() * scale)
