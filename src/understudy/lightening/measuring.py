"""KL(heavy ‖ something lighter) per masked token, on noised held-out text, with errors.

Shapes: S subsets of blocks, J blocks of text, L length, T times, R masked positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.budget import logit_chunks
from understudy.denoisers.dit import DiTForMaskedLM
from understudy.errors import ModelError, SettingError
from understudy.importance.divergence import log_probabilities
from understudy.lightening.light_times import ALWAYS
from understudy.lightening.skipping import Kept, hidden_states
from understudy.lightening.text import HeldOutText
from understudy.noise import noise_schedule
from understudy.record_journal import RecordJournal
from understudy.training.batches import Floats, sigma_of, stream, times_within
from understudy.training.settings import Intervals

MAX_LOGITS = 2**26  # entries of the logits held at a time by each of two models
WEIGHING = 3  # the purpose of a random stream, beside those of training


@dataclass(frozen=True)
class Weighing:
    """How KL is measured. SettingError for numbers out of range.

    num_blocks: of text at most, J. num_times: T, midpoints of equal strata of `intervals`, the times at which the light
    model is wanted. batch_size: most sequences in a pass. Noise is a function of seed, time and place of the block:
    whatever is compared under one seed is compared in pairs.
    """

    num_blocks: int = 32
    num_times: int = 8
    intervals: Intervals = ALWAYS
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"num_blocks": 2, "num_times": 1, "batch_size": 1, "seed": 0}.items():
            if getattr(self, name) < least:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    @property
    def times(self) -> Floats:
        """The times (T,)."""
        return times_within(self.intervals, (np.arange(self.num_times) + 0.5) / self.num_times)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "intervals": [list(interval) for interval in self.intervals]}


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error over blocks of text, in nats per masked token."""

    mean: float
    se: float


@dataclass(frozen=True)
class Divergences:
    """Sums of KL over the masked tokens of each block: `sums` (S, T, J), `counts` (T, J); weights of the times (T,).

    The mean over times is that of the path KL: a time counts in proportion to −α'(t), the rate of reveals.
    """

    sums: Floats
    counts: Floats
    weights: Floats = field(repr=False)

    def estimate(self, subset: int) -> Estimate:
        """KL of a subset."""
        return self._of(self.sums[subset])

    def difference(self, one: int, other: int) -> Estimate:
        """KL of one subset less that of another, paired by block."""
        return self._of(self.sums[one] - self.sums[other])

    def over_time(self, subset: int) -> list[float]:
        """KL of a subset at each time (T,)."""
        return [float(value) for value in self.sums[subset].sum(axis=1) / self.counts.sum(axis=1)]

    def _of(self, sums: Floats) -> Estimate:
        totals = self.counts.sum(axis=1)
        means = sums.sum(axis=1) / totals  # (T,)
        count = self.counts.shape[1]
        influence = (sums - means[:, None] * self.counts) / totals[:, None] * count
        per_block = self.weights @ influence  # (J,), mean 0: the linearisation of the ratio in the blocks
        return Estimate(float(self.weights @ means), float(per_block.std(ddof=1) / np.sqrt(count)))


def num_passes(num_subsets: int, text: HeldOutText, weighing: Weighing) -> int:
    """Sequences that `measure` passes through networks, the heavy one included."""
    return (num_subsets + 1) * len(text.ids) * weighing.num_times


def measure(
    heavy: DiTForMaskedLM,
    network: DiTForMaskedLM,
    subsets: Sequence[Kept],
    text: HeldOutText,
    weighing: Weighing,
    journal: RecordJournal,
    name: str,
) -> Generator[int, None, Divergences]:
    """Measure KL(heavy ‖ network with the blocks of a subset only) for every subset; yields sequences passed.

    Both networks on one device, in evaluation mode. journal: keeps finished times under `name`. SettingError where so
    few tokens are masked that a time has none; ModelError for logits with NaN.
    """
    times, noise = weighing.times, noise_schedule(heavy.config.noise)
    sums, counts = np.zeros((len(subsets), len(times), len(text.ids))), np.zeros((len(times), len(text.ids)))
    for index, time in enumerate(times):
        unit, due = f"{name} {index}", num_passes(len(subsets), text, weighing) // len(times)
        masked = stream(weighing.seed, WEIGHING, index).random(text.ids.shape) < noise.mask_prob(float(time))
        if unit not in journal:
            sigma = sigma_of(noise, np.array([time]))
            found = np.zeros((len(subsets), len(text.ids)))
            asked = (masked & text.counts).sum(axis=1)
            waiting = np.flatnonzero(asked)
            for chunk in logit_chunks(asked[waiting], weighing.batch_size, heavy.config.vocab_size, MAX_LOGITS):
                rows = waiting[chunk]
                found[:, rows] = _pass(heavy, network, subsets, text, rows, masked[rows], sigma)
                due -= (passes := (len(subsets) + 1) * len(rows))
                yield passes
            journal.put(unit, found.tolist())
        if due:
            yield due  # blocks of which nothing was masked, or a time that was measured before
        sums[:, index], counts[index] = np.array(journal[unit]), (masked & text.counts).sum(axis=1)
    if not np.isfinite(sums).all():
        raise ModelError("a model returned logits with NaN; is its checkpoint intact?")
    if not counts.any(axis=1).all():
        raise SettingError(f"{len(text.ids)} blocks of text are too few: at one time nothing is masked; give more")
    weights = -noise.alpha_derivative(times)
    return Divergences(sums, counts, weights / weights.sum())


@torch.no_grad()
def _pass(
    heavy: DiTForMaskedLM,
    network: DiTForMaskedLM,
    subsets: Sequence[Kept],
    text: HeldOutText,
    rows: NDArray[np.int64],
    masked: NDArray[np.bool_],
    sigma: NDArray[np.float32],
) -> Floats:
    """KL summed over the masked tokens that count, of some blocks (n,), for each subset: (S, n)."""
    device, mask_id = heavy.device, heavy.config.mask_token_id
    ids = torch.from_numpy(np.where(masked, mask_id, text.ids[rows])).to(device)
    noise_level = torch.from_numpy(np.repeat(sigma, len(rows))).to(device)
    chosen = masked & text.counts[rows]
    positions = torch.from_numpy(np.flatnonzero(chosen)).to(device)
    owners, sums = np.nonzero(chosen)[0], np.zeros((len(subsets), len(rows)))

    def look(model: DiTForMaskedLM, hidden: torch.Tensor) -> torch.Tensor:
        return log_probabilities(model.head(hidden.flatten(0, 1).index_select(0, positions)), mask_id)  # (R, V)

    everything = tuple(range(len(heavy.blocks)))
    ((_, hidden),) = hidden_states(heavy, ids, noise_level, [everything])
    reference = look(heavy, hidden)
    mass = reference.exp()
    for number, state in hidden_states(network, ids, noise_level, subsets):
        kl = (mass * (reference - look(network, state))).sum(-1).double().cpu().numpy()  # (R,)
        sums[number] = np.bincount(owners, weights=kl, minlength=len(rows))
    return sums
