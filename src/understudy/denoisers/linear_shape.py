"""Reading the shape of any transformer off its layers."""

from collections import Counter
from collections.abc import Callable

from torch import nn

from understudy.flops import LinearShape

LINEAR = (nn.Linear, nn.Conv1d)


def linear_shape(
    network: nn.Module, trunk: nn.Module | None, vocab_size: int, around: int, probe: Callable[[], object]
) -> LinearShape:
    """Count linear layers. trunk: what the head reads; without it the trunk is all but the output embedding.

    So it is where `trunk` is a last norm only. Of experts that take turns as many count as a token goes through.
    vocab_size: of the logits that are kept. around: tokens about each sequence. probe: makes one small pass, which
    tells how often each layer is called: ALBERT's blocks share theirs.
    """
    output, body = None, trunk
    if body is None or not any(isinstance(layer, LINEAR) for layer in body.modules()):
        body, get = network, getattr(network, "get_output_embeddings", None)
        output = get() if callable(get) else None
    config = getattr(network, "config", None)
    share, calls = _experts_used(config), _calls(network, probe)
    inner = {id(layer) for layer in body.modules() if layer is not output}
    sizes = [
        (round(layer.weight.numel() * (share if ".experts." in name else calls[layer])), id(layer) in inner)
        for name, layer in network.named_modules()
        if isinstance(layer, LINEAR)
    ]
    if isinstance(output, nn.Embedding):  # the input embedding once more, at the cost of a linear layer
        sizes.append((output.weight.numel(), False))
    below, above = (sum(size for size, is_below in sizes if is_below is side) for side in (True, False))
    blocks = _number(config, "num_hidden_layers", "n_layers", "n_layer", "num_layers", "n_blocks")
    width = _number(config, "hidden_size", "d_model", "dim", "hidden_dim")
    heads = _number(config, "num_attention_heads", "n_heads", "n_head")
    attention = blocks * (heads * _number(config, "head_dim") or width)
    return LinearShape(width or 1, blocks or 1, vocab_size, below, above, attention, around, trunk is not None)


def _calls(network: nn.Module, probe: Callable[[], object]) -> Counter[nn.Module]:
    """How often each linear layer is called in a pass."""
    calls: Counter[nn.Module] = Counter()
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _: calls.update([layer]))
        for layer in network.modules()
        if isinstance(layer, LINEAR)
    ]
    try:
        probe()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _experts_used(config: object) -> float:
    """Share of a layer's experts that a token goes through; 1 where there are none."""
    used, there = _number(config, "num_experts_per_tok"), _number(config, "num_experts", "num_local_experts")
    return used / there if used and there else 1.0


def _number(config: object, *names: str) -> int:
    """Give the first of these that the configuration sets; 0 where it sets none."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)
