"""Sampling by many workers: a sample is a function of (seed, index), so each takes a stretch of them."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from understudy.cluster.parts import Arrays, FinishedParts, stretch_size
from understudy.denoisers import Denoiser
from understudy.driving import mapped
from understudy.sampling import (
    Chosen,
    DecodingTask,
    SampleResult,
    SamplingTask,
    part_of,
    passes_of,
    request_of,
    result_of,
    task_steps,
    with_request,
)
from understudy.work import Finished, Tools, Workforce


@dataclass(frozen=True)
class SamplingProgress:
    """How far all tasks together are. num_passes: None where the models decide how many there will be."""

    samples_done: int
    num_samples: int
    passes_done: int
    num_passes: int | None


@dataclass(frozen=True)
class SampledStretch:
    """Some samples of a task, which is without models."""

    task: DecodingTask

    def run(self, tools: Tools) -> Generator[int, None, Arrays]:
        """Yields passes; gives tokens (n, L), seconds (1,) and, where the models choose positions, what that cost."""
        task = with_models(self.task, tools.denoisers)
        result = yield from mapped(task_steps(task), lambda record: len(record.samples))
        own = {"tokens": result.tokens.numpy().astype(np.int32), "seconds": np.array([result.seconds])}
        return own if isinstance(task, SamplingTask) else own | Chosen.of(result).arrays()


def sample_on_cluster(
    tasks: Sequence[DecodingTask], workforce: Workforce, parts: FinishedParts | None = None
) -> Generator[SamplingProgress, None, list[SampleResult]]:
    """Sample all tasks by a workforce whose models are theirs; the return value is the result of each.

    parts: where finished stretches are kept; sampling that was stopped goes on from them, by any number of workers. On
    the CPU the tokens are those of one process to the last bit. Seconds are those of all workers together. Raises what
    `sample_steps` raises, and the errors of the workforce and of `parts`.
    """
    kept = FinishedParts() if parts is None else parts
    totals = [len(request_of(task).template) for task in tasks]
    size = stretch_size(totals, request_of(tasks[0]).batch_size, len(workforce))
    missing = {
        f"{number} {first}:{end}": (number, first, end)
        for number, total in enumerate(totals)
        for first, end in kept.gaps(number, total, size)
    }
    passes = [task.num_passes for task in tasks]
    known = [count for count in passes if count is not None]
    num_passes = sum(known) if len(known) == len(passes) else None
    samples_done = sum(totals) - sum(end - first for _, first, end in missing.values())
    units = ((name, SampledStretch(with_models(part_of(tasks[own[0]], *own[1:]), {}))) for name, own in missing.items())
    passes_done = (
        0 if num_passes is None else num_passes - sum(passes_of(tasks[n], a, b) for n, a, b in missing.values())
    )
    yield SamplingProgress(samples_done, sum(totals), passes_done, num_passes)
    for event in workforce.do(units):
        if isinstance(event, Finished):
            number, first, end = missing[event.unit]
            kept.put(number, first, end, event.result)
            samples_done += end - first
        else:
            passes_done += event.amount
        yield SamplingProgress(samples_done, sum(totals), passes_done, num_passes)
    return [_result(task, kept.joined(number)) for number, task in enumerate(tasks)]


def with_models(task: DecodingTask, denoisers: Mapping[str, Denoiser]) -> DecodingTask:
    """The same with models."""
    return with_request(task, replace(request_of(task), denoisers=denoisers))


def _result(task: DecodingTask, own: Arrays) -> SampleResult:
    tokens, seconds = torch.from_numpy(own["tokens"].astype(np.int64)), float(own["seconds"].sum())
    return result_of(task, tokens, seconds, Chosen.from_arrays(own))
