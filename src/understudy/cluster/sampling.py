"""Sampling by many workers: a sample is a function of (seed, index), so each takes a stretch of them."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch

from understudy.cluster.parts import Arrays, FinishedParts, stretch_size
from understudy.denoisers import Denoiser
from understudy.driving import mapped
from understudy.flops import FlopsReport, nominal_saved, reference_key
from understudy.sampling import ConfidenceTask, SampleResult, SamplingTask, decode_steps, sample_steps
from understudy.work import Finished, Tools, Workforce

Task: TypeAlias = SamplingTask | ConfidenceTask


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

    task: Task

    def run(self, tools: Tools) -> Generator[int, None, Arrays]:
        """Yields passes; gives tokens (n, L), seconds (1,) and, where the models choose positions, what that cost."""
        task = with_models(self.task, tools.denoisers)
        steps = sample_steps(task) if isinstance(task, SamplingTask) else decode_steps(task)
        result = yield from mapped(steps, lambda record: len(record.samples))
        own = {"tokens": result.tokens.numpy().astype(np.int32), "seconds": np.array([result.seconds])}
        if isinstance(task, SamplingTask):
            return own  # the rest is known from the plan
        own["reveal_step"] = result.reveal_step.astype(np.int32)
        own["passes"] = np.array([[result.nfe[key] for key in task.schedule.keys]])
        executed = result.flops.executed
        own["flops"] = np.array([[executed, executed / (1 - result.flops.schedule_saved)]])
        return own


def sample_on_cluster(
    tasks: Sequence[Task], workforce: Workforce, parts: FinishedParts | None = None
) -> Generator[SamplingProgress, None, list[SampleResult]]:
    """Sample all tasks by a workforce whose models are theirs; the return value is the result of each.

    parts: where finished stretches are kept; sampling that was stopped goes on from them, by any number of workers. On
    the CPU the tokens are those of one process to the last bit. Seconds are those of all workers together. Raises what
    `sample_steps` raises, and the errors of the workforce and of `parts`.
    """
    kept = FinishedParts() if parts is None else parts
    totals = [len(request(task).template) for task in tasks]
    size = stretch_size(totals, request(tasks[0]).batch_size, len(workforce))
    missing = {
        f"{number} {first}:{end}": (number, first, end)
        for number, total in enumerate(totals)
        for first, end in kept.gaps(number, total, size)
    }
    passes = [task.num_passes for task in tasks]
    known = [count for count in passes if count is not None]
    num_passes = sum(known) if len(known) == len(passes) else None
    samples_done = sum(totals) - sum(end - first for _, first, end in missing.values())
    units = ((name, SampledStretch(part_of(tasks[own[0]], *own[1:]))) for name, own in missing.items())
    passes_done = 0 if num_passes is None else num_passes - sum(_passes(tasks[n], a, b) for n, a, b in missing.values())
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


def request(task: Task) -> SamplingTask:
    """What is asked of the models, whoever chooses the positions."""
    return task if isinstance(task, SamplingTask) else task.request


def part_of(task: Task, first: int, end: int) -> Task:
    """Samples first … end − 1 of a task, without models."""
    rows, whole = slice(first, end), request(task)
    template, indices = whole.template[rows], whole.indices[rows]
    part = replace(whole, denoisers={}, template=template, plan=whole.plan.part(rows), indices=indices)
    return part if isinstance(task, SamplingTask) else replace(task, request=part)


def with_models(task: Task, denoisers: Mapping[str, Denoiser]) -> Task:
    """The same with models."""
    own = replace(request(task), denoisers=denoisers)
    return own if isinstance(task, SamplingTask) else replace(task, request=own)


def _passes(task: Task, first: int, end: int) -> int:
    if isinstance(task, SamplingTask):
        return int(task.plan.passes_per_sample[first:end].sum())
    return (end - first) * task.schedule.num_steps


def _result(task: Task, own: Arrays) -> SampleResult:
    tokens, seconds = torch.from_numpy(own["tokens"].astype(np.int64)), float(own["seconds"].sum())
    if isinstance(task, SamplingTask):
        nfe = task.plan.num_passes(task.schedule)
        return SampleResult(tokens, task.plan.reveal_step, task.schedule, nfe, task.flops, seconds)
    nfe = dict(zip(task.schedule.keys, own["passes"].sum(axis=0).tolist(), strict=True))
    reveal_step = own["reveal_step"].astype(np.int64)
    return SampleResult(tokens, reveal_step, task.schedule, nfe, _confidence_flops(task, own), seconds)


def _confidence_flops(task: ConfidenceTask, own: Arrays) -> FlopsReport:
    """Cost of passes that no plan knew, from what each part made."""
    models, (samples, length) = task.request.denoisers, task.request.template.shape
    executed, heavy_alone = own["flops"].sum(axis=0).tolist()
    dense = samples * task.schedule.num_steps * models[reference_key(models, length)].pass_flops(length).total
    blocks, total = nominal_saved(models, task.schedule, length)
    return FlopsReport(blocks, total, executed, 1 - executed / dense, 1 - executed / heavy_alone)
