"""From a folder in the Hugging Face layout, or a hub id, to a denoiser or a judge.

Weights are read from safetensors only, strictly; nothing is unpickled. Code that a folder carries runs only where it is
asked for.
"""

from pathlib import Path
from typing import Any

import torch

from understudy.denoisers.families import FAMILIES, ModelSource
from understudy.denoisers.model_files import CODE_FILES, MODEL_FILES, read_config
from understudy.denoisers.pretrained import pretrained
from understudy.denoisers.protocol import Denoiser
from understudy.errors import ModelError
from understudy.hub import local_folder
from understudy.tokenizer_files import TOKENIZER_FILES


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
    if Path(path).is_file() and Path(path).suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise ModelError(f"{path} is a pickle, which is never loaded; make a folder of it with `understudy convert`")
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


def stated_by_config(path: str | Path) -> dict[str, int | None]:
    """Read what config.json alone settles of a model's `mask_id`, `vocab_size` and `begin_id`, and no weights.

    Empty where it settles nothing, and where there is no such model, which `load_denoiser` says.
    """
    try:
        folder = local_folder(path, TOKENIZER_FILES)
        source = ModelSource(str(path), folder, read_config(folder), torch.device("cpu"), torch.float32)
    except ModelError:
        return {}
    return next((family.stated(source) for family in FAMILIES if family.recognises(source)), {})


def load_judge(path: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu") -> Any:
    """Load an autoregressive scoring model (any `AutoModelForCausalLM` with safetensors) in float32, for evaluation.

    Raises ModelError as `load_denoiser` does.
    """
    from transformers import AutoModelForCausalLM

    folder = local_folder(path, MODEL_FILES, revision=revision)
    kind = read_config(folder).get("model_type")
    refusal = f"{path}, a model of type {kind!r}, cannot judge ({{reason}}); give a causal language model"
    judge = pretrained(AutoModelForCausalLM, folder, torch.float32, refusal=refusal)
    return judge.to(device).eval().requires_grad_(False)
