"""How likely a masked diffusion model finds a text after a context: the bound of any-order generation.

Of T tokens after a context, l are masked, l uniform in 1 … T, the masked set M uniform among those of its size:

    log p(target | context) ≥ E [ T/l · Σ_{i in M} log p(x_i | context, what is not masked) ]

LLaDA's estimator (Nie et al. 2025, arXiv 2502.09992, Algorithm 3). The right-hand side is the mean log-likelihood of
the target over all orders in which its tokens can be revealed one by one. By Jensen's inequality it is at most the log
of the probability with which revealing in a random order gives the target; the two are equal where the model's
conditionals are those of one law. A model schedule takes part by the level: with l of T tokens masked, the share
(T − l)/T is clean, and the model is that of the step of ancestral sampling whose time expects this share.

Shapes: C tokens of context, T of target, n masks of one target, B rows in a pass, R masked positions in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, comb, sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.budget import logit_chunks
from understudy.denoisers.protocol import Denoiser, Positions
from understudy.errors import ModelError, PromptError, SettingError
from understudy.noise import NoiseSchedule
from understudy.reveal import philox_uniforms
from understudy.schedule import ModelSchedule

MAX_LOGITS = 2**26  # entries of the logits, in float64, held at a time
WAVE = 16  # batches whose rows are built at once
ROUNDING = 1e-12  # a share of clean tokens that lies on a boundary belongs to the later step, whatever its last digit


@dataclass(frozen=True)
class Target:
    """Token ids to score, and those before them: context (C,), C ≥ 0; target (T,), T ≥ 1.

    index: 0 … 2^64 − 1, the noise; targets of one index and length are masked in the same way.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]
    index: int = 0


@dataclass(frozen=True)
class Bound:
    """A bound on log p(target | context) in nats (at most 0), and its standard error over the masks drawn.

    standard_error: 0 where all masks were enumerated (`is_exact`), NaN where a single one was drawn.
    passes: sequences that each key's model read.
    """

    value: float
    standard_error: float
    is_exact: bool
    passes: Mapping[str, int]


@dataclass(frozen=True)
class _Masks:
    """The masks of a target: masked, bool (n, T), and the weight of each one's sum of log-probabilities, (n,)."""

    masked: NDArray[np.bool_]
    weights: NDArray[np.float64]
    is_exact: bool

    def bound(self, sums: NDArray[np.float64], keys: NDArray[np.str_]) -> Bound:
        """Put sums (n,) together. The error is that of successive differences (Wolter 2007), since levels are sorted.

        It is what remains between masks of neighbouring levels: never too small on average, as their means differ too.
        """
        terms = self.weights * sums
        error = 0.0 if self.is_exact else float("nan")
        if not self.is_exact and len(terms) > 1:
            with np.errstate(invalid="ignore"):  # between two masks without a chance, −∞: no error can be told
                steps = np.diff(len(terms) * terms)
            error = sqrt(float(np.square(steps).sum()) / (2 * len(terms) * (len(terms) - 1)))
        passes = dict(zip(*(part.tolist() for part in np.unique(keys, return_counts=True)), strict=True))
        return Bound(float(terms.sum()), error, self.is_exact, passes)


def log_likelihood_bounds(
    denoisers: Mapping[str, Denoiser],
    schedule: ModelSchedule,
    noise: NoiseSchedule,
    targets: Sequence[Target],
    *,
    mc_num: int = 128,
    seed: int = 0,
    batch_size: int = 32,
) -> Iterator[tuple[int, Bound]]:
    """Bound log p(target | context) for each target: pairs of its place in `targets` and its bound, as they come.

    schedule, noise: which model reads which level, as above; a model conditioned on time is told the time at which that
    share of clean tokens is expected. mc_num: most masks of one target, at least 1. Where all 2^T − 1 masks are no more
    than that, they are enumerated, and nothing is left to chance; else levels are drawn evenly spread (systematic
    sampling), and a set of positions for each. seed: 0 … 2^64 − 1. batch_size: most rows in a pass; rows share one
    where context and target together are equally long.

    A bound is a function of (target, seed, mc_num, models, schedule); on the CPU to the last bit. A target that the
    models give no chance has the bound −∞. Raises SettingError for numbers out of range, PromptError for an empty
    target or a token that is the mask or not in the vocabulary, ModelError for logits with NaN.
    """
    for name, value in {"mc_num": mc_num, "batch_size": batch_size}.items():
        if value < 1:
            raise SettingError(f"{name} is {value}; it must be at least 1")
    _check_tokens(denoisers, targets)
    by_length: dict[int, list[int]] = {}
    for place, target in enumerate(targets):
        by_length.setdefault(len(target.context) + len(target.target), []).append(place)
    wave = ceil(WAVE * batch_size / mc_num)
    for _, places in sorted(by_length.items(), reverse=True):  # the longest first: memory runs out at once or never
        for first in range(0, len(places), wave):
            chosen = places[first : first + wave]
            masks = [_draw_masks(len(targets[place].target), mc_num, seed, targets[place].index) for place in chosen]
            keys = [_keys(one.masked, schedule, noise) for one in masks]
            sums = _sums(denoisers, noise, [targets[place] for place in chosen], masks, keys, batch_size)
            for place, one, by_key, values in zip(chosen, masks, keys, sums, strict=True):
                yield place, one.bound(values, by_key)


def _check_tokens(denoisers: Mapping[str, Denoiser], targets: Sequence[Target]) -> None:
    model = next(iter(denoisers.values()))
    for target in targets:
        if not target.target:
            raise PromptError("a text to score is empty; give at least one token")
        for token in (*target.context, *target.target):
            if token == model.mask_id or not 0 <= token < model.vocab_size:
                raise PromptError(
                    f"a text to score holds token {token}, which is the mask ({model.mask_id}) or outside "
                    f"0 … {model.vocab_size - 1}; leave it out"
                )


def _draw_masks(length: int, mc_num: int, seed: int, index: int) -> _Masks:
    """All masks of T positions with their probabilities, or `mc_num` drawn ones, from low levels to high."""
    if length < 63 and 2**length - 1 <= mc_num:
        masked = np.array(list(product((False, True), repeat=length)))[1:]
        levels = masked.sum(axis=1)
        # A level has probability 1/T, a set of its size 1/C(T, l), and its sum counts T/l times.
        return _Masks(masked, np.array([1 / (level * comb(length, level)) for level in levels.tolist()]), True)
    offset, *rest = philox_uniforms(seed, index, 1 + mc_num * length)
    spread = (np.arange(mc_num) + offset) / mc_num
    levels = np.minimum(spread * length, length - 1).astype(np.int64) + 1
    ranks = np.array(rest).reshape(mc_num, length).argsort(axis=1).argsort(axis=1)
    return _Masks(ranks < levels[:, None], length / (levels * mc_num), False)


def _keys(masked: NDArray[np.bool_], schedule: ModelSchedule, noise: NoiseSchedule) -> NDArray[np.str_]:
    """Key of the model that reads each mask (n,)."""
    clean_after = np.asarray(noise.alpha(noise.grid(schedule.num_steps)[1:]))
    share = 1 - masked.mean(axis=1)
    steps = np.searchsorted(clean_after, share + ROUNDING, side="right").clip(max=schedule.num_steps - 1)
    return np.asarray(np.array(schedule.steps())[steps])


def _sums(
    denoisers: Mapping[str, Denoiser],
    noise: NoiseSchedule,
    targets: Sequence[Target],
    masks: Sequence[_Masks],
    keys: Sequence[NDArray[np.str_]],
    batch_size: int,
) -> list[NDArray[np.float64]]:
    """Log-probabilities of the masked tokens, summed by mask: (n,) for each target; all as long with context."""
    ids = np.concatenate(
        [
            np.tile((*target.context, *target.target), (len(one.masked), 1))
            for target, one in zip(targets, masks, strict=True)
        ]
    )
    masked = np.concatenate(
        [np.pad(one.masked, ((0, 0), (len(target.context), 0))) for target, one in zip(targets, masks, strict=True)]
    )
    shares = np.concatenate([1 - one.masked.mean(axis=1) for one in masks])
    by_row, sums = np.concatenate(keys), np.zeros(len(ids))
    for key in np.unique(by_row):
        model = denoisers[key]
        rows = np.flatnonzero(by_row == key)
        for chunk in logit_chunks(masked[rows].sum(axis=1), batch_size, model.vocab_size, MAX_LOGITS):
            some = rows[chunk]
            sums[some] = _pass(model, ids[some], masked[some], noise.inverse(shares[some]))
        if np.isnan(sums).any():
            raise ModelError(f"model {key} returned logits with NaN; is its checkpoint intact?")
    return np.split(sums, np.cumsum([len(one.masked) for one in masks])[:-1])


@torch.inference_mode()
def _pass(
    model: Denoiser, ids: NDArray[np.int64], masked: NDArray[np.bool_], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sums (B,) over the masked positions of ids (B, C + T)."""
    where = Positions(*np.nonzero(masked))
    xt = torch.from_numpy(np.where(masked, model.mask_id, ids)).to(model.device)
    logits = model.logits(xt, torch.from_numpy(times) if model.uses_time else None, where).double()
    logits[:, model.mask_id] = -torch.inf
    tokens = torch.from_numpy(ids[masked]).to(logits.device)
    found = torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None])[:, 0].cpu().numpy()
    return np.bincount(where.rows, weights=found, minlength=len(ids)).astype(np.float64)
