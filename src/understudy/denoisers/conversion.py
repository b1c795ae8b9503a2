"""Published checkpoints rewritten in our own layout: `config.json`, `model.safetensors` and tokenizer files."""

import copy
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from understudy.denoisers.dit import DiTForMaskedLM
from understudy.denoisers.families.family import ModelSource
from understudy.denoisers.families.mdlm import PublishedMDLM, PublishedNetwork, published_network, read_published
from understudy.denoisers.lightning import LightningCheckpoint, Settings, open_lightning
from understudy.denoisers.model_files import MODEL_FILES, WEIGHTS, read_config
from understudy.denoisers.published import EMBEDDING, ROTARY, PublishedShape, check_tensors
from understudy.denoisers.published_ids import special_ids
from understudy.errors import DataError, ModelError, SettingError, one_line
from understudy.hub import local_folder
from understudy.tokenizer_files import load_tokenizer, save_tokenizer
from understudy.whole_files import check_folder, make_folder, publish_folder

MAX_LENGTH = 2**24  # positions; far above what anyone trains

V = TypeVar("V", int, bool, str)


@dataclass(frozen=True)
class Stated:
    """What is said of a checkpoint beside it; None: only what the file says. Contradictions are errors.

    heads: attention heads. length: tokens of a training block. noise: the schedule it was trained under.
    time_conditioning: whether it saw the noise level. mask_id: the token that stands for "masked".
    """

    heads: int | None = None
    length: int | None = None
    noise: str | None = None
    time_conditioning: bool | None = None
    mask_id: int | None = None


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote, and what it decided. tokenizer: whether one lies in the folder."""

    output: Path
    description: str
    config: dict[str, Any]
    weights: str
    dtype: str
    tokenizer: bool


def convert(
    source: str | Path,
    output: Path,
    *,
    tokenizer: str | Path | None = None,
    weights: Literal["ema", "raw"] = "ema",
    stated: Stated | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> Conversion:
    """Write the model of `source` to the new folder `output`, whole or not at all.

    source: a Lightning checkpoint of MDLM's or duo's training code (a file; nothing in it is run), or a published
    Hugging Face folder or hub id (`revision` pins it). tokenizer: folder or hub id of the one that goes along.
    weights: of a Lightning checkpoint, the averaged or the last ones. dtype: in which they are written.
    Raises ModelError for a source that is damaged, lacks something or is no masked diffusion model, DataError for a
    tokenizer that cannot be loaded or an `output` that is there already or cannot be written, SettingError for
    statements that do not belong to a folder.
    """
    stated, output = stated or Stated(), output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{str(output)!r} is there already; name a new folder")
    check_folder(output)
    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    if Path(source).is_file():
        network, which = _from_lightning(Path(source), loaded, stated, weights), str(weights)
    else:
        folder = local_folder(source, MODEL_FILES, revision=revision)
        if loaded is None and any(folder.glob("*token*")):
            loaded = load_tokenizer(folder)
        network, which = _from_folder(source, folder, loaded, stated), "as published"
    _write(output, network, loaded, dtype)
    name = str(dtype).removeprefix("torch.")
    return Conversion(output, network.description, network.config.to_dict(), which, name, loaded is not None)


def _from_folder(source: str | Path, folder: Path, tokenizer: Any | None, stated: Stated) -> PublishedNetwork:
    if stated != Stated(mask_id=stated.mask_id):
        raise SettingError(f"{source} is a folder, whose config.json says its sizes; state them of a .ckpt file only")
    family = PublishedMDLM()
    model = ModelSource(str(source), folder, read_config(folder), torch.device("cpu"), torch.float32)
    if not family.recognises(model):
        raise ModelError(
            f"{source} holds a model of type {model.model_type!r}; what can be converted is a {family.title}, as a "
            "folder, a hub id or a Lightning file (.ckpt)"
        )
    return read_published(model, tokenizer=tokenizer, mask_id=stated.mask_id)


def _from_lightning(
    path: Path, tokenizer: Any | None, stated: Stated, weights: Literal["ema", "raw"]
) -> PublishedNetwork:
    with open_lightning(path) as checkpoint:
        _check_kind(path, checkpoint.settings)
        shape = _shape(path, checkpoint, stated)
        noise = _noise(path, checkpoint.settings, stated, is_conditioned=shape.time_conditioning)
        check_tensors(path, checkpoint.shapes, shape)
        ids = special_ids(path, shape.vocab_size, tokenizer=tokenizer, config={}, mask_id=stated.mask_id)
        return published_network(path, checkpoint.weights(shape, weights), shape, ids, noise)


def _check_kind(path: Path, settings: Settings) -> None:
    """ModelError for what the same code trains besides MDLM: SEDD, D3PM, Duo, autoregressive models."""
    kind = settings.get("algo", "parameterization") or settings.get("parameterization") or "subs"
    name = settings.get("algo", "name") or "mdlm"
    if kind != "subs" or name != "mdlm":
        raise ModelError(
            f"{path} was trained as {name} with parameterization {kind}; only MDLM (subs) can be converted"
        )


def _shape(path: Path, checkpoint: LightningCheckpoint, stated: Stated) -> PublishedShape:
    """Sizes by the tensors, which hyper-parameters and statements must agree with, and what only those can say."""
    shapes, settings = checkpoint.shapes, checkpoint.settings
    try:
        vocab_size, width = shapes[EMBEDDING]
        (cond_dim,) = shapes["sigma_map.mlp.0.bias"]
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path} holds no network of MDLM: {EMBEDDING} or sigma_map is not as it should be") from error
    blocks = len({match[1] for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))})
    # The rotary frequencies are half a head wide.
    by_rotary = width // (2 * max(shapes[ROTARY][0], 1)) if len(shapes.get(ROTARY, ())) == 1 else None
    _agreed(path, "hidden_size", None, width, _size(settings, "hidden_size"))
    _agreed(path, "n_blocks", None, blocks, _size(settings, "n_blocks"))
    _agreed(path, "cond_dim", None, cond_dim, _size(settings, "cond_dim"))
    heads = _agreed(path, "n_heads", "--heads", by_rotary, _size(settings, "n_heads"), stated.heads)
    length = _agreed(path, "length", "--length", _size(settings, "length"), stated.length)
    said = [settings.get("time_conditioning"), settings.get("algo", "time_conditioning")]
    known = next((value for value in said if isinstance(value, bool)), None)
    option = "--time-conditioning or --no-time-conditioning"
    conditioned = _agreed(path, "time_conditioning", option, known, stated.time_conditioning)
    dropout = settings.get("model", "dropout")
    kept = float(dropout) if isinstance(dropout, int | float) and 0 <= dropout < 1 else 0.1
    if heads < 1 or not 1 <= length <= MAX_LENGTH:
        raise ModelError(
            f"{path} would have {heads} heads and {length} positions, and no network can; state the true ones"
        )
    return PublishedShape(vocab_size, width, blocks, heads, length, cond_dim, conditioned, kept)


def _size(settings: Settings, name: str) -> int | None:
    value = settings.get("model", name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _agreed(path: Path, name: str, option: str | None, *values: V | None) -> V:
    """The one value that all sources give. ModelError where they differ, or none of them knows it."""
    known = [value for value in values if value is not None]
    if not known:
        raise ModelError(f"{path} does not say its {name}; give {option}")
    if any(value != known[0] for value in known):
        raise ModelError(
            f"{path}: {name} is {known[0]} by one account and {known[-1]} by another; one of them is wrong"
        )
    return known[0]


def _noise(path: Path, settings: Settings, stated: Stated, *, is_conditioned: bool) -> str:
    """Name of the noise schedule. It matters where the network reads sigma, which only log-linear noise gives as here.

    Both repositories have a cosine schedule, of different curves; only duo's (known by `algo`) is ours.
    """
    said = settings.get("noise", "type")
    name = {"loglinear": "loglinear", "log-linear": "loglinear"}.get(str(said))
    if said == "cosine" and settings.get("algo", "name") is not None:
        name = "cosine"
    if said is not None and name is None and is_conditioned:
        raise ModelError(f"{path} is conditioned on the time of {said!r} noise; only log-linear noise is read")
    if not is_conditioned and name is None and stated.noise is None:
        return "loglinear"  # it never sees it
    noise = _agreed(path, "noise", "--noise", name, stated.noise)
    if is_conditioned and noise != "loglinear":
        raise ModelError(f"{path} is conditioned on the time of {noise!r} noise; only log-linear noise is read")
    return noise


def _write(output: Path, network: PublishedNetwork, tokenizer: Any | None, dtype: torch.dtype) -> None:
    make_folder(output.parent)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    config = copy.copy(network.config)
    config.architectures, config.dtype = [DiTForMaskedLM.__name__], dtype
    try:
        if tokenizer is None:
            make_folder(partial)
        else:
            save_tokenizer(tokenizer, partial)
        config.save_pretrained(partial)
        weights = {name: weight.to(dtype).contiguous() for name, weight in network.weights.items()}
        save_file(weights, partial / WEIGHTS, metadata={"format": "pt"})
        publish_folder(partial, output)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write the model to {str(output)!r}: {one_line(error)}; make room") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
