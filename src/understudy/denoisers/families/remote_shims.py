"""What code written for transformers 4 finds missing in 5, put back while such code is loaded.

Under transformers 4 nothing is put back. What is global is as before afterwards. (LLaDA also reads `use_cache` of its
configuration, which 5 leaves unset; it need not where a call says so, and ours do.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def shims() -> Iterator[None]:
    """Within it, code that a model's folder carries finds what it was written against."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.modeling_utils import PreTrainedModel

    functions: dict[str, Any] = ROPE_INIT_FUNCTIONS
    # Plain rotary embedding is in no table any more in 5; Dream looks it up there.
    adds_default = "default" not in functions
    if adds_default:
        functions["default"] = _default_rope
    expand = getattr(PreTrainedModel, "get_expanded_tied_weights_keys", None)
    # LLaDA switches kernels of the whole process while it is built.
    switches: Any = torch.backends.cuda
    kernels = switches.flash_sdp_enabled(), switches.mem_efficient_sdp_enabled()
    if expand is not None:
        PreTrainedModel.get_expanded_tied_weights_keys = _expand_or_nothing(expand)
    try:
        yield
    finally:
        switches.enable_flash_sdp(kernels[0])
        switches.enable_mem_efficient_sdp(kernels[1])
        if expand is not None:
            PreTrainedModel.get_expanded_tied_weights_keys = expand
        if adds_default:
            del functions["default"]


def mend_network(network: Any) -> Any:
    """Tell layers of Qwen their kind of attention, which A2D asks them and only transformers 4 tells them."""
    kinds = getattr(network.config, "layer_types", None)
    for layer, kind in zip(getattr(getattr(network, "model", None), "layers", ()), kinds or (), strict=False):
        if not hasattr(layer, "attention_type"):
            layer.attention_type = kind
    return network


def _expand_or_nothing(expand: Any) -> Any:
    """5 wants tied weights as a mapping, and fails on the list of 4, as Dream has it; we tie them ourselves."""

    def expanded(model: Any, all_submodels: bool = False) -> Any:
        listed = isinstance(getattr(model, "_tied_weights_keys", None), list)
        return {} if listed else expand(model, all_submodels=all_submodels)

    return expanded


def _default_rope(config: Any = None, device: Any = None, seq_len: int | None = None) -> tuple[torch.Tensor, float]:
    """Frequencies θ^(−2i/d) of rotary embeddings (Su et al. 2021, arXiv 2104.09864), and their scale: one."""
    theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = int(width * getattr(config, "partial_rotary_factor", 1.0))
    steps = torch.arange(0, width, 2, dtype=torch.int64).to(device=device, dtype=torch.float32)
    return 1.0 / theta ** (steps / width), 1.0
