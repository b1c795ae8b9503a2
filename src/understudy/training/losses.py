"""The network and its cross-entropy as one module, so that DDP, FSDP and torch.compile see a single forward pass.

Shapes: b sequences, L length, D width, V vocabulary, m predicted positions of all sequences together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel


class TokenLoss(nn.Module):
    """Cross-entropy of a network at chosen positions.

    network: a masked denoiser with `hidden(ids, sigma)` (b, L, D) and `head(hidden)`, or a causal language model of
        transformers. mask_id: its logit is -inf, the zero mask probability of SUBS (arXiv 2406.07524); None for a
        causal model, which may predict every token. precision: bfloat16 autocasts matrix products on `forward`.
    """

    def __init__(self, network: PreTrainedModel, mask_id: int | None, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network
        self.mask_id = mask_id
        self.precision = precision
        self._no_split_modules = getattr(network, "_no_split_modules", None)  # what FSDP shards one by one
        self._trunk: Callable[..., torch.Tensor] = self._hidden
        self._tail: Callable[..., torch.Tensor] = self._tail_loss

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy in nats (m,), float32, of `targets` (m,) at `positions` (m,) of the flattened `input_ids`.

        The head sees these positions only: about half of them for a masked denoiser, whose head costs as much as
        several blocks. Logits are float32 before the softmax.
        """
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            if not self.training:  # other shapes, no gradient: each would be compiled anew for a few passes
                return self._tail_loss(self._hidden(input_ids, sigma), positions, targets)
            return self._tail(self._trunk(input_ids, sigma), positions, targets)

    def compile_parts(self, *, by_block: bool) -> None:
        """Compile trunk and tail; `by_block` compiles each block by itself, which FSDP's hooks need."""
        if by_block:
            for module in self.network.modules():
                if type(module).__name__ in (self._no_split_modules or ()):
                    module.compile(options=compile_options())
        else:
            self._trunk = torch.compile(self._hidden, options=compile_options())
            self._tail = torch.compile(self._tail_loss, options=compile_options())

    def _hidden(self, input_ids: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if self.mask_id is None:
            return cast(torch.Tensor, self.network.base_model(input_ids=input_ids, use_cache=False)[0])
        return cast(torch.Tensor, self.network.hidden(input_ids, sigma))

    def _tail_loss(self, hidden: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        wanted = hidden.flatten(0, 1).index_select(0, positions)  # (m, D)
        head = self.network.head if self.mask_id is not None else self.network.get_output_embeddings()
        logits = head(wanted).float()  # (m, V)
        if self.mask_id is not None:
            logits[:, self.mask_id] = -torch.inf
        return F.cross_entropy(logits, targets, reduction="none")


def compile_options() -> dict[str, str | int | bool | Callable[..., Any]]:
    """Options of torch.compile that every training graph needs.

    With mixed-order reductions, torch 2.11 on CUDA gives a layer norm whose weight is itself computed, as in adaLN,
    gradients that are wrong and differ from run to run (of the constant modulations, by a factor of up to 100).
    """
    has_switch = hasattr(torch._inductor.config.triton, "mix_order_reduction")
    return {"triton.mix_order_reduction": False} if has_switch else {}
