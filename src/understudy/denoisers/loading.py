"""From a folder in the Hugging Face layout, or a hub id, to a denoiser or a judge.

Weights are read from safetensors only, strictly; nothing is unpickled. Code that a folder carries runs only where it is
asked for.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from understudy.denoisers.families import FAMILIES, ModelSource
from understudy.denoisers.model_files import (
    CODE_FILES,
    MODEL_FILES,
    check_fit,
    read_config,
    truncated,
    weight_files,
)
from understudy.denoisers.protocol import Denoiser
from understudy.errors import ModelError, one_line
from understudy.hub import local_folder
from understudy.quiet import quiet


def load_denoiser(
    path: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> Denoiser:
    """Load a model to sample from, of any family in `FAMILIES`; it says in `description` what was found.

    path: a folder with `config.json` and `model.safetensors`, or a hub id (`revision` pins its commit).
    dtype: of the weights; float32 on the CPU for samples that do not depend on their batch.
    trust_remote_code: let code run that the folder carries, where a family needs it.
    Raises ModelError for a folder that is missing, incomplete or truncated, or a kind of model not known here.
    """
    files = (*MODEL_FILES, *CODE_FILES) if trust_remote_code else MODEL_FILES
    folder = local_folder(path, files, revision=revision)
    source = ModelSource(str(path), folder, read_config(folder), torch.device(device), dtype, trust_remote_code)
    for family in FAMILIES:
        if family.recognises(source):
            return family.load(source)
    raise ModelError(
        f"{path} holds a model of type {source.model_type!r}, which is none of these: "
        f"{'; '.join(family.title for family in FAMILIES)}"
    )


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
        raise truncated(folder, error) from error
    except Exception as error:  # broad, because a configuration that cannot be fails in each model's own way
        raise ModelError(
            f"{path}, a model of type {kind!r}, cannot judge ({one_line(error)}); give a causal language model"
        ) from error
    # Names in transformers 4, (name, shape, shape) in 5.
    differing = [item if isinstance(item, str) else item[0] for item in report["mismatched_keys"]]
    check_fit(folder, set(report["missing_keys"]) - set(differing), report["unexpected_keys"], differing)
    return judge.to(device).eval().requires_grad_(False)
