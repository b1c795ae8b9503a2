"""Sample schedules under the same noise and score them: a generator that the caller drives.

Differences are estimated from pairs of samples that share their noise, which takes far fewer samples.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from understudy import metrics
from understudy.denoisers import Denoiser
from understudy.driving import mapped
from understudy.evaluation.comparison import Comparison, ScheduleEvaluation, SeedScores
from understudy.evaluation.frontier import frontier_difference
from understudy.evaluation.judging import Judge, reading_of
from understudy.evaluation.scores import (
    OVERLAP_N,
    JudgedSamples,
    SampleScores,
    Scoring,
    judge_samples,
    mauve_of,
    reference_features,
    summarise_scores,
    written_texts,
)
from understudy.evaluation.tasks import Cell, ComparisonProgress, ComparisonTask, Schedules
from understudy.flops import costliest_first
from understudy.metrics import PairedDifference
from understudy.sampling import (
    Chosen,
    ConfidenceTask,
    DecodingOptions,
    SampleResult,
    StepRecord,
    result_of,
    task_steps,
)

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class SampledCell:
    """Tokens int64 (n·S, L), NLL sums and counts (n·S,) of a cell, and the seconds that sampling took.

    chosen: what the run of a rule that chooses by confidence tells; None where the plan knows it.
    """

    tokens: torch.Tensor
    nll_sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    seconds: float
    chosen: Chosen | None = None


def compare_schedules(
    denoisers: Mapping[str, Denoiser],
    schedules: Schedules,
    judge: Judge,
    *,
    temperatures: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    judge_batch_size: int | None = None,
    scoring: Scoring | None = None,
    tokenizer: Any = None,
    **options: Unpack[DecodingOptions],
) -> Generator[ComparisonProgress, None, Comparison]:
    """Sample every schedule at every temperature and score it; the generator's return value is the comparison.

    schedules: by name, or a list that names itself; the first is the reference. options: those of `decoding_task`, the
    same for all. temperatures, seeds: several, instead of the one among the options; the samples of all seeds,
    `num_samples` of each, are pooled; a template of several rows then has one for every sample of all seeds, seed by
    seed. scoring: protocol and further metrics; judge_batch_size is a short way to that of `Scoring`. tokenizer: what
    reads the models' ids; the judge's unless given. Tokens given by a prefix, suffix or template are context to the
    judge and are not scored. All requests are checked before any model runs; the first records, one for each cell, say
    what is to come. The caller drives: stop early by not asking for more.

    Raises the errors of `decoding_task`, `metrics.token_nlls` and the metrics that are asked for; SettingError
    for schedules of the same name.
    """
    scoring = Scoring() if scoring is None else scoring
    if judge_batch_size is not None:
        scoring = replace(scoring, judge_batch_size=judge_batch_size)
    task = ComparisonTask.create(
        denoisers,
        schedules,
        judge,
        temperatures=temperatures,
        seeds=seeds,
        scoring=scoring,
        tokenizer=tokenizer,
        **options,
    )
    return (yield from run_comparison(task))


def run_comparison(task: ComparisonTask) -> Generator[ComparisonProgress, None, Comparison]:
    """`compare_schedules`, of a task that is checked already."""
    sampled = yield from sample_cells(task)
    return (yield from summarise_cells(task, sampled))


def sample_cells(task: ComparisonTask) -> Generator[ComparisonProgress, None, list[SampledCell]]:
    """Sample and judge every cell; the first records, one for each, say what is to come."""
    for cell in task.cells:
        yield cell.progress("waiting", open_samples=task.num_samples, passes=0)
    sampled = []
    for cell in task.cells:
        result = yield from _sample(cell)
        passes = sum(result.nfe.values())
        yield cell.progress("judging", passes=passes)
        judged = _judge(task, cell, result)
        chosen = Chosen.of(result) if isinstance(cell.task, ConfidenceTask) else None
        sampled.append(SampledCell(result.tokens, judged.nll_sums, judged.counts, result.seconds, chosen))
        yield cell.progress("done", passes=passes)
    return sampled


def _judge(task: ComparisonTask, cell: Cell, result: SampleResult) -> JudgedSamples:
    rows, free = metrics.sample_rows(result.tokens), cell.free
    reading = reading_of(task.judge, rows, free, protocol=task.scoring.protocol, tokenizer=task.tokenizer)
    return judge_samples(task.judge, rows, free, reading, task.scoring)


def summarise_cells(
    task: ComparisonTask, sampled: Sequence[SampledCell]
) -> Generator[ComparisonProgress, None, Comparison]:
    """Turn what was sampled into figures, and compare."""
    judged = [
        JudgedSamples(metrics.sample_rows(done.tokens), cell.free, done.nll_sums, done.counts)
        for cell, done in zip(task.cells, sampled, strict=True)
    ]
    results = [
        result_of(cell.task, done.tokens, done.seconds, done.chosen)
        for cell, done in zip(task.cells, sampled, strict=True)
    ]
    overlaps = yield from _overlaps(task, judged, sum(results[-1].nfe.values()))
    scores = _scores(task, judged, overlaps)
    first = [own for cell, own in zip(task.cells, scores, strict=True) if cell.name == task.cells[0].name]
    by_temperature = dict(zip(dict.fromkeys(cell.temperature for cell in task.cells), first, strict=True))
    entries = []
    for cell, result, own in zip(task.cells, results, scores, strict=True):
        reference = by_temperature[cell.temperature]
        entry = ScheduleEvaluation(
            name=cell.name,
            label=cell.label,
            temperature=cell.temperature,
            result=result,
            scores=own,
            nll_difference=paired_difference(reference, own),
            by_seed=_by_seed(task.seeds, reference, own),
            frontier_difference=None if own is reference else frontier_difference(first, own),
        )
        entries.append(entry)
    return Comparison(tuple(entries), tuple(costliest_first(task.denoisers, task.length)), task.settings)


def _overlaps(
    task: ComparisonTask, judged: Sequence[JudgedSamples], passes: int
) -> Generator[ComparisonProgress, None, list[NDArray[np.float64]] | None]:
    """Overlap of every cell, by one look through the training text. passes: that the last cell made."""
    references = task.scoring.references
    if references is None:
        return None
    search = metrics.OverlapSearch([row for cell in judged for row in cell.written], n=OVERLAP_N)
    for chunk in references.training_chunks():
        search.look_in(chunk)
        yield task.cells[-1].progress("looking up", passes=passes)
    yield task.cells[-1].progress("done", passes=passes)
    return np.split(search.shares(), len(judged))


def _scores(
    task: ComparisonTask, judged: Sequence[JudgedSamples], overlaps: list[NDArray[np.float64]] | None
) -> list[SampleScores]:
    judge, scoring, found = task.judge, task.scoring, []
    held_out = None
    if scoring.mauve:
        held_out = reference_features(judge, scoring, count=task.num_samples, length=task.length)
    for index, cell in enumerate(judged):
        texts = written_texts(cell.written, task.tokenizer) if scoring.self_bleu else None
        mauve = None
        if held_out is not None:
            reading = reading_of(judge, cell.rows, cell.free, protocol=scoring.protocol, tokenizer=task.tokenizer)
            mauve = mauve_of(judge, reading, scoring, held_out)
        overlap = None if overlaps is None else overlaps[index]
        found.append(summarise_scores(judge, cell, scoring, texts=texts, overlaps=overlap, mauve=mauve))
    return found


def _sample(cell: Cell) -> Generator[ComparisonProgress, None, SampleResult]:
    """Run one task and report after each pass; a sample is finished when all its tokens are there."""
    masked, passes = cell.free.sum(axis=1), 0

    def report(record: StepRecord) -> ComparisonProgress:
        nonlocal passes
        passes += len(record.samples)
        masked[:] -= np.bincount(record.places, minlength=len(masked))
        return cell.progress("sampling", open_samples=int(np.count_nonzero(masked)), passes=passes)

    return (yield from mapped(task_steps(cell.task), report))


def paired_difference(
    reference: SampleScores, other: SampleScores, rows: slice = slice(None)
) -> PairedDifference | None:
    """Mean NLL per token of `other` minus that of `reference` over samples `rows`; None for fewer than two."""
    first, second = ((scores.nll_sums[rows], scores.counts[rows]) for scores in (reference, other))
    return metrics.paired_bootstrap_difference(first, second) if len(first[0]) > 1 else None


def _by_seed(seeds: Sequence[int], reference: SampleScores, own: SampleScores) -> tuple[SeedScores, ...]:
    size = own.num_samples // len(seeds)
    found = []
    for index, seed in enumerate(seeds):
        rows = slice(index * size, (index + 1) * size)
        perplexity = metrics.generative_perplexity(own.nll_sums[rows], own.counts[rows])
        entropy = float(np.mean(own.entropies[rows]))
        found.append(SeedScores(seed, size, perplexity, entropy, paired_difference(reference, own, rows)))
    return tuple(found)
