"""Several models under their schedule keys, with the tokenizer that they share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from understudy.denoisers.loading import load_denoiser, stated_by_config
from understudy.denoisers.model_files import model_sha256
from understudy.denoisers.protocol import Denoiser
from understudy.denoisers.remapped import remap
from understudy.errors import DataError, ModelError, PairingError, PromptError
from understudy.text_runs import decode_ids
from understudy.tokenizer_files import load_tokenizer, tokenizer_difference

PAIRED = {"begin_id": "begin token", "mask_id": "mask id", "vocab_size": "vocabulary size"}
TAIL = 512  # logits beyond the tokenizer's tokens: a mask token, padding to a round number


@dataclass(frozen=True)
class ModelSet:
    """Models by key, and their common tokenizer.

    paths: where they came from, as a record names it. sources: the same, as it was given. descriptions: what was found.
    """

    denoisers: dict[str, Denoiser]
    tokenizer: Any
    paths: dict[str, str]
    sources: Mapping[str, str | Path] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[str, str]:
        """What the models are, by key (`model_sha256`): all their weights are read for it, so only when asked for."""
        return {key: model_sha256(path) for key, path in self.sources.items()}

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
        return decode_ids(self.tokenizer, tokens, special=False)


def load_model_set(
    paths: Mapping[str, str | Path],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
    trust_remote_code: bool = False,
    remap_masks: bool = False,
) -> ModelSet:
    """Load the models of a schedule by key, and check that they can share one.

    tokenizer: folder or hub id of the tokenizer of all of them, where their folders hold none. trust_remote_code: as in
    `load_denoiser`. remap_masks: let models of one tokenizer differ in mask id and vocabulary size (`remapped.remap`).
    Raises ModelError or DataError where a model or tokenizer cannot be loaded, PairingError where models differ in
    tokenizer, mask, vocabulary or begin token: it names the difference.
    """
    if not paths:
        raise PairingError("no model is given; bind at least one to a key")

    def load(path: str | Path) -> Denoiser:
        return load_denoiser(path, device=device, dtype=dtype, trust_remote_code=trust_remote_code)

    try:
        shared = _shared_tokenizer(paths) if tokenizer is None else load_tokenizer(tokenizer)
    except DataError:
        for path in paths.values():
            load(path)  # what is wrong with a whole folder says more than what is wrong with its tokenizer
        raise
    # What configurations say is compared before any weights are read, and what was read afterwards.
    _check_alike({key: stated_by_config(path) for key, path in paths.items()}, can_differ=remap_masks)
    denoisers = {key: load(path) for key, path in paths.items()}
    _check_tokenizer(shared, denoisers)
    facts = {key: {name: getattr(model, name) for name in PAIRED} for key, model in denoisers.items()}
    _check_alike(facts, can_differ=remap_masks)
    descriptions = {key: getattr(model, "description", "") for key, model in denoisers.items()}
    recorded = {key: _recorded(path) for key, path in paths.items()}
    return ModelSet(remap(denoisers) if remap_masks else denoisers, shared, recorded, paths, descriptions)


def _shared_tokenizer(paths: Mapping[str, str | Path]) -> Any:
    """Load the tokenizer of each, before any weights; they must be one."""
    tokenizers = {key: load_tokenizer(path) for key, path in paths.items()}
    first, *others = tokenizers
    for key in others:
        if (difference := tokenizer_difference(tokenizers[first], tokenizers[key])) is not None:
            raise PairingError(
                f"models {first} ({paths[first]}) and {key} ({paths[key]}) have different tokenizers ({difference}); "
                "models under one schedule must share one"
            )
    return tokenizers[first]


def _check_tokenizer(tokenizer: Any, denoisers: Mapping[str, Denoiser]) -> None:
    """A tokenizer that lacks many of a model's tokens, or has more, was made for another one."""
    size = len(tokenizer)
    for key, model in denoisers.items():
        if not size <= model.vocab_size <= size + max(TAIL, size // 10):
            raise PairingError(
                f"the tokenizer knows {size} tokens and model {key} has logits for {model.vocab_size}; "
                "it was made for another model"
            )


def _check_alike(facts: Mapping[str, Mapping[str, int | None]], *, can_differ: bool) -> None:
    """Compare what is known of each model, by key, under the names in `PAIRED`.

    can_differ: in all but the begin token.
    """
    for name, what in PAIRED.items():
        values = {key: known[name] for key, known in facts.items() if name in known}
        if len(set(values.values())) < 2:
            continue
        if name == "begin_id":
            listed = ", ".join(f"{key}: {value}" for key, value in values.items())
            raise PairingError(
                f"the models were trained on blocks that begin differently (begin token {listed}); pair others"
            )
        if not can_differ:
            listed = ", ".join(f"{key} has {value}" for key, value in values.items())
            raise PairingError(
                f"the models share a tokenizer but differ in {what} ({listed}); "
                "let them be mapped on each other with --remap-masks"
            )


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


BUNDLED_TEXT = "bundled: texts written by the judge"  # in records, as the source of text


def bundled_held_out() -> Path:
    """Text that the bundled pair has never seen, made up by the bundled judge (`recipes/held_out.py`)."""
    return _bundled_root() / "held-out.txt"


def bundled_models() -> ModelSet:
    """Load the bundled pair, H and L."""
    paths = bundled_paths()
    return load_model_set({"H": paths["heavy"], "L": paths["light"]})
