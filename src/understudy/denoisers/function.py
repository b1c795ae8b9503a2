"""Any Python function as a `Denoiser`."""

from collections.abc import Callable

import torch

from understudy.denoisers.protocol import Positions
from understudy.errors import ModelError
from understudy.flops import PassFlops

Function = Callable[[torch.Tensor], torch.Tensor] | Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class FunctionDenoiser:
    """A function that gives logits (B, L, V) of xt (B, L), or of xt and times (B,) where `noise` is set.

    vocab_size, mask_id, max_length, begin_id, end_id, noise: as in `Denoiser`. device: where the function wants xt.
    token_flops: cost of a pass per token, for accounting; costs of models under one schedule must be in one unit.
    description: what `understudy` says of it. It is given whole batches: whether a sample depends on its batch is
    up to it. ModelError where it gives logits of another shape.
    """

    def __init__(
        self,
        function: Function,
        *,
        vocab_size: int,
        mask_id: int,
        max_length: int | None = None,
        begin_id: int | None = None,
        end_id: int | None = None,
        noise: str | None = None,
        device: str | torch.device = "cpu",
        token_flops: int = 1,
        description: str = "a function",
    ) -> None:
        self.function = function
        self.vocab_size, self.mask_id, self.max_length = vocab_size, mask_id, max_length
        self.begin_id, self.end_id = begin_id, end_id
        self.noise, self.uses_time = noise, noise is not None
        self.device, self.token_flops = torch.device(device), token_flops
        self.description = description

    @torch.no_grad()
    def logits(self, xt: torch.Tensor, t: torch.Tensor | None = None, where: Positions | None = None) -> torch.Tensor:
        """Logits: (B, L, V), or (R, V) at `where`; see `Denoiser.logits`."""
        times = () if t is None or not self.uses_time else (t.to(self.device),)
        logits: torch.Tensor = self.function(xt, *times)
        if logits.shape != (*xt.shape, self.vocab_size):
            raise ModelError(
                f"the function gives {tuple(logits.shape)} for {tuple(xt.shape)} tokens and a vocabulary of "
                f"{self.vocab_size}; it must give one logit for each token of the vocabulary"
            )
        return logits if where is None else logits[where.rows, where.cols]

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of one pass, the same wherever logits are wanted: a function makes all of them."""
        return PassFlops(self.token_flops * length, 0)
