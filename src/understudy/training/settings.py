"""What a training run is made of: `TrainingConfig`, and the two schedules that depend on the step alone.

The defaults are MDLM's published recipe (arXiv 2406.07524 and its code): AdamW at 3e-4 without weight decay, 2500
steps of warm-up to a constant rate, gradient norm clipped at 1, EMA 0.9999, batches of 512 sequences, a million steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from understudy.errors import SettingError
from understudy.noise import noise_schedule

Objective = Literal["mdlm", "ar", "distillation"]
Decay = Literal["constant", "linear", "cosine"]
Precision = Literal["auto", "bf16", "fp32"]
WeightType = Literal["float32", "bf16"]

FREE_TO_CHANGE = frozenset(
    {
        *("data", "output", "micro_batch", "compile", "checkpoint_every", "checkpoint_minutes", "keep", "log_every"),
        *("validate_every", "validation_blocks", "validation_times", "sample_every", "num_samples", "weight_dtype"),
        *("initial", "teacher"),  # where they lie; what they hold is compared by digest
    }
)
"""Fields that a resumed run may set anew: none of them changes what is computed in a step, rounding aside."""

Intervals = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Validated on construction (SettingError); `to_json` and `from_json` are inverse.

    data: prepared folder (`understudy prepare`); output: the run's folder, in the end the model's.
    objective: "mdlm"; "ar" for a left-to-right Llama (a judge, or a baseline); "distillation" for a masked denoiser
        that also imitates `teacher`, the folder of another over the same tokens: at every masked position
        λ·KL(teacher ‖ model) + (1 - λ)·cross-entropy with λ = distillation_weight, both with the weight of the bound.
    initial: folder of a masked denoiser (our DiT) whose shape and weights training begins with; random ones unless
        given. times: intervals (low, high) of time in ascending order, within which blocks are noised; [0, 1] unless
        given. The loss is then the mean over them.
    hidden_size, blocks, heads: shape of the network. intermediate_size: width of the Llama's MLP; 8/3 of hidden_size,
        rounded up to a multiple of 64, unless given. tie_embeddings: head and embedding share one matrix; unless given
        the DiT does not (as published), the Llama does.
    noise: name of the noise schedule; time_conditioning: feed sigma(t) to the network (mdlm only).
    t_min: smallest time trained on; the loss weight grows like 1/t below it.
    steps; batch_size: sequences of one optimizer step, over all processes; micro_batch: sequences that one process
        takes at a time, all of its share unless given.
    learning_rate, warmup (steps), decay and min_lr_fraction (the floor, relative), beta1, beta2, epsilon,
    weight_decay, grad_clip (norm; 0 is off), ema (decay; 0 is off), dropout: the optimizer and its surroundings.
    precision: "bf16" runs matrix products under autocast, weights and optimizer stay float32; "auto" is bf16 on CUDA
        and fp32 elsewhere. compile: torch.compile the network.
    log_every, validate_every, sample_every, checkpoint_every: in steps, 0 is off (validation, samples, checkpoints by
        step); checkpoint_minutes: a checkpoint after so many minutes too, 0 is off. keep: checkpoints kept.
    validation_blocks, validation_times: size of the validation bound's grid. num_samples: texts shown.
    weight_dtype: of the model written in the end.
    """

    data: str
    output: str
    objective: Objective = "mdlm"
    hidden_size: int = 768
    blocks: int = 12
    heads: int = 12
    intermediate_size: int | None = None
    tie_embeddings: bool | None = None
    noise: str = "loglinear"
    time_conditioning: bool = False
    t_min: float = 1e-3
    steps: int = 1_000_000
    batch_size: int = 512
    micro_batch: int | None = None
    learning_rate: float = 3e-4
    warmup: int = 2500
    decay: Decay = "constant"
    min_lr_fraction: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    ema: float = 0.9999
    dropout: float = 0.1
    precision: Precision = "auto"
    compile: bool = False
    seed: int = 1
    log_every: int = 50
    validate_every: int = 5000
    validation_blocks: int = 256
    validation_times: int = 16
    sample_every: int = 0
    num_samples: int = 4
    checkpoint_every: int = 0
    checkpoint_minutes: float = 10.0
    keep: int = 2
    weight_dtype: WeightType = "float32"
    initial: str | None = None
    teacher: str | None = None
    distillation_weight: float = 0.5
    times: Intervals | None = None

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_ranges()
        if self.times is not None:  # lists, where they come from JSON
            object.__setattr__(self, "times", tuple((float(low), float(high)) for low, high in self.times))
        self._check_masked()
        if self.hidden_size % (2 * self.heads):
            raise SettingError(
                f"hidden_size {self.hidden_size} does not split into {self.heads} heads of even width; "
                f"make it a multiple of {2 * self.heads}"
            )
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise SettingError(f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}")
        noise_schedule(self.noise)

    def _check_masked(self) -> None:
        """What only masked denoisers have."""
        if self.objective == "ar" and self.time_conditioning:
            raise SettingError("time_conditioning is for objective mdlm: a left-to-right model sees no time")
        if self.objective == "ar" and (self.initial is not None or self.times is not None):
            raise SettingError("initial and times are for masked denoisers; objective ar takes neither")
        if (self.objective == "distillation") != (self.teacher is not None):
            raise SettingError(f"objective is {self.objective!r}, teacher {self.teacher!r}; distillation needs one")
        if self.times is not None:
            edges = [edge for interval in self.times for edge in interval]
            is_rising = all(low < high for low, high in self.times) and edges == sorted(edges)
            if not edges or not is_rising or edges[0] < 0 or edges[-1] > 1 or edges[-1] <= self.t_min:
                raise SettingError(
                    f"times are {self.times}; give intervals (low, high) in ascending order within 0 to 1, the last "
                    f"reaching above t_min {self.t_min}"
                )

    def _check_choices(self) -> None:
        choices = {"objective": Objective, "decay": Decay, "precision": Precision, "weight_dtype": WeightType}
        for name, kind in choices.items():
            allowed = get_args(kind)
            if getattr(self, name) not in allowed:
                raise SettingError(f"{name} is {getattr(self, name)!r}; choose one of: {', '.join(allowed)}")

    def _check_ranges(self) -> None:
        at_least_one = "hidden_size blocks heads steps batch_size log_every validation_blocks validation_times keep"
        for name in at_least_one.split():
            _require(name, getattr(self, name), 1, math.inf)
        for name in ("micro_batch", "intermediate_size"):
            if getattr(self, name) is not None:
                _require(name, getattr(self, name), 1, math.inf)
        at_least_zero = "warmup grad_clip weight_decay validate_every sample_every checkpoint_every checkpoint_minutes"
        for name in [*at_least_zero.split(), "seed", "num_samples"]:
            _require(name, getattr(self, name), 0, math.inf)
        for name in ("min_lr_fraction", "dropout", "beta1", "beta2", "ema", "distillation_weight"):
            _require(name, getattr(self, name), 0, 1)
        for name in ("learning_rate", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 < self.t_min < 1:
            raise SettingError(f"t_min is {self.t_min}; it must be above 0 and below 1")

    def to_json(self) -> dict[str, Any]:
        """All fields in JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainingConfig:
        """Inverse of `to_json`; SettingError for fields that are unknown or missing."""
        try:
            return cls(**content)
        except TypeError as error:
            raise SettingError(f"these are no training settings ({error})") from error

    def differences(self, other: TrainingConfig) -> list[str]:
        """Name the fields in which two runs differ and which no resumed run may change."""
        names = [field.name for field in fields(self) if field.name not in FREE_TO_CHANGE]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Give the rate of the optimizer step number `step` (0 is the first).

    Linear warm-up that reaches `config.learning_rate` at step warmup - 1, so that the first step is not lost at rate
    0; then constant, or down a line or half a cosine to `min_lr_fraction` of it at the last step.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.learning_rate
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - 1 - config.warmup))
    shape = 1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.min_lr_fraction + (1 - config.min_lr_fraction) * shape)


def ema_decay(decay: float, updates: int) -> float:
    """Give the decay of update number `updates` (1 is the first): min(decay, (1 + n) / (10 + n)), as MDLM has it."""
    return min(decay, (1 + updates) / (10 + updates))


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        limit = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise SettingError(f"{name} is {value}; it must be {limit}")
