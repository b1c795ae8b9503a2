"""Models of one tokenizer under one mask id and vocabulary, so that they can share a schedule."""

from collections.abc import Collection

import torch

from understudy.denoisers.protocol import Denoiser, Positions
from understudy.flops import PassFlops


class RemappedDenoiser:
    """`model`, written to with `mask_id` for its own mask, with `vocab_size` logits V.

    Tokens keep their ids. barred: ids that are never drawn, besides the mask and what the model has no logit for; they
    cannot be given either (`unreadable`).
    """

    def __init__(self, model: Denoiser, *, mask_id: int, vocab_size: int, barred: Collection[int] = ()) -> None:
        self.model, self.mask_id, self.vocab_size = model, mask_id, vocab_size
        self.max_length, self.uses_time, self.noise = model.max_length, model.uses_time, model.noise
        self.begin_id, self.end_id = model.begin_id, model.end_id
        self.unreadable = frozenset(barred) - {mask_id}
        self._barred = torch.tensor(sorted(barred), dtype=torch.int64, device=model.device)
        own = getattr(model, "description", type(model).__name__)
        self.description = f"{own}; mask {model.mask_id} as {mask_id}, vocabulary {model.vocab_size} as {vocab_size}"

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.device

    def logits(self, xt: torch.Tensor, t: torch.Tensor | None = None, where: Positions | None = None) -> torch.Tensor:
        """Logits (B, L, V), or (R, V) at `where`; −∞ where the model has none."""
        own = xt.masked_fill(xt == self.mask_id, self.model.mask_id)
        logits = self.model.logits(own, t, where)
        shared = min(self.vocab_size, self.model.vocab_size)
        out = logits.new_full((*logits.shape[:-1], self.vocab_size), -torch.inf)
        out[..., :shared] = logits[..., :shared]
        return out.index_fill_(-1, self._barred, -torch.inf)

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of the model's own pass."""
        return self.model.pass_flops(length, revealed)


def remap(denoisers: dict[str, Denoiser]) -> dict[str, Denoiser]:
    """Give all models the mask id of the first, and the vocabulary that all of them know.

    No model then draws another one's mask, nor an id that some model does not know.
    """
    models = denoisers.values()
    mask_id = next(iter(models)).mask_id
    known = min(model.vocab_size for model in models)
    vocab_size = max(known, mask_id + 1)
    barred = {*range(known, vocab_size), *(model.mask_id for model in models if model.mask_id < vocab_size)}
    return {
        key: RemappedDenoiser(model, mask_id=mask_id, vocab_size=vocab_size, barred=barred)
        for key, model in denoisers.items()
    }
