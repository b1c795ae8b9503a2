"""The networks that are trained: our DiT for masked diffusion, a small Llama for the left-to-right objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from understudy.denoisers import load_denoiser
from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.denoisers.network import DiTDenoiser
from understudy.errors import DataError, ModelError, SettingError
from understudy.tokenizer_files import load_tokenizer, tokenizer_sha256
from understudy.training.settings import TrainingConfig


def build_network(config: TrainingConfig, manifest: Any) -> PreTrainedModel:
    """Give the untrained network, float32, on the CPU; its weights are a function of `config.seed`, or `initial`'s.

    `manifest` is that of the prepared data. Torch's global generators are left as they were. Raises the errors of
    `load_dit` and `check_fits_data` for an initial model, SettingError where its shape is not that of `config`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # of the CPU alone, where the weights are drawn
        if config.objective == "ar":
            return _llama(config, manifest)
        return _dit(config, manifest) if config.initial is None else _copy(config, manifest)


def load_dit(path: str | Path, dtype: torch.dtype = torch.float32) -> DiTForMaskedLM:
    """Load the network of a folder or hub id onto the CPU, in evaluation mode, without gradients.

    Raises the errors of `load_denoiser`, ModelError where the model is none of our networks (DiT).
    """
    denoiser = load_denoiser(path, dtype=dtype)
    if not isinstance(denoiser, DiTDenoiser):
        raise ModelError(f"{str(path)!r} is no DiT as `understudy train` writes it; only such a network can be taken")
    network: DiTForMaskedLM = denoiser.network
    return network


def check_fits_data(path: str | Path, shape: DiTConfig, manifest: Any) -> None:
    """DataError unless a model reads the tokens of the prepared data, in blocks of their length and beginning.

    shape: the model's. Its tokenizer is compared where the folder has one.
    """
    bos = _special_ids(manifest)["bos_token_id"]
    wanted = {"vocab_size": manifest.vocab_size, "mask_token_id": manifest.mask_id, "bos_token_id": bos}
    for name, value in wanted.items():
        if getattr(shape, name) != value:
            raise DataError(
                f"the data has {name} {value}, the model in {str(path)!r} {getattr(shape, name)}; prepare the text "
                "with the model's tokenizer and frame"
            )
    if shape.max_position_embeddings < manifest.block_length:
        raise DataError(
            f"the data has blocks of {manifest.block_length} tokens, the model in {str(path)!r} takes "
            f"{shape.max_position_embeddings}; prepare shorter blocks"
        )
    if (Path(path) / "tokenizer.json").is_file():
        found = tokenizer_sha256(load_tokenizer(path))
        if found != manifest.tokenizer_sha256:
            raise DataError(
                f"the data was made with tokenizer {manifest.tokenizer_sha256[:12]}…, the model in {str(path)!r} has "
                f"{found[:12]}…; prepare the text with the model's tokenizer"
            )


def _special_ids(manifest: Any) -> dict[str, Any]:
    # Without a frame, texts do not begin with the beginning token, and a sampler must not put it there.
    bos = manifest.bos_id if manifest.frame != "none" else None
    return {"bos_token_id": bos, "eos_token_id": manifest.eos_id, "pad_token_id": manifest.pad_id}


def _dit(config: TrainingConfig, manifest: Any) -> DiTForMaskedLM:
    shape = DiTConfig(
        vocab_size=manifest.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.blocks,
        num_attention_heads=config.heads,
        max_position_embeddings=manifest.block_length,
        dropout=config.dropout,
        time_conditioning=config.time_conditioning,
        noise=config.noise,
        mask_token_id=manifest.mask_id,
        tie_word_embeddings=bool(config.tie_embeddings),
        **_special_ids(manifest),
    )
    return DiTForMaskedLM(shape)


def _copy(config: TrainingConfig, manifest: Any) -> DiTForMaskedLM:
    """The initial model, with the run's dropout."""
    assert config.initial is not None
    source = load_dit(config.initial)
    shape = source.config
    check_fits_data(config.initial, shape, manifest)
    stated: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.blocks,
        "num_attention_heads": config.heads,
    }
    stated |= {"time_conditioning": config.time_conditioning, "noise": config.noise}
    for name, value in stated.items():
        if getattr(shape, name) != value:
            raise SettingError(f"{name} is {value!r}, but {getattr(shape, name)!r} in {config.initial!r}; give that")
    network = DiTForMaskedLM(DiTConfig.from_dict({**shape.to_dict(), "dropout": config.dropout}))
    network.load_state_dict(source.state_dict())
    return network


def _llama(config: TrainingConfig, manifest: Any) -> PreTrainedModel:
    # Residual dropout, part of the masked recipe, does not exist in a Llama; config.dropout is not used.
    shape = LlamaConfig(
        vocab_size=manifest.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size or -(-8 * config.hidden_size // (3 * 64)) * 64,
        num_hidden_layers=config.blocks,
        num_attention_heads=config.heads,
        max_position_embeddings=manifest.block_length,
        tie_word_embeddings=config.tie_embeddings is not False,
        attn_implementation="sdpa",
        **_special_ids(manifest),
    )
    return LlamaForCausalLM(shape)
