"""What is to be sampled: models, schedule, template and plan, checked before any model runs.

Shapes: n samples, L length, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from understudy.denoisers.protocol import Denoiser
from understudy.errors import PairingError, PromptError, SettingError
from understudy.flops import FlopsReport, executed_report, reference_key
from understudy.noise import NoiseSchedule, noise_schedule
from understudy.reveal import RevealPlan
from understudy.sampling.draw import check_draw_settings
from understudy.schedule import ModelSchedule


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of `sample` and `SamplingTask.create`; see there."""

    length: int | None
    num_samples: int
    steps: int | None
    seed: int
    first_index: int
    indices: Sequence[int] | None
    prefix: Sequence[int] | None
    suffix: Sequence[int] | None
    template: ArrayLike | None
    noise: str | None
    t_end: float
    temperature: float
    top_p: float
    batch_size: int
    cuda_graphs: bool


@dataclass(frozen=True)
class SamplingTask:
    """A checked request: everything a sampler needs, and everything a progress bar wants to know beforehand.

    template: int64 (n, L), the mask id at free positions. plan: who is revealed when. indices: of the n samples.
    """

    denoisers: Mapping[str, Denoiser]
    schedule: ModelSchedule
    template: NDArray[np.int64]
    plan: RevealPlan
    noise: NoiseSchedule
    seed: int
    indices: Sequence[int]
    temperature: float
    top_p: float
    batch_size: int
    cuda_graphs: bool = True

    @classmethod
    def create(
        cls,
        denoisers: Mapping[str, Denoiser],
        schedule: ModelSchedule | str | None = None,
        *,
        length: int | None = None,
        num_samples: int = 1,
        steps: int | None = None,
        seed: int = 0,
        first_index: int = 0,
        indices: Sequence[int] | None = None,
        prefix: Sequence[int] | None = None,
        suffix: Sequence[int] | None = None,
        template: ArrayLike | None = None,
        noise: str | None = None,
        t_end: float = 0.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int = 32,
        cuda_graphs: bool = True,
    ) -> "SamplingTask":
        """Check a request and draw its plan.

        denoisers: models by schedule key. schedule: None lets the costliest model make all `steps`.
        length: L; the shortest `max_length` of the models unless given. num_samples: n ≥ 1.
        steps: N ≥ 1; needed where the schedule does not say it. seed, first_index: sample i is a function of (seed,
        first_index + i), the models and the schedule; indices: n numbers to stand in for first_index + i.
        prefix, suffix: token ids kept at the ends of every sample.
        template: token ids (L,) or (n, L) with the mask id where a token is wanted, instead of prefix and suffix.
        noise: "loglinear" or "cosine"; that of the time-conditioned models unless given, else log-linear.
        t_end: where the time grid stops; above 0 a clean-up pass reveals the rest.
        temperature, top_p: as in `draw.probabilities`. batch_size: most sequences in one pass.
        cuda_graphs: on a GPU, capture passes as CUDA graphs where the models allow it.

        Raises ScheduleError, PairingError, PromptError or SettingError.
        """
        check_draw_settings(temperature, top_p)
        _check_positive(num_samples=num_samples, batch_size=batch_size, steps=steps, length=length)
        mask_id, vocab_size = _check_pairing(denoisers)
        if template is None:
            length = length if length is not None else default_length(denoisers)
            row = fill_template(length, mask_id, _given(prefix, "prefix"), _given(suffix, "suffix"))
            canvas = np.tile(row, (num_samples, 1))
        else:
            canvas = _given_template(template, num_samples, length, prefix, suffix)
        _check_canvas(canvas, mask_id, vocab_size, denoisers)
        model_schedule = _resolve_schedule(denoisers, schedule, steps, canvas.shape[1])
        law = _resolve_noise(denoisers, noise)
        times = law.grid(model_schedule.num_steps, t_end)
        if indices is None:
            indices = range(first_index, first_index + num_samples)
        elif len(indices) != num_samples:
            raise SettingError(f"{len(indices)} indices are given for {num_samples} samples; give one for each")
        plan = RevealPlan.draw(canvas == mask_id, times, law, seed=seed, indices=indices)
        return cls(
            denoisers, model_schedule, canvas, plan, law, seed, indices, temperature, top_p, batch_size, cuda_graphs
        )

    @property
    def mask_id(self) -> int:
        """The mask token, the same for all models."""
        return next(iter(self.denoisers.values())).mask_id

    @property
    def num_passes(self) -> int:
        """Passes over all samples and models: the exact total of a progress bar."""
        return len(self.plan.events)

    @property
    def flops(self) -> FlopsReport:
        """What executing the plan costs."""
        return executed_report(self.denoisers, self.schedule, self.plan)


def fill_template(
    length: int, mask_id: int, prefix: Sequence[int] = (), suffix: Sequence[int] = ()
) -> NDArray[np.int64]:
    """Template (L,) with the given ends and masks between. Raises PromptError where they leave no room."""
    given = len(prefix) + len(suffix)
    if given >= length:
        raise PromptError(
            f"prefix and suffix hold {given} tokens, which leaves nothing to sample at length {length}; "
            "shorten them or raise the length"
        )
    row = np.full(length, mask_id, dtype=np.int64)
    row[: len(prefix)] = prefix
    row[length - len(suffix) :] = suffix
    if np.count_nonzero(row != mask_id) != given:
        raise PromptError(f"prefix or suffix holds the mask token {mask_id}; leave it out, or give a template")
    return row


def _given(ids: Sequence[int] | None, what: str) -> list[int]:
    """Plain ids of a prefix or suffix; none where it is left out."""
    if ids is None:
        return []
    if len(ids) == 0:
        raise PromptError(f"the {what} is empty; give some tokens, or leave it out")
    return [int(token) for token in ids]


def _resolve_noise(denoisers: Mapping[str, Denoiser], name: str | None) -> NoiseSchedule:
    """A model that reads the time must be sampled under the noise it was trained with."""
    trained = {model.noise for model in denoisers.values() if model.uses_time and model.noise is not None}
    chosen = name if name is not None else min(trained, default="loglinear")
    if trained - {chosen}:
        raise SettingError(
            f"noise is {chosen}, but a model that is conditioned on time was trained with {min(trained - {chosen})}; "
            "sample with the noise of training"
        )
    return noise_schedule(chosen)


def _check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise SettingError(f"{name} is {value}; it must be at least 1")


def _check_pairing(denoisers: Mapping[str, Denoiser]) -> tuple[int, int]:
    """Give the mask id and vocabulary size that all models share."""
    if not denoisers:
        raise SettingError("no model is given; bind at least one to a key, such as {'H': heavy}")
    for what in ("vocab_size", "mask_id"):
        values = {key: getattr(model, what) for key, model in denoisers.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{key} has {value}" for key, value in values.items())
            raise PairingError(f"the models differ in {what} ({listed}); they must share one vocabulary")
    first = next(iter(denoisers.values()))
    return first.mask_id, first.vocab_size


def default_length(denoisers: Mapping[str, Denoiser]) -> int:
    """Give the most tokens that every model takes. SettingError where none sets a maximum."""
    known = [model.max_length for model in denoisers.values() if model.max_length is not None]
    if not known:
        raise SettingError("the models set no maximum length; give a length")
    return min(known)


def _given_template(
    template: ArrayLike,
    num_samples: int,
    length: int | None,
    prefix: Sequence[int] | None,
    suffix: Sequence[int] | None,
) -> NDArray[np.int64]:
    if prefix is not None or suffix is not None:
        raise PromptError("a template already says what is given; leave out prefix and suffix")
    canvas = np.atleast_2d(np.asarray(template))
    if canvas.size == 0 or not np.issubdtype(canvas.dtype, np.integer):
        raise PromptError("a template holds token ids: whole numbers, at least one; the mask id stands for a gap")
    canvas = canvas.astype(np.int64)
    if canvas.ndim != 2 or canvas.shape[1] != (length or canvas.shape[1]):
        raise PromptError(f"the template has shape {np.shape(template)}; it must be (L,) or (n, L) with L = {length}")
    if len(canvas) not in (1, num_samples):
        raise PromptError(f"the template has {len(canvas)} rows for {num_samples} samples; give one row or as many")
    return np.tile(canvas, (num_samples // len(canvas), 1))


def _check_canvas(canvas: NDArray[np.int64], mask_id: int, vocab_size: int, denoisers: Mapping[str, Denoiser]) -> None:
    if canvas.min() < 0 or canvas.max() >= vocab_size:
        raise PromptError(f"a given token id is outside 0 … {vocab_size - 1}; was it made by another tokenizer?")
    if not (canvas == mask_id).any(axis=1).all():
        raise PromptError(f"a template holds no mask token ({mask_id}), so there is nothing to sample")
    for key, model in denoisers.items():
        unreadable: frozenset[int] = getattr(model, "unreadable", frozenset())
        if strange := unreadable.intersection(np.unique(canvas).tolist()):
            raise PromptError(f"token {min(strange)} is given, which is no token to every model; leave it out")
        if model.max_length is not None and canvas.shape[1] > model.max_length:
            raise SettingError(f"length is {canvas.shape[1]}; model {key} takes at most {model.max_length}")


def _resolve_schedule(
    denoisers: Mapping[str, Denoiser], schedule: ModelSchedule | str | None, steps: int | None, length: int
) -> ModelSchedule:
    if schedule is None:
        if steps is None:
            raise SettingError("neither a schedule nor a number of steps is given; give one of them")
        return ModelSchedule.single(steps, reference_key(denoisers, length))
    resolved = ModelSchedule.parse(schedule, steps) if isinstance(schedule, str) else schedule
    if steps is not None and resolved.num_steps != steps:
        raise SettingError(f"the schedule has {resolved.num_steps} steps but steps is {steps}; make them agree")
    unbound = [key for key in resolved.keys if key not in denoisers]
    if unbound:
        raise SettingError(
            f"the schedule {resolved} names {', '.join(unbound)}, but models are bound to "
            f"{', '.join(denoisers)} only; bind the missing key or change the schedule"
        )
    return resolved


def device_of(denoisers: Mapping[str, Denoiser]) -> torch.device:
    """Device on which the canvas lives: that of the first model."""
    return next(iter(denoisers.values())).device
