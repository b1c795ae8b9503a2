"""Texts of a model in training, so that one can see what the loss does not say."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import PreTrainedModel

from understudy.denoisers.network import DiTDenoiser
from understudy.sampling import sample
from understudy.training.settings import TrainingConfig

NUM_STEPS = 256  # enough to judge a model by; a quarter of the passes of the published thousand


def sample_texts(network: PreTrainedModel, config: TrainingConfig, *, seed: int) -> tuple[str, ...]:
    """Give `config.num_samples` unconditional texts of full length; special tokens are shown.

    `network` is left as it is, and so are torch's global generators. The texts are a function of weights and `seed`.
    """
    from understudy.data import load_blocks_tokenizer

    tokenizer = load_blocks_tokenizer(Path(config.data))
    # A copy: a denoiser takes its network over, gradients off.
    network = copy.deepcopy(network).eval()
    tokens = _left_to_right(network, config, seed) if config.objective == "ar" else _masked(network, config, seed)
    return tuple(tokenizer.decode(row) for row in tokens.tolist())


def _masked(network: PreTrainedModel, config: TrainingConfig, seed: int) -> torch.Tensor:
    length = network.config.max_position_embeddings
    options = {"length": length, "num_samples": config.num_samples, "noise": config.noise, "seed": seed}
    return sample({"H": DiTDenoiser(network)}, steps=min(NUM_STEPS, 4 * length), **options).tokens


@torch.no_grad()
def _left_to_right(network: PreTrainedModel, config: TrainingConfig, seed: int) -> torch.Tensor:
    shape = network.config
    first = shape.eos_token_id if shape.bos_token_id is None else shape.bos_token_id
    start = torch.full((config.num_samples, 1), first, device=network.device)
    devices = [network.device] if network.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        tokens: torch.Tensor = network.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            max_new_tokens=shape.max_position_embeddings - 1,
            pad_token_id=shape.eos_token_id if shape.pad_token_id is None else shape.pad_token_id,
        )
        return tokens
