"""What is to be decoded: a sampling task and the rule that says who is revealed when.

Rules that do not ask the model (`PLANNED`) come to a plan, and the lazy engine executes them. Rules that do
(`CONFIDENCE_RULES`) come to a `ConfidenceTask`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser
from understudy.errors import SettingError
from understudy.noise import NoiseSchedule
from understudy.reveal import RevealPlan, philox_uniforms
from understudy.sampling.decoding.pace import PACES, block_indices, reveal_counts
from understudy.sampling.decoding.planned import random_order_plan
from understudy.sampling.decoding.rules import CONFIDENCE_RULES, ConfidenceRule
from understudy.sampling.task import SamplingOptions, SamplingTask
from understudy.schedule import ModelSchedule

PLANNED = ("ancestral", "first_hitting", "random")
DECODINGS = (*PLANNED, *CONFIDENCE_RULES)
"""The names of all decoding rules."""


class DecodingOptions(SamplingOptions, total=False):
    """Keyword arguments of `decode` and `decoding_task`; see there."""

    decoding: str
    block_length: int | None
    threshold: float | None
    pace: str | None


@dataclass(frozen=True)
class ConfidenceTask:
    """A checked request for a rule that chooses positions by what the models say.

    request: models, schedule, template and draws; its plan is not used. decoding: a name in `CONFIDENCE_RULES`.
    block_length: 1 … L. threshold: in (0, 1], or None where the number of positions of each step is fixed by `pace`.
    seeds: n whole numbers, where samples of several seeds are pooled; that of the request unless given.
    """

    request: SamplingTask
    decoding: str
    block_length: int
    threshold: float | None
    pace: str
    seeds: Sequence[int] | None = None

    @property
    def rule(self) -> ConfidenceRule:
        """The score that positions are chosen by."""
        return CONFIDENCE_RULES[self.decoding]

    @property
    def schedule(self) -> ModelSchedule:
        """Who makes which steps."""
        return self.request.schedule

    @property
    def noise(self) -> NoiseSchedule:
        """What share of tokens is expected to be clean when."""
        return self.request.noise

    @property
    def num_passes(self) -> int | None:
        """Passes over all samples: n·N, or None with a threshold, where the models decide."""
        samples, steps = len(self.request.template), self.schedule.num_steps
        return samples * steps if self.threshold is None else None

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """Block of each position (n, L); see `block_indices`."""
        return block_indices(self.request.template == self.request.mask_id, self.block_length)

    def counts(self, sample: int) -> list[int]:
        """Positions that each step (N,) reveals of a sample; only without a threshold."""
        free = self.request.template[sample] == self.request.mask_id
        return reveal_counts(_per_block(self.blocks[sample][free]), self.schedule.num_steps, self.pace)

    def uniforms(self, sample: int, num_passes: int) -> NDArray[np.float64]:
        """Fresh uniforms (L,) of a sample for the pass after its first `num_passes`; a function of seed and index."""
        request = self.request
        seed = request.seed if self.seeds is None else self.seeds[sample]
        length = request.template.shape[1]
        return philox_uniforms(int(seed), int(request.indices[sample]), length, stream=1 + num_passes)


DecodingTask: TypeAlias = SamplingTask | ConfidenceTask
"""What `decoding_task` gives."""


def request_of(task: DecodingTask) -> SamplingTask:
    """What is asked of the models, whoever chooses the positions."""
    return task if isinstance(task, SamplingTask) else task.request


def with_request(task: DecodingTask, request: SamplingTask) -> DecodingTask:
    """The same rule for another request."""
    return request if isinstance(task, SamplingTask) else replace(task, request=request)


def part_of(task: DecodingTask, first: int, end: int, *, plan: RevealPlan | None = None) -> DecodingTask:
    """Samples first … end − 1 of a task; each is what it was. plan: theirs, where it is there already to be shared."""
    rows, whole = slice(first, end), request_of(task)
    own = replace(
        whole,
        template=whole.template[rows],
        plan=whole.plan.part(rows) if plan is None else plan,
        indices=whole.indices[rows],
    )
    part = with_request(task, own)
    return part if isinstance(part, SamplingTask) or part.seeds is None else replace(part, seeds=part.seeds[rows])


def passes_of(task: DecodingTask, first: int, end: int) -> int:
    """Passes of samples first … end − 1; 0 where only the models can say."""
    if isinstance(task, SamplingTask):
        return int(task.plan.passes_per_sample[first:end].sum())
    return 0 if task.num_passes is None else (end - first) * task.schedule.num_steps


def decoding_task(
    denoisers: Mapping[str, Denoiser],
    schedule: ModelSchedule | str | None = None,
    *,
    decoding: str = "ancestral",
    block_length: int | None = None,
    threshold: float | None = None,
    pace: str | None = None,
    **options: Unpack[SamplingOptions],
) -> DecodingTask:
    """Check a request and make it ready for `sample_steps`, or for `decode_steps` if it is a `ConfidenceTask`.

    denoisers, schedule, options: as for `SamplingTask.create`. decoding: a name in `DECODINGS`.

    - ancestral: `SamplingTask.create` and nothing else.
    - first_hitting: one position at a time, at the times of ancestral sampling with ever more steps (Zheng et al. 2024,
      arXiv 2409.02908). The step of an event, and so its model and the time that a time-conditioned model is told, is
      the one that its time falls in; N says nothing but how finely, and there is a pass for every free position.
    - random: positions in random order, as many at a step as `pace` says (LLaDA's `remasking="random"`).
    - low_confidence, margin, entropy: the positions with the highest score; see `decoding.rules`.

    The last four take:
    block_length: 1 … L, the whole length unless given. Blocks are counted from a sequence's first free position, and
        one is finished before the next.
    threshold: in (0, 1]; with low_confidence or margin. A pass reveals every position of the block whose score is at
        least that, or the best alone (Fast-dLLM, arXiv 2505.22618). A pass of a sequence of which r of F free
        positions are revealed is at step floor(r·N/F), so steps may be skipped, or take several passes.
    pace: "equal" (the default; LLaDA) or "timestep" (Dream): how many positions a step reveals where there is no
        threshold. Step k of the schedule is then the k-th pass; N is at most the number of free positions of every
        sequence and at least that of its blocks, over which steps are divided by `steps_of_blocks`.

    A model conditioned on time is told the time at which the share of free positions already revealed is expected: the
    share there is by the last three, the share of steps made by `random`. t_end is for ancestral sampling only.

    Raises the errors of `SamplingTask.create`; SettingError for options that do not go together.
    """
    _check_options(decoding, block_length, threshold, pace, options.get("t_end", 0.0))
    task = SamplingTask.create(denoisers, schedule, **options)
    if decoding == "ancestral":
        return task
    free, length = task.template == task.mask_id, task.template.shape[1]
    if decoding == "first_hitting":
        return replace(task, plan=_one_by_one(task, free))
    if block_length is not None and not 1 <= block_length <= length:
        raise SettingError(f"block_length is {block_length}; it must be from 1 to the length, {length}")
    wanted = ConfidenceTask(task, decoding, block_length or length, threshold, pace or "equal")
    if threshold is not None:
        return wanted
    _check_steps(wanted, free)
    if decoding == "random":
        counts = [wanted.counts(sample) for sample in range(len(free))]
        return replace(task, plan=random_order_plan(_one_by_one(task, free), wanted.blocks, counts, task.noise))
    return wanted


def _one_by_one(task: SamplingTask, free: NDArray[np.bool_]) -> RevealPlan:
    return RevealPlan.draw(free, task.plan.times, task.noise, seed=task.seed, indices=task.indices, one_by_one=True)


def _per_block(blocks: NDArray[np.int64]) -> list[int]:
    """Count free positions block by block, from the block (F,) of each; blocks without any are left out."""
    return [int(count) for count in np.unique(blocks, return_counts=True)[1]]


def _check_options(
    decoding: str, block_length: int | None, threshold: float | None, pace: str | None, t_end: float
) -> None:
    """Raise SettingError for what can be said without a model."""
    if decoding not in DECODINGS:
        raise SettingError(f"decoding is {decoding!r}; it must be one of: {', '.join(DECODINGS)}")
    if decoding != "ancestral" and t_end != 0:
        raise SettingError(f"t_end is {t_end}, which goes with ancestral decoding only, not with {decoding}; leave it")
    if decoding in ("ancestral", "first_hitting"):
        for name, value in {"block_length": block_length, "threshold": threshold, "pace": pace}.items():
            if value is not None:
                raise SettingError(
                    f"{name} does not go with {decoding} decoding; leave it out or choose low_confidence"
                )
    if threshold is not None:
        rated = [name for name, rule in CONFIDENCE_RULES.items() if rule.is_probability]
        if decoding not in rated:
            raise SettingError(f"threshold goes with {' or '.join(rated)}, not with {decoding}; leave it out")
        if not 0 < threshold <= 1:
            raise SettingError(f"threshold is {threshold}; it must be a probability above 0 and at most 1")
        if pace is not None:
            raise SettingError("threshold and pace both say how many positions a step reveals; give one of them")
    if pace is not None and pace not in PACES:
        raise SettingError(f"pace is {pace!r}; it must be one of: {', '.join(PACES)}")


def _check_steps(task: ConfidenceTask, free: NDArray[np.bool_]) -> None:
    """Raise SettingError unless every step can reveal a position of every sequence, and every block has a step."""
    num_steps = task.schedule.num_steps
    fewest = int(free.sum(axis=1).min())
    if num_steps > fewest:
        raise SettingError(
            f"{num_steps} steps are too many for {task.decoding} decoding, which reveals at least one token a step, "
            f"where {fewest} are to be sampled; take at most {fewest} steps (a schedule in per cent fits any number)"
        )
    most = max(len(_per_block(row[own])) for row, own in zip(task.blocks, free, strict=True))
    if num_steps < most:
        raise SettingError(
            f"{num_steps} steps are too few for {most} blocks of {task.block_length} tokens, which take at least one "
            "each; take more steps or longer blocks"
        )
