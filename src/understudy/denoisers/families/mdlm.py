"""Published MDLM checkpoints, such as `kuleshov-group/mdlm-owt`, read without their code.

Their network is our DiT under other names (see `published.py`), so they run on the same paths.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.denoisers.dit import DiTConfig
from understudy.denoisers.families.dit import dit_denoiser
from understudy.denoisers.families.family import ModelSource
from understudy.denoisers.model_files import read_weights
from understudy.denoisers.network import DiTDenoiser
from understudy.denoisers.published import (
    ROTARY,
    PublishedShape,
    Tensors,
    check_rotary,
    check_tensors,
    to_dit,
    without_prefix,
)
from understudy.denoisers.published_ids import SpecialIds, special_ids
from understudy.errors import ModelError, SettingError, one_line
from understudy.tokenizer_files import load_tokenizer

# Names in config.json, then those of the training configuration.
SIZES = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_dim", "hidden_size"),
    "blocks": ("n_blocks",),
    "heads": ("n_heads",),
    "length": ("model_length", "length"),
    "cond_dim": ("cond_dim",),
}


@dataclass(frozen=True)
class PublishedNetwork:
    """A published network in our terms: configuration and weights of a DiT, and what was decided on the way."""

    config: DiTConfig
    weights: Tensors
    description: str


class PublishedMDLM:
    """Hugging Face exports of MDLM; those of duo are recognised and refused, for they are no masked diffusion."""

    title = "published MDLM checkpoint"

    def recognises(self, source: ModelSource) -> bool:
        """By `model_type` and the names of the sizes: others call theirs `mdlm` too."""
        kind = (source.model_type or "").lower()
        return kind == "duo" or (kind == "mdlm" and any(name in source.config for name in ("n_blocks", "hidden_dim")))

    def stated(self, source: ModelSource) -> dict[str, int | None]:
        """Each of them that the configuration names."""
        names = {"mask_id": "mask_token_id", "vocab_size": "vocab_size", "begin_id": "bos_token_id"}
        named = {what: source.config.get(name) for what, name in names.items()}
        return {what: value for what, value in named.items() if isinstance(value, int)}

    def load(self, source: ModelSource) -> DiTDenoiser:
        """Read the network strictly; its tokenizer, where the folder holds one, says which token is the mask."""
        network = read_published(source)
        return dit_denoiser(source, network.config, network.weights, network.description)


def read_published(
    source: ModelSource, *, tokenizer: Any | None = None, mask_id: int | None = None
) -> PublishedNetwork:
    """Read a folder. tokenizer, mask_id: where they are not to be taken from it.

    Raises ModelError for a configuration that lacks a size, weights that do not fit, or a mask that cannot be told.
    """
    if (source.model_type or "").lower() == "duo":
        raise ModelError(
            f"{source.name} is a Duo model: its noise is uniform over the vocabulary, and it has no masked tokens to "
            "reveal; duo's masked baseline is a Lightning checkpoint (`understudy convert`)"
        )
    where = source.folder
    shape = _shape(where / "config.json", source.config)
    if tokenizer is None and any(where.glob("*token*")):
        tokenizer = load_tokenizer(where)
    ids = special_ids(where, shape.vocab_size, tokenizer=tokenizer, config=source.config, mask_id=mask_id)
    try:
        weights = without_prefix(read_weights(where))
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    return published_network(where, weights, shape, ids)


def published_network(
    where: Path, weights: Tensors, shape: PublishedShape, ids: SpecialIds, noise: str = "loglinear"
) -> PublishedNetwork:
    """Check the weights (names without prefix) and turn them into our DiT's. Raises ModelError as `read_published`."""
    config = _dit_config(where, shape, ids, noise)
    check_tensors(where, {name: tuple(weight.shape) for name, weight in weights.items()}, shape)
    if ROTARY in weights:
        check_rotary(where, weights[ROTARY])
    return PublishedNetwork(config, to_dit(weights, shape), _describe(shape, ids))


def _shape(where: Path, config: Mapping[str, Any]) -> PublishedShape:
    values: dict[str, Any] = {
        size: next((config[name] for name in names if name in config), None) for size, names in SIZES.items()
    }
    lacking = [SIZES[size][0] for size, value in values.items() if value is None]
    if lacking:
        raise ModelError(f"{where} lacks {', '.join(lacking)}; copy it again, published MDLMs state every size")
    conditioned = config.get("time_conditioning", False)
    return PublishedShape(**values, time_conditioning=conditioned, dropout=config.get("dropout", 0.1))


def _dit_config(where: Path, shape: PublishedShape, ids: SpecialIds, noise: str) -> DiTConfig:
    if not isinstance(shape.time_conditioning, bool):
        raise ModelError(f"time_conditioning of {where} is {shape.time_conditioning!r}; it must be true or false")
    try:
        return DiTConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.blocks,
            num_attention_heads=shape.heads,
            max_position_embeddings=shape.length,
            cond_dim=shape.cond_dim,
            dropout=shape.dropout,
            time_conditioning=shape.time_conditioning,
            noise=noise,
            mask_token_id=ids.mask,
            bos_token_id=ids.begin,
            eos_token_id=ids.end,
            pad_token_id=ids.pad,
        )
    except (SettingError, TypeError) as error:
        raise ModelError(f"{where} describes no network that can be: {one_line(error)}") from error


def _describe(shape: PublishedShape, ids: SpecialIds) -> str:
    time = "conditioned on sigma(t)" if shape.time_conditioning else "not conditioned on time (modulation folded)"
    begin = "nothing" if ids.begin is None else f"token {ids.begin}"
    return (
        f"{PublishedMDLM.title}: {shape.blocks} blocks of width {shape.hidden_size}, {shape.heads} heads, length "
        f"{shape.length}, vocabulary {shape.vocab_size}, mask {ids.mask} ({ids.origin}), blocks begin with {begin}, "
        f"{time}"
    )
