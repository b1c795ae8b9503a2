"""Any network of transformers as a `Denoiser`: framing, vocabulary tails, shifted logits, sparse heads.

Shapes: B sequences in the batch, L length as the engine sees it, R positions wanted, V vocabulary.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.denoisers.gathering import Gathering
from understudy.denoisers.linear_shape import linear_shape
from understudy.denoisers.protocol import Positions
from understudy.errors import ModelError
from understudy.flops import PassFlops


@dataclass(frozen=True)
class Framing:
    """What lies between the engine's canvas and the network.

    mask_id, vocab_size: V; logits beyond it, which no token of the tokenizer has, are cut off. barred: ids that are
    never drawn. before, after: tokens that stand around every sequence and that the engine does not see. shift: how
    many positions before its own a token's logits stand. arguments: for every call of the network.
    """

    mask_id: int
    vocab_size: int
    max_length: int | None
    begin_id: int | None = None
    end_id: int | None = None
    barred: Collection[int] = ()
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    shift: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)


class FramedDenoiser:
    """A network that gives logits, as the engine wants them.

    trunk: the module whose output the head reads; without it logits are made everywhere and picked. On the CPU the
    sequences of a batch go one by one, so that no sample depends on its batch; elsewhere together.
    """

    uses_time: bool = False
    noise: str | None = None

    def __init__(
        self, network: nn.Module, framing: Framing, *, trunk: nn.Module | None = None, description: str = ""
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.framing, self.description = framing, description
        self.vocab_size, self.mask_id, self.max_length = framing.vocab_size, framing.mask_id, framing.max_length
        self.begin_id, self.end_id = framing.begin_id, framing.end_id
        self._gathering = None if trunk is None else Gathering(trunk)
        barred = sorted(token for token in framing.barred if 0 <= token < self.vocab_size)
        self._barred, self._before, self._after = (
            torch.tensor(list(ids), dtype=torch.int64, device=self.device)
            for ids in (barred, framing.before, framing.after)
        )
        around = len(framing.before) + len(framing.after)
        self.shape = linear_shape(network, trunk, self.vocab_size, around, self._probe)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def logits(self, xt: torch.Tensor, t: torch.Tensor | None = None, where: Positions | None = None) -> torch.Tensor:
        """Logits: (B, L, V), or (R, V) at `where`; −∞ at barred ids. See `Denoiser.logits`."""
        batch, length = xt.shape
        if where is None:
            rows, cols = (index.ravel() for index in np.indices((batch, length)))
            where = Positions(rows, cols)
            return self.logits(xt, t, where).view(batch, length, self.vocab_size)
        if self.device.type != "cpu" or batch == 1:
            return self._barring(self._at(xt, where))
        parts = [self._at(xt[row : row + 1], _row_of(where, row)) for row in range(batch)]
        return self._barring(torch.cat(parts))

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of one pass of one sequence, its frame included; see `LinearShape`."""
        return self.shape.pass_flops(length, revealed)

    def _at(self, xt: torch.Tensor, where: Positions) -> torch.Tensor:
        """Logits (R, V or more) of a batch at its positions."""
        framing = self.framing
        before, after = (part.expand(len(xt), -1) for part in (self._before, self._after))
        ids = torch.cat([before, xt, after], dim=1)
        columns = np.maximum(where.cols + len(framing.before) - framing.shift, 0)
        rows, cols = (torch.from_numpy(index).to(ids.device, non_blocking=True) for index in (where.rows, columns))
        if self._gathering is None:
            return logits_of(self.network(ids, **framing.arguments))[rows, cols]
        with self._gathering.at(rows, cols):
            return logits_of(self.network(ids, **framing.arguments))[0]

    @torch.no_grad()
    def _probe(self) -> None:
        """Make one pass over a mask or two."""
        length = min(2, self.max_length or 2)
        xt = torch.full((1, length), self.mask_id, dtype=torch.int64, device=self.device)
        self._at(xt, Positions(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)))

    def _barring(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[-1] < self.vocab_size:
            raise ModelError(
                f"the network gives logits for {logits.shape[-1]} tokens, its tokenizer knows {self.vocab_size}"
            )
        return logits[..., : self.vocab_size].index_fill(-1, self._barred, -torch.inf)


def _row_of(where: Positions, row: int) -> Positions:
    cols = where.cols[where.rows == row]
    return Positions(np.zeros_like(cols), cols)


def logits_of(output: Any) -> torch.Tensor:
    """Logits out of whatever a network gives: them alone, a field of that name, or the first of several."""
    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    first = output[0] if logits is None else logits
    assert isinstance(first, torch.Tensor)
    return first
