"""What a family of models is: how one is recognised, and how it becomes a `Denoiser`.

A new family is one file beside this one that offers a `Family`, its name in `FAMILIES`, and a test class made from
`understudy.conformance`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from understudy.denoisers.protocol import Denoiser


@dataclass(frozen=True)
class ModelSource:
    """A model folder that is here, and how it is wanted.

    name: what the user called it, for messages. config: its `config.json`. dtype: of the weights. runs_code: whether
    code that the folder carries may run.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    runs_code: bool = False

    @property
    def model_type(self) -> str | None:
        """`model_type` of the configuration."""
        kind = self.config.get("model_type")
        return kind if isinstance(kind, str) else None


class Family(Protocol):
    """One kind of checkpoint."""

    @property
    def title(self) -> str:
        """How a message names it."""
        ...

    def recognises(self, source: ModelSource) -> bool:
        """Whether a folder holds a model of this family, from its configuration alone."""
        ...

    def stated(self, source: ModelSource) -> dict[str, int | None]:
        """What `mask_id`, `vocab_size` and `begin_id` of the denoiser will be, as far as config.json settles it."""
        ...

    def load(self, source: ModelSource) -> Denoiser:
        """Load it. Raises ModelError for weights that do not fit, DataError for a tokenizer that is needed and bad."""
        ...
