"""Several models under their schedule keys, with the tokenizer that they share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from understudy.denoisers.loading import load_denoiser, model_sha256
from understudy.denoisers.protocol import Denoiser
from understudy.errors import ModelError, PairingError, PromptError
from understudy.tokenizer_files import load_tokenizer, tokenizer_sha256


@dataclass(frozen=True)
class ModelSet:
    """Models by key, their common tokenizer, where they came from, and what they are (`model_sha256`)."""

    denoisers: dict[str, Denoiser]
    tokenizer: Any
    paths: dict[str, str]
    digests: Mapping[str, str] = field(default_factory=dict)

    def encode_prefix(self, text: str) -> list[int]:
        """Token ids of a prefix, after the begin token if the models were trained with one.

        Raises PromptError for a text that is empty or holds nothing the tokenizer knows.
        """
        ids = self._encode(text, "prefix")
        begin = next(iter(self.denoisers.values())).begin_id
        return ids if begin is None else [begin, *ids]

    def encode_suffix(self, text: str) -> list[int]:
        """Token ids of a suffix. Raises PromptError as `encode_prefix` does."""
        return self._encode(text, "suffix")

    def _encode(self, text: str, what: str) -> list[int]:
        try:
            # Not verbose: whether a text is too long is said by who knows the length of the sample.
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        except TypeError as error:  # lone surrogates: what Python makes of an argument that is no UTF-8
            raise PromptError(f"the {what} is no text that can be written in UTF-8; check the encoding") from error
        if not ids:
            raise PromptError(f"the {what} is empty; give some text, or leave it out to sample freely")
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Text of token ids, special tokens left out; spaces stay where they were given or sampled."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def load_model_set(
    paths: Mapping[str, str | Path], *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> ModelSet:
    """Load the models of a schedule by key.

    Raises ModelError or DataError where a model or tokenizer cannot be loaded, PairingError where tokenizers differ or
    only some of the models were trained with a begin token.
    """
    if not paths:
        raise PairingError("no model is given; bind at least one to a key")
    denoisers = {key: load_denoiser(path, device=device, dtype=dtype) for key, path in paths.items()}
    tokenizers = {key: load_tokenizer(path) for key, path in paths.items()}
    first, *others = tokenizers
    for key in others:
        if tokenizer_sha256(tokenizers[key]) != tokenizer_sha256(tokenizers[first]):
            raise PairingError(
                f"models {first} ({paths[first]}) and {key} ({paths[key]}) have different tokenizers; "
                "models under one schedule must share one"
            )
    begins = {key: model.begin_id for key, model in denoisers.items()}
    if len(set(begins.values())) > 1:
        listed = ", ".join(f"{key}: {begin}" for key, begin in begins.items())
        raise PairingError(
            f"the models were trained on blocks that begin differently (begin token {listed}); pair others"
        )
    recorded = {key: _recorded(path) for key, path in paths.items()}
    digests = {key: model_sha256(path) for key, path in paths.items()}
    return ModelSet(denoisers, tokenizers[first], recorded, digests)


def _recorded(path: str | Path) -> str:
    """Where a model is from, for the record: of a bundled one its name, which means the same everywhere."""
    return f"bundled {Path(path).name}" if Path(path).parent == _bundled_root() else str(path)


def _bundled_root() -> Path:
    return Path(str(files("understudy"))) / "assets" / "demo"


def bundled_paths() -> dict[str, Path]:
    """Folders of the models that come with Understudy: `heavy`, `light` and `judge`."""
    paths = {name: _bundled_root() / name for name in ("heavy", "light", "judge")}
    for path in paths.values():
        if not (path / "model.safetensors").exists():
            raise ModelError(f"the bundled model {path.name} is missing from this installation; install it again")
    return paths


def bundled_held_out() -> Path:
    """Text that the bundled pair has never seen, made up by the bundled judge (`recipes/held_out.py`)."""
    return _bundled_root() / "held-out.txt"


def bundled_models() -> ModelSet:
    """Load the bundled pair, H and L."""
    paths = bundled_paths()
    return load_model_set({"H": paths["heavy"], "L": paths["light"]})
