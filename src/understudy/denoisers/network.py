"""The DiT as a `Denoiser`: the pruned last block, the sparse head, on the CPU answers that no batch changes."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.dit import DiTForMaskedLM, Linear, by_rows, sigma_of_alpha
from understudy.denoisers.fused import FusedDiT
from understudy.denoisers.protocol import Positions
from understudy.flops import PassFlops, TransformerShape
from understudy.noise import noise_schedule


class DiTDenoiser:
    """A DiT ready to sample from: in evaluation mode, on one device.

    On the CPU a sequence's logits are the same to the last bit whatever batch it is in: matrix products go row by row
    (`dit.by_rows`), and so do the last block, the head and whatever else works on revealed positions, whose number
    differs between rows.

    On a GPU, and without time conditioning, it runs in the folded form of `FusedDiT`. kernels: see there.
    description: what was found and decided where it was loaded from a folder that is not our own.
    """

    def __init__(self, network: DiTForMaskedLM, *, kernels: bool = True, description: str = "") -> None:
        self.description = description
        self.network = network.eval().requires_grad_(False)
        self._fused: FusedDiT | None = None
        if network.device.type == "cpu":
            _store_transposed(network)
        elif not network.config.time_conditioning:
            self._fused = FusedDiT(network, kernels=kernels)
        config = network.config
        self.vocab_size, self.mask_id = config.vocab_size, config.mask_token_id
        self.max_length: int | None = config.max_position_embeddings
        self.uses_time: bool = config.time_conditioning
        self.noise: str | None = config.noise if config.time_conditioning else None
        self.begin_id: int | None = config.bos_token_id
        self.end_id: int | None = config.eos_token_id
        self.shape = TransformerShape(config.hidden_size, config.num_hidden_layers, config.vocab_size)
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
        if self.device.type == "cpu":
            with by_rows():
                return self._by_rows(xt, sigma, where)
        columns, flat = where.padded()
        return self.logits_at(xt, self._put(columns), self._put(flat), sigma)

    def logits_at(
        self, xt: torch.Tensor, columns: torch.Tensor, flat: torch.Tensor, time: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Raw logits (R, V) at padded positions, all on the device; see `CapturableDenoiser.logits_at`."""
        if self._fused is not None:
            with torch.cuda.device(self.device):  # Triton launches on the current one
                return self._fused.logits_at(xt, columns, flat)
        sigma = None if time is None else time.float()
        return cast(torch.Tensor, self.network.head(self.network.hidden_at(xt, columns, sigma).flatten(0, 1)[flat]))

    def encode_time(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give sigma (B,), the noise level that conditions the network, from times (B,)."""
        alpha = torch.from_numpy(np.asarray(self._noise.alpha(t)))
        return sigma_of_alpha(alpha).numpy()

    def _by_rows(self, xt: torch.Tensor, sigma: torch.Tensor | None, where: Positions) -> torch.Tensor:
        """All blocks but the last on the batch, then each sequence's revealed positions on their own."""
        condition = self.network.condition(sigma)
        x = self.network.before_last(xt, condition)
        logits = []
        for row in range(len(xt)):
            one = slice(row, row + 1)
            columns = torch.from_numpy(where.cols[where.rows == row])[None]
            hidden = self.network.last_hidden_at(x[one], columns, None if condition is None else condition[one])
            logits.append(self.network.head(hidden[0]))
        return torch.cat(logits)

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of one pass of one sequence; time conditioning (under 1 %) is left out."""
        return self.shape.pass_flops(length, revealed)

    def _sigma(self, t: torch.Tensor | None) -> torch.Tensor:
        if t is None:
            raise ValueError("this model is conditioned on time; t is needed")
        sigma = torch.from_numpy(self.encode_time(t.double().cpu().numpy()))  # t comes from the host: no wait
        return sigma.float().to(self.device, non_blocking=True)

    def _put(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def _store_transposed(network: DiTForMaskedLM) -> None:
    """Lay the weights out as the products on the CPU read them: the same values, a few per cent faster."""
    for layer in network.modules():
        if isinstance(layer, Linear):
            layer.weight.data = layer.weight.data.t().contiguous().t()
