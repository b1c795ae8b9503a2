"""What a pass, a schedule and a run cost in FLOPs: the conventions, stated once.

2 per multiply-add; forward only; full bidirectional attention; table look-ups, norms, activations and softmax are
free. Four figures always go together:

- nominal blocks: N passes, transformer blocks alone. The convention of Sedykh et al. 2026 (arXiv 2604.02340): a quarter
  of the steps by 4 of 12 blocks saves 16.7 %.
- nominal with head: the same passes with the output head at every position.
- executed: the passes really made, with the head and the last block's queries at revealed positions only, against N
  dense heavy passes (what the published sampler makes).
- by schedule alone: the same passes, against heavy making all of them under the same reveal plan.

The reference ("heavy") is the model whose full pass costs most.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataError, SettingError
from understudy.noise import NoiseSchedule
from understudy.reveal import RevealPlan
from understudy.schedule import ModelSchedule


@dataclass(frozen=True)
class PassFlops:
    """Forward FLOPs of one pass of one sequence; `blocks` is the transformer blocks alone."""

    blocks: int
    head: int

    @property
    def total(self) -> int:
        """Blocks and head together."""
        return self.blocks + self.head


class CostedModel(Protocol):
    """Whatever knows the cost of its passes: a denoiser, or a mere shape."""

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of one pass of one sequence: full, or with logits at `revealed` positions only."""
        ...


@dataclass(frozen=True)
class TransformerShape:
    """What the cost of a transformer depends on; MLP four times as wide as the model, one head per vocabulary entry."""

    width: int
    blocks: int
    vocab_size: int

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of one pass over `length` tokens.

        A block costs 24·D² + 4·L·D per token (qkv 6D², attention 4LD, output 2D², MLP 16D²). With `revealed` given,
        the last block makes keys and values everywhere (4D² per token) and the rest at `revealed` positions, and
        the head, 2·D·V per token, reads those only.
        """
        d, per_token = self.width, 24 * self.width**2 + 4 * length * self.width
        if revealed is None:
            return PassFlops(self.blocks * length * per_token, 2 * length * d * self.vocab_size)
        last = 4 * d**2 * length + (20 * d**2 + 4 * length * d) * revealed
        return PassFlops((self.blocks - 1) * length * per_token + last, 2 * revealed * d * self.vocab_size)


@dataclass(frozen=True)
class LinearShape:
    """What the cost of any other transformer depends on, counted from its layers.

    width, blocks, vocab_size: as it calls itself. trunk, head: weights of linear layers below and above the input of
    the output head, each worth 2 FLOPs per token. attention: sum over layers of the width of all heads; full attention
    is counted, also where a network looks at a window only. around: tokens about each sequence that the
    sampler does not see. gathers: whether the head can read revealed positions alone.
    """

    width: int
    blocks: int
    vocab_size: int
    trunk: int
    head: int
    attention: int
    around: int = 0
    gathers: bool = True

    def pass_flops(self, length: int, revealed: int | None = None) -> PassFlops:
        """Cost of one pass over `length` tokens, the head at all of them or, where it gathers, at `revealed`."""
        tokens = length + self.around
        blocks = 2 * self.trunk * tokens + 4 * tokens**2 * self.attention
        return PassFlops(blocks, 2 * self.head * (tokens if revealed is None or not self.gathers else revealed))


Shape = TransformerShape | LinearShape


def read_shape(values: Mapping[str, Any]) -> Shape:
    """Shape from the plain values of `asdict`. Raises DataError where they are no shape."""
    kind = LinearShape if "trunk" in values else TransformerShape
    for name, value in values.items():
        if not isinstance(value, int) or value < (0 if name in ("around", "gathers", "head", "attention") else 1):
            raise DataError(f"{name} of a shape is {value!r}; it must be a whole number from 1")
    try:
        return kind(**values)
    except TypeError as error:
        raise DataError(f"a shape with {', '.join(values) or 'nothing'} is none ({error})") from error


@dataclass(frozen=True)
class FlopsReport:
    """The figures that are always given together; shares in [0, 1], negative where a schedule costs more.

    executed: FLOPs of all passes made, over all samples (a float where it is an expectation).
    executed_saved: against N dense passes of the reference. schedule_saved: against the reference under the same plan.
    """

    nominal_blocks_saved: float
    nominal_saved: float
    executed: float
    executed_saved: float
    schedule_saved: float

    def to_dict(self) -> dict[str, float]:
        """Plain numbers for JSON."""
        return asdict(self)


def reference_key(denoisers: Mapping[str, CostedModel], length: int) -> str:
    """Key of the model whose full pass costs most: what "heavy" means in every figure."""
    return max(denoisers, key=lambda key: denoisers[key].pass_flops(length).total)


def costliest_first(denoisers: Mapping[str, CostedModel], length: int) -> list[str]:
    """Keys of the models, from the one whose full pass costs most (`reference_key`) down."""
    return sorted(denoisers, key=lambda key: -denoisers[key].pass_flops(length).total)


def nominal_saved(denoisers: Mapping[str, CostedModel], schedule: ModelSchedule, length: int) -> tuple[float, float]:
    """Shares saved by N full passes, (blocks only, with head), against N passes of the reference."""
    full = {key: model.pass_flops(length) for key, model in denoisers.items()}
    heavy = full[reference_key(denoisers, length)]
    shares = {key: steps / schedule.num_steps for key, steps in schedule.counts.items()}
    blocks = sum(share * full[key].blocks for key, share in shares.items())
    total = sum(share * full[key].total for key, share in shares.items())
    return _saved(blocks, heavy.blocks), _saved(total, heavy.total)


def cost_report(
    denoisers: Mapping[str, CostedModel],
    schedule: ModelSchedule,
    length: int,
    *,
    samples: int,
    executed: float,
    heavy_alone: float,
) -> FlopsReport:
    """All figures, from the FLOPs that `samples` samples took and those of the same passes by the reference alone."""
    dense = samples * schedule.num_steps * denoisers[reference_key(denoisers, length)].pass_flops(length).total
    blocks, total = nominal_saved(denoisers, schedule, length)
    return FlopsReport(blocks, total, executed, _saved(executed, dense), _saved(executed, heavy_alone))


def executed_report(denoisers: Mapping[str, CostedModel], schedule: ModelSchedule, plan: RevealPlan) -> FlopsReport:
    """Cost of executing `plan` under `schedule`: exact, and known before the first pass."""
    keys, revealed = plan.event_keys(schedule), plan.events.num_revealed
    heavy = reference_key(denoisers, plan.length)
    executed = sum(_passes_cost(denoisers[key], plan.length, revealed[keys == key]) for key in schedule.keys)
    heavy_alone = _passes_cost(denoisers[heavy], plan.length, revealed)
    return cost_report(
        denoisers, schedule, plan.length, samples=plan.num_samples, executed=executed, heavy_alone=heavy_alone
    )


def expected_report(
    denoisers: Mapping[str, CostedModel],
    schedule: ModelSchedule,
    noise: NoiseSchedule,
    *,
    length: int,
    free_positions: int | None = None,
) -> FlopsReport:
    """Expected cost per sample on the uniform grid, before any plan is drawn.

    A step that reveals a position with probability p reveals none of F with probability (1 − p)^F, and R is binomial
    given that it is not zero. free_positions: F, the whole length unless given.
    """
    everything = {
        key: expected_step_flops(model, schedule.num_steps, noise, length=length, free_positions=free_positions)
        for key, model in denoisers.items()
    }
    heavy, keys = reference_key(denoisers, length), np.array(schedule.steps())
    executed = sum(float(everything[key][keys == key].sum()) for key in schedule.keys)
    heavy_alone = float(everything[heavy].sum())
    return cost_report(denoisers, schedule, length, samples=1, executed=executed, heavy_alone=heavy_alone)


def expected_step_flops(
    model: CostedModel, num_steps: int, noise: NoiseSchedule, *, length: int, free_positions: int | None = None
) -> NDArray[np.float64]:
    """Expected FLOPs of each step (N,) of one sample, were `model` to make it; as `expected_report` counts them."""
    free = length if free_positions is None else free_positions
    if not 1 <= free <= length:
        raise SettingError(f"free_positions is {free}; it must lie between 1 and the length, {length}")
    prob, is_needed = _step_probabilities(num_steps, noise, free)
    # A pass costs a fixed part and one part per revealed position.
    one, two = (model.pass_flops(length, revealed).total for revealed in (1, 2))
    per_position = two - one
    return np.asarray((one - per_position) * is_needed + per_position * free * prob)


def expected_step_passes(num_steps: int, noise: NoiseSchedule, free_positions: int) -> NDArray[np.float64]:
    """Probability (N,) that a step reveals something, and so takes a pass, on the uniform grid."""
    return _step_probabilities(num_steps, noise, free_positions)[1]


def expected_passes(schedule: ModelSchedule, noise: NoiseSchedule, free_positions: int) -> dict[str, float]:
    """Mean passes per sample by key, on the uniform grid; N·(1 − (1 − 1/N)^F) in all with log-linear noise."""
    is_needed = expected_step_passes(schedule.num_steps, noise, free_positions)
    keys = np.array(schedule.steps())
    return {key: float(is_needed[keys == key].sum()) for key in schedule.keys}


def _step_probabilities(
    num_steps: int, noise: NoiseSchedule, free: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P(a position is revealed at step k) and P(any of `free` positions is), both (N,)."""
    prob = np.diff(noise.alpha(noise.grid(num_steps)))
    with np.errstate(divide="ignore"):  # one step reveals everything: log 0
        return prob, -np.expm1(free * np.log1p(-prob))


def _passes_cost(model: CostedModel, length: int, revealed: NDArray[np.int64]) -> int:
    """FLOPs of passes that reveal the given numbers of positions (E,)."""
    values, counts = np.unique(revealed, return_counts=True)
    costs = (model.pass_flops(length, int(value)).total for value in values)
    return sum(int(count) * cost for count, cost in zip(counts, costs, strict=True))


def _saved(cost: float, reference: float) -> float:
    return 1 - cost / reference if reference else 0.0
