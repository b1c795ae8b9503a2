"""From a folder in the Hugging Face layout, or a hub id, to a denoiser or a judge.

Weights are read from safetensors only, strictly; nothing is unpickled and no remote code runs.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.denoisers.network import DiTDenoiser
from understudy.denoisers.protocol import Denoiser
from understudy.errors import ModelError, SettingError, one_line
from understudy.hub import local_folder
from understudy.quiet import quiet
from understudy.tokenizer_files import TOKENIZER_FILES
from understudy.whole_files import file_sha256

MODEL_FILES = (*TOKENIZER_FILES, "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_denoiser(
    path: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Denoiser:
    """Load a model to sample from.

    path: a folder with `config.json` and `model.safetensors`, or a hub id (`revision` pins its commit).
    dtype: of the weights; float32 on the CPU for samples that do not depend on their batch.
    Raises ModelError for a folder that is missing, incomplete or truncated, or a kind of model not known here.
    """
    folder = local_folder(path, MODEL_FILES, revision=revision)
    config = read_config(folder)
    if config.get("model_type") != DiTConfig.model_type:
        raise ModelError(
            f"{path} holds a model of type {config.get('model_type')!r}; "
            f"{DiTConfig.model_type!r}, as written by `understudy train`, is what can be loaded"
        )
    try:
        # Without memory or first values of its own: it takes over the tensors of the file.
        with torch.device("meta"):
            network = DiTForMaskedLM(DiTConfig.from_dict(config))
    except (SettingError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} describes no network that can be: {one_line(error)}") from error
    weights, expected = read_weights(folder), network.state_dict()
    shared = expected.keys() & weights.keys()
    differing = {name for name in shared if expected[name].shape != weights[name].shape}
    _check_fit(folder, expected.keys() - shared, weights.keys() - shared, differing)
    network.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, assign=True)
    return DiTDenoiser(network.to(device))


def load_judge(path: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu") -> Any:
    """Load an autoregressive scoring model (any `AutoModelForCausalLM` with safetensors) in float32, for evaluation.

    Raises ModelError as `load_denoiser` does.
    """
    from transformers import AutoModelForCausalLM

    folder = local_folder(path, MODEL_FILES, revision=revision)
    kind = read_config(folder).get("model_type")
    weight_files(folder)
    try:
        # Left to transformers, which knows how published weights are named (those of GPT-2 lack a prefix).
        with quiet():
            judge, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                # Reported instead, where the error would point to a log line.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise _truncated(folder, error) from error
    except Exception as error:  # broad, because a configuration that cannot be fails in each model's own way
        raise ModelError(
            f"{path}, a model of type {kind!r}, cannot judge ({one_line(error)}); give a causal language model"
        ) from error
    # Names in transformers 4, (name, shape, shape) in 5.
    differing = [item if isinstance(item, str) else item[0] for item in report["mismatched_keys"]]
    _check_fit(folder, set(report["missing_keys"]) - set(differing), report["unexpected_keys"], differing)
    return judge.to(device).eval().requires_grad_(False)


def model_sha256(path: str | Path, *, revision: str | None = None) -> str:
    """Hex digest of a model's configuration and weights: what its answers depend on, wherever it lies.

    Raises ModelError where there is no such model.
    """
    folder = local_folder(path, MODEL_FILES, revision=revision)
    digest = hashlib.sha256()
    for file in (folder / "config.json", *weight_files(folder)):
        try:
            digest.update(file_sha256(file).encode())
        except OSError as error:
            raise _truncated(file, error) from error
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json`. Raises ModelError where it is missing or not an object."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
            raise _truncated(path, error) from error
    return weights


def weight_files(folder: Path) -> list[Path]:
    """List the files that the weights are in, one or those of an index. Raises ModelError where there are none."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.exists():
        raise ModelError(f"{folder} has no {WEIGHTS}; weights in other formats are not read")
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _truncated(index, error) from error


def _truncated(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} cannot be read ({one_line(error)}); it looks truncated, copy it again")


def _check_fit(folder: Path, missing: Collection[str], unknown: Collection[str], differing: Collection[str]) -> None:
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
