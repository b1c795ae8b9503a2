"""The DiT as a `Denoiser`: the pruned last block and the sparse head, and one row at a time on the CPU."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.dit import DiTForMaskedLM, sigma_of_alpha
from understudy.denoisers.protocol import Positions
from understudy.flops import PassFlops, TransformerShape
from understudy.noise import noise_schedule


class DiTDenoiser:
    """A DiT ready to sample from: in evaluation mode, on one device.

    On the CPU every sequence is passed on its own. Matrix products of other shapes round otherwise, so this is what
    makes a sample independent of its batch to the last bit; it costs about as much time as a batch would, because
    one sequence fills the cores.
    """

    def __init__(self, network: DiTForMaskedLM) -> None:
        self.network = network.eval().requires_grad_(False)
        config = network.config
        self.vocab_size, self.mask_id = config.vocab_size, config.mask_token_id
        self.max_length: int | None = config.max_position_embeddings
        self.uses_time: bool = config.time_conditioning
        self.begin_id: int | None = config.bos_token_id
        self._shape = TransformerShape(config.hidden_size, config.num_hidden_layers, config.vocab_size)
        self._noise = noise_schedule(config.noise)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return cast(torch.device, self.network.device)

    def logits(self, xt: torch.Tensor, t: torch.Tensor | None = None, where: Positions | None = None) -> torch.Tensor:
        """Raw logits: (B, L, V), or (R, V) at `where`; see `Denoiser.logits`."""
        sigma = self._sigma(t) if self.uses_time else None
        if where is None:
            return cast(torch.Tensor, self.network.head(self.network.hidden(xt, sigma)))
        if self.device.type == "cpu" and len(xt) > 1:
            return torch.cat([self._row(xt, sigma, where, row) for row in range(len(xt))])
        columns, flat = where.padded()
        hidden = self.network.hidden_at(xt, self._put(columns), sigma)
        return cast(torch.Tensor, self.network.head(hidden.flatten(0, 1)[self._put(flat)]))

    def _row(self, xt: torch.Tensor, sigma: torch.Tensor | None, where: Positions, row: int) -> torch.Tensor:
        """Logits of one sequence of the batch."""
        columns = self._put(where.cols[where.rows == row])
        one = slice(row, row + 1)
        hidden = self.network.hidden_at(xt[one], columns[None], None if sigma is None else sigma[one])
        return cast(torch.Tensor, self.network.head(hidden[0]))

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of one pass of one sequence; time conditioning (under 1 %) is left out."""
        return self._shape.pass_flops(length, revealed)

    def _sigma(self, t: torch.Tensor | None) -> torch.Tensor:
        if t is None:
            raise ValueError("this model is conditioned on time; t is needed")
        return sigma_of_alpha(torch.from_numpy(self._noise.alpha(t.double().cpu().numpy()))).to(t)

    def _put(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)
