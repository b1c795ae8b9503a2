"""The files of a model folder in the Hugging Face layout: configuration and weights, read strictly.

Weights are read from safetensors only; nothing is unpickled.
"""

import hashlib
import json
import os
from collections.abc import Collection
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from understudy.errors import ModelError, one_line
from understudy.hub import local_folder
from understudy.tokenizer_files import TOKENIZER_FILES
from understudy.whole_files import file_sha256

MODEL_FILES = (*TOKENIZER_FILES, "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
CODE_FILES = ("*.py",)  # what is fetched of the code that `trust_remote_code` runs, from folders within too
IMPORTABLE = tuple(all_suffixes())
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def model_sha256(path: str | Path, *, revision: str | None = None) -> str:
    """Hex digest of a model's configuration, weights and code: what its answers depend on, wherever it lies.

    Raises ModelError where there is no such model.
    """
    folder = local_folder(path, MODEL_FILES, revision=revision)
    digest = hashlib.sha256()
    for file in (folder / "config.json", *weight_files(folder), *code_files(folder)):
        try:
            digest.update(file_sha256(file).encode())
        except OSError as error:
            raise truncated(file, error) from error
    return digest.hexdigest()


def code_files(folder: Path) -> list[Path]:
    """List what an import of the folder's code can reach: Python files, and compiled ones, in it and below.

    Without what lies in `__pycache__`, which `trust_remote_code` does not read.
    """
    found = []
    seen: set[str] = set()
    for place, names, files in os.walk(folder, followlinks=True):  # as imports do
        real = os.path.realpath(place)
        names[:] = [] if real in seen else sorted(name for name in names if name != "__pycache__")
        found += [Path(place) / file for file in files if real not in seen and file.endswith(IMPORTABLE)]
        seen.add(real)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json`. Raises ModelError where it is missing or not an object."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder} has no readable config.json ({one_line(error)}); is it a model folder?") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} holds no JSON object; is it a model folder?")
    return config


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of the folder's safetensors, onto the CPU. Raises ModelError for missing or damaged files."""
    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        try:
            weights.update(load_file(path))
        except (SafetensorError, OSError) as error:
            raise truncated(path, error) from error
    return weights


def weight_files(folder: Path) -> list[Path]:
    """List the files that the weights are in, one or those of an index. Raises ModelError where there are none."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.exists():
        raise ModelError(f"{folder} has no {WEIGHTS}; weights in other formats are not read")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if strange := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
            raise ModelError(f"{index} names {strange[0]!r}, which is no safetensors file of that folder")
        return [folder / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise truncated(index, error) from error


def truncated(path: Path, error: Exception) -> ModelError:
    """Say that a file is damaged."""
    return ModelError(f"{path} cannot be read ({one_line(error)}); it looks truncated, copy it again")


def check_fit(folder: Path, missing: Collection[str], unknown: Collection[str], differing: Collection[str]) -> None:
    """ModelError unless all three are empty."""
    found = {"missing": missing, "unknown": unknown, "of another shape": differing}
    wrong = [f"{len(names)} {how} ({_example(names)})" for how, names in found.items() if names]
    if wrong:
        raise ModelError(
            f"the weights in {folder} do not fit its config.json: {', '.join(wrong)}; "
            "was the folder put together from two models?"
        )


def _example(names: Collection[str]) -> str:
    first, *others = sorted(names)
    return f"{first}, …" if others else first
