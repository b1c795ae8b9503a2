"""The lazy ancestral sampler: executes a reveal plan, and nothing that cannot change the sample.

Exact: the law of a sample is that of ancestral sampling on the plan's grid (arXiv 2406.07524), whatever the batch
size and however sequences are grouped. Shapes: n samples, L length, B sequences in a pass, R revealed positions.
"""

import time
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Unpack

import numpy as np
import torch

from understudy.denoisers.protocol import Denoiser
from understudy.driving import run_to_end
from understudy.errors import ModelError
from understudy.sampling.graphs import passes_on
from understudy.sampling.queue import PassQueue
from understudy.sampling.result import SampleResult, StepRecord
from understudy.sampling.task import SamplingOptions, SamplingTask, device_of
from understudy.schedule import ModelSchedule


def sample(
    denoisers: Mapping[str, Denoiser], schedule: ModelSchedule | str | None = None, **options: Unpack[SamplingOptions]
) -> SampleResult:
    """Sample sequences from models that share the steps as the schedule says.

    denoisers: models by schedule key. schedule: such as "L125,H750,L125"; None lets the costliest model make all
    `steps`. options: length, num_samples, steps, seed, prefix, suffix, template, noise, t_end, temperature, top_p,
    batch_size, first_index, cuda_graphs; see `SamplingTask.create` for ranges and defaults.

    A sample is a function of (seed, its index, models, schedule). On the CPU it is the same to the last bit whatever
    batch it rode in; on a GPU the rounding of matrix products depends on the batch, so a token can differ where its
    uniform falls within that rounding of a boundary. Raises the errors of `SamplingTask.create`, and ModelError where
    a model returns NaN.
    """
    return run_to_end(sample_steps(SamplingTask.create(denoisers, schedule, **options)))


def sample_steps(task: SamplingTask) -> Generator[StepRecord, None, SampleResult]:
    """Execute a task pass by pass, yielding a record of each; the generator's return value is the result.

    The caller drives: stop early by not asking for more. `task.num_passes` is the sum of `len(record.samples)`.
    """
    started = time.perf_counter()
    device = device_of(task.denoisers)
    spare = np.full((1, task.template.shape[1]), task.mask_id)
    canvas = torch.tensor(np.concatenate([task.template, spare]), device=device)  # a copy: the task stays as it is
    passes = passes_on(canvas, task, cuda_graphs=task.cuda_graphs)
    nfe: Counter[str] = Counter(dict.fromkeys(task.schedule.keys, 0))
    for batch in passes.run(PassQueue(task.plan, task.schedule, task.batch_size)):
        if device.type == "cpu":  # elsewhere looking would synchronise: once, at the end
            _check_healthy(passes.is_healthy, batch.key)
        nfe[batch.key] += len(batch.samples)
        yield StepRecord(batch.key, batch.samples, batch.steps, batch.where.rows, batch.where.cols, canvas)
    _check_healthy(passes.is_healthy, " or ".join(task.schedule.keys))
    seconds = time.perf_counter() - started
    return SampleResult(canvas[:-1].cpu(), task.plan.reveal_step, task.schedule, dict(nfe), task.flops, seconds)


def _check_healthy(is_healthy: torch.Tensor, key: str) -> None:
    if not bool(is_healthy):
        raise ModelError(f"model {key} returned logits with NaN or no finite entry; is its checkpoint intact?")
