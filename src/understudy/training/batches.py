"""Batches: which blocks a step sees and how they are noised. Everything here is numpy on the host.

Nothing is drawn from a running generator. The blocks of step k and their noise are functions of (seed, k, place in the
global batch), so a resumed run and a run on any number of processes see the same batches.

Shapes: B sequences of the global batch, b of a micro-batch, L length, m predicted positions of a micro-batch (padded).
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from understudy.denoisers.dit import sigma_of_alpha
from understudy.errors import DataError, SettingError
from understudy.noise import NoiseSchedule, noise_schedule
from understudy.training.settings import Intervals, TrainingConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ORDER, NOISE, VALIDATION = 0, 1, 2  # what a random stream is for: equal seeds must not make equal streams
CAPACITY_SHARES = 16  # the number of predicted positions is rounded up to a multiple of this share of b·L


class Blocks(Protocol):
    """What training asks of data: the interface of `understudy.data.TokenBlocks`."""

    manifest: Any

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Ints) -> Ints: ...


class Batch(NamedTuple):
    """One micro-batch. The loss is Σ weights · cross-entropy(position, target).

    input_ids: int64 (b, L), noised. positions: int64 (m,), index into the b·L positions; targets: int64 (m,).
    weights: float32 (m,), the sum's share of the global batch included; 0 where the list is only filled up.
    sigma: float32 (b,), noise level for networks that are conditioned on time.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    sigma: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """Copy to `device`, without waiting where the memory is pinned."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


def stream(seed: int, purpose: int, number: int) -> np.random.Generator:
    """Give the random numbers of one purpose and one epoch, step or time: a Philox stream of its own."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, number))))


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_blocks: int) -> Ints:
    """Give the order (num_blocks,) in which an epoch visits the blocks."""
    return stream(seed, ORDER, epoch).permutation(num_blocks)


def step_blocks(seed: int, step: int, batch_size: int, num_blocks: int) -> Ints:
    """Give the blocks (B,) of a step; epochs follow each other without a gap, so a batch may span several."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(places, num_blocks)
    chosen = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        mine = epochs == epoch
        chosen[mine] = epoch_order(seed, int(epoch), num_blocks)[offsets[mine]]
    return chosen


def strata_order(batch_size: int) -> Ints:
    """Give each place of the batch its stratum of time, a permutation (B,).

    Consecutive places are about 0.618·B strata apart (golden ratio), so every stretch of the batch, that is every
    process and micro-batch, gets times from all of [0, 1] and with them about the same number of masked positions.
    """
    stride = max(1, round(batch_size * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, batch_size) != 1:
        stride += 1
    return np.arange(batch_size) * stride % batch_size


def stratified_times(uniform: Floats, t_min: float) -> Floats:
    """Give times (B,) in [t_min, 1] from `uniform` (B,) in [0, 1): t = t_min + (1 - t_min)·(stratum + u) / B.

    One time in each of B equal strata of the whole global batch: the variance reduction of MDLM (arXiv 2406.07524),
    whose code stratifies within the micro-batch of each process only.
    """
    return t_min + (1 - t_min) * (strata_order(len(uniform)) + uniform) / len(uniform)


def times_within(intervals: Intervals, fraction: Floats) -> Floats:
    """Give the times (…) that lie at `fraction` (…), in [0, 1], of the joint length of `intervals`; ascending."""
    low, high = np.array(intervals, dtype=np.float64).T
    ends = np.cumsum(high - low)
    where = fraction * ends[-1]
    owner = np.minimum(np.searchsorted(ends, where, side="right"), len(ends) - 1)
    return np.asarray(np.clip(high[owner] - (ends[owner] - where), low[owner], high[owner]))


def drawn_times(config: TrainingConfig, uniform: Floats) -> Floats:
    """Give the times (B,) of a step from `uniform` (B,) in [0, 1): stratified over what the run trains on."""
    if config.times is None:
        return stratified_times(uniform, config.t_min)
    kept = tuple((max(low, config.t_min), high) for low, high in config.times if high > config.t_min)
    return times_within(kept, stratified_times(uniform, 0.0))


def sigma_of(noise: NoiseSchedule, t: Floats) -> NDArray[np.float32]:
    """Noise level (B,) at times (B,), as a time-conditioned network reads it; float32."""
    return sigma_of_alpha(torch.from_numpy(noise.alpha(t))).float().numpy()


def predicted_positions(chosen: NDArray[np.bool_], ids: Ints, weights: Floats, mask_id: int) -> tuple[Any, Any, Any]:
    """List the `chosen` positions (b, L) with target and weight, filled up to a capacity that takes few values.

    `weights` is (b,). Fixed capacities let a compiled loss see a handful of shapes. What fills up repeats position 0
    with weight 0 and a target that is not the mask, whose cross-entropy is infinite.
    """
    flat = np.flatnonzero(chosen)
    share = max(1, chosen.size // CAPACITY_SHARES)
    capacity = max(1, -(-len(flat) // share)) * share
    positions = np.zeros(capacity, dtype=np.int64)
    targets = np.full(capacity, int(mask_id == 0), dtype=np.int64)
    values = np.zeros(capacity, dtype=np.float32)
    positions[: len(flat)], targets[: len(flat)] = flat, ids.reshape(-1)[flat]
    values[: len(flat)] = weights[flat // chosen.shape[1]]
    return positions, targets, values


@dataclass(frozen=True)
class BatchMaker:
    """Make the batches of process `rank` of `world`.

    SettingError when the global batch does not split evenly into processes and micro-batches.
    """

    blocks: Blocks
    config: TrainingConfig
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        size, parts = self.config.batch_size, self.world * (self.config.micro_batch or 1)
        if size % parts:
            raise SettingError(
                f"batch_size {size} does not split into {self.world} processes with micro-batches of "
                f"{self.config.micro_batch or 1}; make it a multiple of {parts}"
            )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches that this process takes in a step."""
        share = self.config.batch_size // self.world
        return share // (self.config.micro_batch or share)

    def step(self, step: int) -> list[Batch]:
        """Give the micro-batches of this process in step number `step` (0 is the first)."""
        ids = self.blocks[step_blocks(self.config.seed, step, self.config.batch_size, len(self.blocks))]
        is_valid = self._valid(ids)
        make = self._next_token if self.config.objective == "ar" else self._masked
        return make(step, ids, is_valid)

    def _valid(self, ids: Ints) -> NDArray[np.bool_]:
        """Positions that count (B, L): all but padding."""
        if self.blocks.manifest.layout == "padded":
            return np.asarray(ids != self.blocks.manifest.pad_id)
        return np.ones(ids.shape, dtype=np.bool_)

    def _slices(self) -> Iterator[slice]:
        """Rows of the global batch that are this process's micro-batches."""
        share = self.config.batch_size // self.world
        width = self.config.micro_batch or share
        for start in range(self.rank * share, (self.rank + 1) * share, width):
            yield slice(start, start + width)

    def _masked(self, step: int, ids: Ints, is_valid: NDArray[np.bool_]) -> list[Batch]:
        """Noise as published: every position may be masked, padding too, but padding is no part of the loss."""
        manifest, noise = self.blocks.manifest, noise_schedule(self.config.noise)
        random = stream(self.config.seed, NOISE, step)
        t = drawn_times(self.config, random.random(len(ids)))
        is_masked = random.random(ids.shape) < noise.mask_prob(t)[:, None]
        if bool((ids == manifest.mask_id).any()):
            raise DataError(f"the training text holds the mask token {manifest.mask_id}: prepare it again")
        weights = noise.loss_weight(t) / is_valid.sum()
        noised, sigma = np.where(is_masked, manifest.mask_id, ids), sigma_of(noise, t)
        chosen = is_masked & is_valid
        return [
            _batch(noised[rows], ids[rows], chosen[rows], weights[rows], sigma[rows], manifest.mask_id)
            for rows in self._slices()
        ]

    def _next_token(self, step: int, ids: Ints, is_valid: NDArray[np.bool_]) -> list[Batch]:
        """Every position predicts its right neighbour, unless that is padding."""
        chosen = is_valid.copy()
        chosen[:, :-1], chosen[:, -1] = is_valid[:, 1:], False
        following = np.roll(ids, -1, axis=1)
        weights = np.full(len(ids), 1.0 / chosen.sum())
        sigma = np.zeros(len(ids), dtype=np.float32)
        mask_id = self.blocks.manifest.mask_id
        return [
            _batch(ids[rows], following[rows], chosen[rows], weights[rows], sigma[rows], mask_id)
            for rows in self._slices()
        ]


def _batch(
    inputs: Ints, targets: Ints, chosen: NDArray[np.bool_], weights: Floats, sigma: NDArray[np.float32], mask_id: int
) -> Batch:
    predicted = predicted_positions(chosen, targets, weights, mask_id)
    return Batch(*(torch.from_numpy(array) for array in (inputs, *predicted, sigma)))


class _Steps(IterableDataset[list[Batch]]):
    """The batches from one step to another, for a DataLoader."""

    def __init__(self, maker: BatchMaker, steps: range) -> None:
        self.maker, self.steps = maker, steps

    def __iter__(self) -> Iterator[list[Batch]]:
        return (self.maker.step(step) for step in self.steps)


def batches_ahead(maker: BatchMaker, steps: range, *, pin_memory: bool) -> Iterator[list[Batch]]:
    """Give the batches of `steps`; with `pin_memory` (a GPU waits for them) made ahead in one background process."""
    # A generator of its own: the loader would otherwise draw its seed from torch's global one.
    options: dict[str, Any] = {"batch_size": None, "generator": torch.Generator()}
    if pin_memory:
        options |= {"num_workers": 1, "prefetch_factor": 4, "pin_memory": True, "worker_init_fn": _outlive_signals}
    return iter(DataLoader(_Steps(maker, steps), **options))


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach a whole group of processes; the one that trains still needs batches to stop in order.

    It ends its worker itself, by SIGTERM if need be: a second one is heeded.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
