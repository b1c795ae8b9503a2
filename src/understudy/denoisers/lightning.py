"""Checkpoints of PyTorch Lightning as the training code of MDLM and duo writes them, read without running their code.

Such a file holds `state_dict`, `ema` (averaged weights, a list in the order of the network's parameters),
`hyper_parameters` (an OmegaConf configuration, a tokenizer object) and the state of loops and optimizers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from understudy.denoisers.inert_pickle import Inert, StoredTensor, TensorArchive, open_archive
from understudy.denoisers.published import ROTARY, PublishedShape, Tensors, parameter_shapes, without_prefix
from understudy.errors import ModelError


class Settings:
    """What a checkpoint says about its training: an OmegaConf configuration, of which no object was ever made.

    Only what is asked for is looked up, so that a file made to be endless is no burden.
    """

    def __init__(self, hyper_parameters: Any) -> None:
        inner = _step(hyper_parameters, "config")
        self._root = hyper_parameters if inner is None else inner

    def get(self, *path: str) -> str | int | float | bool | None:
        """The value at a path of keys; None where there is none, or no plain one."""
        value = self._root
        for key in path:
            value = _step(value, key)
        value = _opened(value)
        return value if isinstance(value, str | int | float | bool) else None


def _step(value: Any, key: str) -> Any:
    content = _opened(value)
    return content.get(key) if isinstance(content, dict) else None


def _opened(value: Any) -> Any:
    """What a node of OmegaConf holds (`_content` of a container, `_val` of a value); other things as they are."""
    if not isinstance(value, Inert):
        return value
    fields = value.fields()
    return fields.get("_content", fields.get("_val", value.items))


@dataclass(frozen=True)
class LightningCheckpoint:
    """An open checkpoint. stored: tensors of the network by name without prefix. settings: its hyper-parameters."""

    archive: TensorArchive
    stored: Mapping[str, StoredTensor]
    settings: Settings

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the network's tensors by name."""
        return {name: tensor.size for name, tensor in self.stored.items()}

    def weights(self, shape: PublishedShape, which: Literal["ema", "raw"]) -> Tensors:
        """Read the averaged or the last weights, and the rotary frequencies where they are stored.

        Raises ModelError where there are no averaged ones, or they are not those of such a network.
        """
        chosen = dict(self.stored) if which == "raw" else self._averaged(shape)
        return {name: self.archive.read(tensor) for name, tensor in chosen.items()}

    def _averaged(self, shape: PublishedShape) -> dict[str, StoredTensor]:
        path, ema = self.archive.path, self.archive.content.get("ema")
        shadows = ema.get("shadow_params") if isinstance(ema, dict) else None
        if not isinstance(shadows, list) or not all(isinstance(shadow, StoredTensor) for shadow in shadows):
            raise ModelError(f"{path} holds no averaged weights (ema.shadow_params); take its last ones: --weights raw")
        expected = parameter_shapes(shape)
        found = [shadow.size for shadow in shadows]
        if found != list(expected.values()):
            at = next(
                (i for i, pair in enumerate(zip(found, expected.values(), strict=False)) if pair[0] != pair[1]), -1
            )
            where = (
                f"number {at} is {found[at]}, not {list(expected.items())[at]}" if at >= 0 else "none differs in shape"
            )
            raise ModelError(
                f"{path} holds {len(found)} averaged weights that do not fit its network of {len(expected)} ({where}); "
                "take its last ones: --weights raw"
            )
        rotary = {ROTARY: self.stored[ROTARY]} if ROTARY in self.stored else {}
        return rotary | dict(zip(expected, shadows, strict=True))


@contextmanager
def open_lightning(path: Path) -> Iterator[LightningCheckpoint]:
    """Open a Lightning checkpoint. Raises ModelError where it is damaged or holds no network of MDLM."""
    with open_archive(path) as archive:
        content = archive.content
        state = content.get("state_dict") if isinstance(content, dict) else None
        if not isinstance(state, dict):
            raise ModelError(f"{path} is a checkpoint of PyTorch, but not of Lightning: it has no state_dict")
        strange = [str(name) for name, value in state.items() if not isinstance(value, StoredTensor)]
        if strange:
            raise ModelError(f"{path} holds {strange[0]} in a form that is not read without running its code")
        try:
            stored = without_prefix(state)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        yield LightningCheckpoint(archive, stored, Settings(content.get("hyper_parameters")))
