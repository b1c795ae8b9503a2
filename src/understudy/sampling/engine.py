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
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser
from understudy.driving import run_to_end
from understudy.errors import ModelError
from understudy.sampling.draw import inverse_cdf, probabilities
from understudy.sampling.queue import Pass, PassQueue
from understudy.sampling.result import SampleResult, StepRecord
from understudy.sampling.task import SamplingOptions, SamplingTask, device_of
from understudy.schedule import ModelSchedule


def sample(
    denoisers: Mapping[str, Denoiser], schedule: ModelSchedule | str | None = None, **options: Unpack[SamplingOptions]
) -> SampleResult:
    """Sample sequences from models that share the steps as the schedule says.

    denoisers: models by schedule key. schedule: such as "L125,H750,L125"; None lets the costliest model make all
    `steps`. options: length, num_samples, steps, seed, prefix, suffix, template, noise, t_end, temperature, top_p,
    batch_size, first_index; see `SamplingTask.create` for ranges and defaults.

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
    canvas = torch.tensor(task.template, device=device)  # a copy: the task stays as it is
    is_healthy = torch.ones((), dtype=torch.bool, device=device)
    nfe: Counter[str] = Counter(dict.fromkeys(task.schedule.keys, 0))
    for batch in PassQueue(task.plan, task.schedule, task.batch_size):
        tokens, is_finite = _run_pass(task, canvas, batch)
        is_healthy &= is_finite
        if device.type == "cpu":  # elsewhere looking would synchronise: once, at the end
            _check_healthy(is_healthy, batch.key)
        nfe[batch.key] += len(batch.samples)
        yield StepRecord(batch.key, batch.samples, batch.steps, batch.where.rows, batch.where.cols, tokens)
    _check_healthy(is_healthy, " or ".join(task.schedule.keys))
    seconds = time.perf_counter() - started
    return SampleResult(canvas.cpu(), task.plan.reveal_step, task.schedule, dict(nfe), task.flops, seconds)


@torch.inference_mode()
def _run_pass(task: SamplingTask, canvas: torch.Tensor, batch: Pass) -> tuple[torch.Tensor, torch.Tensor]:
    """Reveal one batch on the canvas; give the tokens (R,) and whether all probabilities were finite."""
    model, device = task.denoisers[batch.key], canvas.device
    samples = _to(batch.samples, device)
    rows, cols = _to(batch.where.rows, device), _to(batch.where.cols, device)
    times = torch.from_numpy(task.plan.times[batch.steps]) if model.uses_time else None
    logits = model.logits(canvas[samples].to(model.device), times, batch.where).to(device)
    probs = probabilities(logits, task.mask_id, temperature=task.temperature, top_p=task.top_p)
    tokens = inverse_cdf(probs, _to(batch.uniforms, device))
    canvas[samples[rows], cols] = tokens
    return tokens, torch.isfinite(probs).all()


def _to(array: NDArray[np.int64] | NDArray[np.float64], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def _check_healthy(is_healthy: torch.Tensor, key: str) -> None:
    if not bool(is_healthy):
        raise ModelError(f"model {key} returned logits with NaN or no finite entry; is its checkpoint intact?")
