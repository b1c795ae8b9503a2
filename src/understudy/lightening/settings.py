"""What light model is wanted, and how it is healed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.errors import SettingError
from understudy.lightening.choosing import check_wanted
from understudy.lightening.measuring import Weighing
from understudy.lightening.skipping import Kept, check_kept
from understudy.training import TrainingConfig
from understudy.training.settings import Intervals

Quantise = Literal["int8"]

HEALING: Mapping[str, Any] = MappingProxyType(
    {
        **{"steps": 2000, "batch_size": 64, "learning_rate": 5e-4, "warmup": 100, "decay": "linear", "dropout": 0.0},
        **{"ema": 0.999, "beta2": 0.98, "validate_every": 500, "distillation_weight": 0.5},
    }
)
"""Where healing differs from the published recipe of training: it is short, and begins with what the heavy model knows.
Not tuned."""


@dataclass(frozen=True)
class LightSettings:
    """Which light model to make. SettingError for wishes that exclude each other.

    blocks: how many to keep, chosen by importance; keep: which to keep, counted from 0, instead; neither keeps all,
    which only `quantise` makes lighter. quantise: "int8" rounds the matrices of the blocks (`round_weights`). data:
    prepared folder or text on which blocks are weighed; the bundled text unless given. weighing: how.
    """

    blocks: int | None = None
    keep: Kept | None = None
    quantise: Quantise | None = None
    data: str | None = None
    weighing: Weighing = field(default_factory=Weighing)

    def __post_init__(self) -> None:
        if self.blocks is not None and self.keep is not None:
            raise SettingError(f"blocks is {self.blocks} and keep {self.keep}; give one of them")
        if self.quantise not in (None, "int8"):
            raise SettingError(f"quantise is {self.quantise!r}; int8 is what can be done")
        if self.blocks is None and self.keep is None and self.quantise is None:
            raise SettingError("nothing is to be left out: give blocks, how many to keep, or keep, which of them")

    def check(self, heavy: DiTForMaskedLM) -> None:
        """SettingError unless something lighter can be made of this network so."""
        total = len(heavy.blocks)
        if self.blocks is not None:
            check_wanted(self.blocks, total)
        if self.keep is not None:
            check_wanted(len(check_kept(self.keep, total)), total)

    def num_kept(self, heavy: DiTForMaskedLM) -> int:
        """Blocks that the light model has."""
        return self.blocks or len(self.keep or heavy.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without `data`, which may lie elsewhere the next time."""
        content = {**asdict(self), "weighing": self.weighing.to_dict(), "keep": None if not self.keep else [*self.keep]}
        return {name: value for name, value in content.items() if name != "data"}


def healing_config(
    shape: DiTConfig, blocks: int, initial: Path, heavy: str, output: Path, data: str, times: Intervals, **changes: Any
) -> TrainingConfig:
    """Settings of the run that heals the model in `initial` into `output`, with `heavy` as its teacher.

    shape: the heavy model's; blocks: that the light one has. times: intervals in which it is wanted. changes: fields of
    `TrainingConfig`, beside those of `HEALING`.
    """
    return TrainingConfig(
        data=data,
        output=str(output),
        objective="distillation",
        hidden_size=shape.hidden_size,
        blocks=blocks,
        heads=shape.num_attention_heads,
        tie_embeddings=shape.tie_word_embeddings,
        noise=shape.noise,
        time_conditioning=shape.time_conditioning,
        initial=str(initial),
        teacher=heavy,
        times=times,
        **{**HEALING, **changes},
    )
