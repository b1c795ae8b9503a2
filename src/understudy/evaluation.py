"""Score samples with a judge, and compare schedules under the same noise.

Schedules that are compared are sampled under one seed, so sample i of each shares its reveal plan and uniforms with
sample i of the others; differences are then estimated from pairs, which takes far fewer samples.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from understudy import metrics
from understudy.denoisers import Denoiser, load_judge
from understudy.errors import DataError, SettingError
from understudy.metrics import PairedDifference, Tokens
from understudy.sampling import SampleResult, SamplingOptions, SamplingTask, sample_steps
from understudy.schedule import ModelSchedule
from understudy.tokenizer_files import load_tokenizer

Stage: TypeAlias = Literal["waiting", "sampling", "judging", "done"]


@dataclass(frozen=True)
class Judge:
    """A causal language model that scores samples, the tokenizer it reads with, and the name it is reported under."""

    model: Any
    tokenizer: Any
    name: str

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> "Judge":
        """Load from a folder or hub id that holds both. Raises ModelError or DataError where it does not."""
        return cls(load_judge(path, device=device), load_tokenizer(path), str(path))


@dataclass(frozen=True)
class SampleScores:
    """What the judge and the counts say of n samples; see `metrics` for the definitions.

    gen_ppl_ci95: bootstrap over samples; None for a single sample. entropy, entropy_se: mean of the samples' token
    entropies in nats and its standard error. context_length: of the judge; longer samples were read in windows.
    nll_sums, counts, entropies: per sample, kept so that schedules can be paired and other intervals computed.
    """

    gen_ppl: float
    gen_ppl_ci95: tuple[float, float] | None
    entropy: float
    entropy_se: float | None
    distinct_1: float
    distinct_2: float | None
    num_samples: int
    judge: str
    context_length: int | None
    nll_sums: tuple[float, ...]
    counts: tuple[int, ...]
    entropies: tuple[float, ...]

    def to_dict(self, *, per_sample: bool = False) -> dict[str, Any]:
        """Plain values for JSON; `per_sample` adds the sums, counts and entropies of each sample."""
        numbers = {"num_tokens": sum(self.counts), **asdict(self)}
        interval = self.gen_ppl_ci95
        numbers["gen_ppl_ci95"] = None if interval is None else list(interval)
        lists = {name: list(numbers.pop(name)) for name in ("nll_sums", "counts", "entropies")}
        return {**numbers, **lists} if per_sample else numbers


def score_tokens(
    judge: Judge,
    tokens: Tokens,
    *,
    free: NDArray[np.bool_] | None = None,
    batch_size: int = 8,
    bos_id: int | None = None,
) -> SampleScores:
    """Score samples given as ids of the judge's own vocabulary.

    free: bool (n, L), false where a token was given and not sampled; such tokens are read by the judge as context and
    counted nowhere. The other arguments, and the errors, are those of `metrics.token_nlls`.
    """
    rows = metrics.sample_rows(tokens)
    nlls = metrics.token_nlls(judge.model, rows, batch_size=batch_size, bos_id=bos_id, scored=free)
    sums, counts = [float(values.sum()) for values in nlls], [len(values) for values in nlls]
    written = rows if free is None else [row[keep] for row, keep in zip(rows, free, strict=True)]
    entropies = metrics.token_entropy(written)
    entropy, entropy_se = metrics.mean_and_error(entropies)
    return SampleScores(
        gen_ppl=metrics.generative_perplexity(sums, counts),
        gen_ppl_ci95=metrics.bootstrap_interval(sums, counts) if len(rows) > 1 else None,
        entropy=entropy,
        entropy_se=entropy_se,
        distinct_1=metrics.distinct_n(written, 1),
        distinct_2=metrics.distinct_n(written, 2) if max(map(len, written)) > 1 else None,
        num_samples=len(rows),
        judge=judge.name,
        context_length=metrics.context_length(judge.model),
        nll_sums=tuple(sums),
        counts=tuple(counts),
        entropies=tuple(entropies.tolist()),
    )


@dataclass(frozen=True)
class ComparisonProgress:
    """How far one schedule of a comparison has come. `num_passes` is exact, and known before the first pass."""

    name: str
    schedule: ModelSchedule
    stage: Stage
    samples_done: int
    num_samples: int
    passes_done: int
    num_passes: int


@dataclass(frozen=True)
class ScheduleEvaluation:
    """One schedule of a comparison. nll_difference: to the first schedule; None where one sample cannot say."""

    name: str
    result: SampleResult
    scores: SampleScores
    nll_difference: PairedDifference | None

    @property
    def within_noise(self) -> bool | None:
        """Whether these samples leave open that the schedule is as good as the first one."""
        return None if self.nll_difference is None else self.nll_difference.within_noise

    @property
    def relative_cost(self) -> float:
        """Executed FLOPs relative to the heavy model alone under the same plan."""
        return 1 - self.result.flops.schedule_saved

    def to_dict(self, *, per_sample: bool = False) -> dict[str, Any]:
        """Plain values for JSON."""
        paired, result = self.nll_difference, self.result
        return {
            "name": self.name,
            "schedule": str(result.schedule),
            **self.scores.to_dict(per_sample=per_sample),
            "nll_difference": None if paired is None else paired.difference,
            "nll_difference_ci95": None if paired is None else [paired.low, paired.high],
            "within_noise": self.within_noise,
            "nfe": result.nfe,
            "flops": result.flops.to_dict(),
            "seconds": round(result.seconds, 3),
        }


@dataclass(frozen=True)
class Comparison:
    """Schedules sampled under the same noise and scored by one judge; the first entry is the reference.

    models: keys of the denoisers, the costliest (what FLOPs are relative to) first. settings: what was asked for.
    """

    entries: tuple[ScheduleEvaluation, ...]
    models: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def reference(self) -> ScheduleEvaluation:
        """The schedule that the others are compared with."""
        return self.entries[0]

    def to_dict(self, *, per_sample: bool = False) -> dict[str, Any]:
        """Plain values for JSON."""
        num_samples, length = self.reference.result.tokens.shape
        return {
            "reference": self.reference.name,
            "judge": self.reference.scores.judge,
            "context_length": self.reference.scores.context_length,
            "num_samples": num_samples,
            "length": length,
            "models": list(self.models),
            "settings": dict(self.settings),
            "bootstrap": {"resamples": metrics.RESAMPLES, "confidence": metrics.CONFIDENCE, "unit": "sample"},
            "schedules": [entry.to_dict(per_sample=per_sample) for entry in self.entries],
        }


def compare_schedules(
    denoisers: Mapping[str, Denoiser],
    schedules: Mapping[str, ModelSchedule | str] | Sequence[ModelSchedule | str],
    judge: Judge,
    *,
    judge_batch_size: int = 8,
    **options: Unpack[SamplingOptions],
) -> Generator[ComparisonProgress, None, Comparison]:
    """Sample every schedule under the same seed and score it; the generator's return value is the comparison.

    schedules: by name, or a list that names itself; the first is the reference. options: those of
    `SamplingTask.create`, the same for all. Tokens given by a prefix, suffix or template are context to the judge and
    are not scored. All requests are checked before any model runs; the first records, one for each schedule, say
    what is to come. The caller drives: stop early by not asking for more.

    Raises the errors of `SamplingTask.create` and `metrics.token_nlls`; SettingError for schedules of the same name.
    """
    named = _named(schedules)
    tasks = {name: SamplingTask.create(denoisers, schedule, **options) for name, schedule in named.items()}
    for name, task in tasks.items():
        yield _progress(name, task, "waiting", task.plan.num_samples, 0)
    entries: list[ScheduleEvaluation] = []
    for name, task in tasks.items():
        result = yield from _sample(name, task)
        yield _progress(name, task, "judging", 0, task.num_passes)
        scores = score_tokens(judge, result.tokens, free=result.reveal_step >= 0, batch_size=judge_batch_size)
        paired = _paired(entries[0].scores if entries else scores, scores)
        entries.append(ScheduleEvaluation(name, result, scores, paired))
        yield _progress(name, task, "done", 0, task.num_passes)
    length = tasks[entries[0].name].plan.length
    keys = sorted(denoisers, key=lambda key: -denoisers[key].pass_flops(length).total)
    return Comparison(tuple(entries), tuple(keys), {name: _plain(value) for name, value in options.items()})


def _named(schedules: Mapping[str, ModelSchedule | str] | Sequence[ModelSchedule | str]) -> dict[str, Any]:
    named = dict(schedules) if isinstance(schedules, Mapping) else {str(item): item for item in schedules}
    if not named or len(named) != len(schedules):
        raise SettingError(f"{len(schedules)} schedules with {len(named)} names are given; give one or more, each once")
    return named


def _sample(name: str, task: SamplingTask) -> Generator[ComparisonProgress, None, SampleResult]:
    """Run one task and report after each pass."""
    remaining = np.bincount(task.plan.events.samples, minlength=task.plan.num_samples)
    passes, steps = 0, sample_steps(task)
    while True:
        try:
            record = next(steps)
        except StopIteration as stop:
            result: SampleResult = stop.value
            return result
        remaining[record.samples] -= 1
        passes += len(record.samples)
        yield _progress(name, task, "sampling", int(np.count_nonzero(remaining)), passes)


def _progress(name: str, task: SamplingTask, stage: Stage, open_samples: int, passes: int) -> ComparisonProgress:
    total = task.plan.num_samples
    return ComparisonProgress(name, task.schedule, stage, total - open_samples, total, passes, task.num_passes)


def _paired(reference: SampleScores, other: SampleScores) -> PairedDifference | None:
    if other.num_samples < 2:
        return None
    return metrics.paired_bootstrap_difference((reference.nll_sums, reference.counts), (other.nll_sums, other.counts))


def _plain(value: Any) -> Any:
    is_array = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    return np.asarray(value).tolist() if is_array else value


def check_vocabulary(tokenizer: Any, judge: Judge) -> None:
    """Raise DataError unless the judge reads every id that it knows as `tokenizer` does.

    Ids beyond the judge's vocabulary, such as a mask token added last, do not count: no sample holds them.
    """
    theirs = {index: token for token, index in judge.tokenizer.get_vocab().items()}
    for token, index in tokenizer.get_vocab().items():
        if index in theirs and theirs[index] != token:
            raise DataError(
                f"judge {judge.name} reads token {index} as {theirs[index]!r}, the models as {token!r}; "
                "give a judge that shares the models' tokenizer"
            )
