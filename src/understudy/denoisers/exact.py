"""A denoiser known in closed form: the exact conditional marginals of a small law over sequences.

With it every sampler can be held against the law it claims to draw from. Not for real use: it enumerates V^L
sequences.
"""

from itertools import product

import torch

from understudy.denoisers.protocol import Positions
from understudy.errors import ModelError
from understudy.flops import PassFlops


class ExactDenoiser:
    """p(x0_i | xt) of a known law, for every position i.

    law: float (V, …, V), one axis per position, non-negative with sum 1: the probability of each clean sequence.
    The mask is token V, so `vocab_size` is V + 1. A canvas that the law gives no mass is answered with the uniform
    distribution. Raises ModelError for a table that is no law.
    """

    uses_time = False
    noise = None
    begin_id = end_id = None

    def __init__(self, law: torch.Tensor) -> None:
        law = law.double()
        if law.ndim == 0 or len(set(law.shape)) != 1 or bool((law < 0).any()) or abs(float(law.sum()) - 1) > 1e-9:
            raise ModelError("a law has one axis of the same size per position, no negative entry, and sum 1")
        self.num_tokens, self.max_length = law.shape[0], law.ndim
        self.mask_id, self.vocab_size = self.num_tokens, self.num_tokens + 1
        self.law = law.flatten()
        self.sequences = torch.tensor(list(product(range(self.num_tokens), repeat=law.ndim)))  # (V^L, L)
        self._one_hot = torch.nn.functional.one_hot(self.sequences, self.vocab_size).double()  # (V^L, L, V + 1)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.law.device

    def logits(self, xt: torch.Tensor, t: torch.Tensor | None = None, where: Positions | None = None) -> torch.Tensor:
        """Log-probabilities of x0: (B, L, V + 1), or (R, V + 1) at the positions wanted."""
        agrees = (xt[:, None] == self.sequences) | (xt[:, None] == self.mask_id)  # (B, V^L, L)
        weight = self.law * agrees.all(-1)
        marginal = torch.einsum("bs,slv->blv", weight, self._one_hot)
        total = marginal.sum(-1, keepdim=True)
        uniform = torch.full_like(marginal, 1 / self.num_tokens)
        uniform[..., self.mask_id] = 0
        logits = torch.where(total > 0, marginal / total, uniform).log()
        return logits if where is None else logits[where.rows, where.cols]

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Multiply-adds of the table look-up, so that accounting has something to count."""
        return PassFlops(blocks=2 * len(self.law) * length, head=2 * (length if revealed is None else revealed))
