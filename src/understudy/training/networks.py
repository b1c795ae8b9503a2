"""The networks that are trained: our DiT for masked diffusion, a small Llama for the left-to-right objective."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.training.settings import TrainingConfig


def build_network(config: TrainingConfig, manifest: Any) -> PreTrainedModel:
    """Give the untrained network, float32, on the CPU; its weights are a function of `config.seed`.

    `manifest` is that of the prepared data. Torch's global generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # of the CPU alone, where the weights are drawn
        return _llama(config, manifest) if config.objective == "ar" else _dit(config, manifest)


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
