"""The plain ancestral sampler as published: every position, every step, noise over the full vocabulary.

Sahoo et al. 2024 (arXiv 2406.07524). It is the reference that the lazy sampler is tested and timed against, not the
one to use. Shapes: B batch, L length, V vocabulary.
"""

import time
from collections import Counter
from collections.abc import Generator

import numpy as np
import torch

from understudy.errors import ModelError, SettingError
from understudy.flops import FlopsReport, cost_report, reference_key
from understudy.sampling.draw import probabilities
from understudy.sampling.result import SampleResult, StepRecord
from understudy.sampling.task import SamplingTask, device_of


def sample_plain(
    task: SamplingTask, *, noise_dtype: torch.dtype = torch.float64, reuse_unchanged: bool = False
) -> Generator[StepRecord, None, SampleResult]:
    """Run ancestral sampling as published, ignoring the task's plan but for its time grid.

    Every step evaluates its model on the whole batch, all positions, and draws one exponential variable per
    vocabulary entry and position. A task's `batch_size` sequences advance together.

    noise_dtype: float64 is right; float32 reproduces the published code, whose noise silently lowers the temperature
        (arXiv 2409.02908). reuse_unchanged: keep a model's probabilities while no token of the batch has changed, the
        published `ddpm_cache`; it belongs to one model, so a change of key empties it. SettingError where a model
        depends on time.
    The law of the samples is that of the lazy sampler; the samples are not the same ones.
    """
    if reuse_unchanged and any(model.uses_time for model in task.denoisers.values()):
        raise SettingError("probabilities cannot be reused by a model that depends on time; leave reuse_unchanged off")
    started = time.perf_counter()
    canvas = torch.tensor(task.template, device=device_of(task.denoisers))  # a copy: the task stays as it is
    reveal_step = np.full(canvas.shape, -1, dtype=np.int64)
    nfe: Counter[str] = Counter(dict.fromkeys(task.schedule.keys, 0))
    for first in range(0, len(canvas), task.batch_size):
        rows = slice(first, first + task.batch_size)
        run = _PlainRun(task, canvas, rows, noise_dtype, reuse_unchanged)
        for step in range(task.plan.num_steps + int(task.plan.times[-1] > 0)):
            record = run.step(step)
            reveal_step[record.places, record.positions] = step
            yield record
        nfe.update(run.nfe)
    flops = _dense_flops(task, nfe)
    return SampleResult(canvas.cpu(), reveal_step, task.schedule, dict(nfe), flops, time.perf_counter() - started)


class _PlainRun:
    """One batch on its way from all masked to clean."""

    def __init__(
        self, task: SamplingTask, whole: torch.Tensor, rows: slice, noise_dtype: torch.dtype, reuse: bool
    ) -> None:
        self.task, self.whole, self.canvas, self.noise_dtype, self.reuse = task, whole, whole[rows], noise_dtype, reuse
        self.samples = np.arange(len(whole))[rows]
        entropy = np.random.SeedSequence((task.seed, task.indices[rows.start])).generate_state(1, np.uint64)
        self.generator = torch.Generator(whole.device).manual_seed(int(entropy[0] >> 1))
        self.nfe: Counter[str] = Counter()
        self.cached: tuple[str, torch.Tensor] | None = None

    @torch.inference_mode()
    def step(self, step: int) -> StepRecord:
        """Make step `step` (N is the clean-up) and reveal what it reveals."""
        task, last = self.task, self.task.plan.num_steps
        key = task.schedule.key_at(min(step, last - 1))
        time_now = float(task.plan.times[step])
        reveal = task.noise.reveal_prob(time_now, float(task.plan.times[step + 1])) if step < last else 1.0
        drawn = self._draw(self._probabilities(key, time_now), reveal)
        is_new = (self.canvas == task.mask_id) & (drawn != task.mask_id)
        self.canvas.copy_(torch.where(is_new, drawn, self.canvas))
        rows, positions = (index.cpu().numpy() for index in torch.nonzero(is_new, as_tuple=True))
        if len(rows):
            self.cached = None
        steps = np.full(len(self.samples), step)
        return StepRecord(key, self.samples, steps, rows, positions, self.whole)

    def _probabilities(self, key: str, time_now: float) -> torch.Tensor:
        """p(x0 | xt) (B, L, V) in the noise's precision."""
        if self.cached is not None and self.cached[0] == key:
            return self.cached[1]
        model = self.task.denoisers[key]
        times = torch.full((len(self.canvas),), time_now, dtype=torch.float64) if model.uses_time else None
        logits = model.logits(self.canvas.to(model.device), times).to(self.canvas.device)
        self.nfe[key] += len(self.canvas)
        settings = {"temperature": self.task.temperature, "top_p": self.task.top_p}
        probs = probabilities(logits, self.task.mask_id, dtype=self.noise_dtype, **settings)
        if not bool(torch.isfinite(probs[..., 0]).all()):  # a NaN anywhere in a row makes all of it NaN
            raise ModelError(f"model {key} returned logits with NaN or no finite entry; is its checkpoint intact?")
        if self.reuse:
            self.cached = (key, probs)
        return probs

    def _draw(self, probs: torch.Tensor, reveal: float) -> torch.Tensor:
        """Exponential race over vocabulary and mask: token v has rate p_v·r, the mask 1 − r."""
        rates = probs * reveal
        rates[..., self.task.mask_id] = 1 - reveal
        uniform = torch.rand(rates.shape, generator=self.generator, dtype=rates.dtype, device=rates.device)
        return (rates / -uniform.log()).argmax(-1)  # at 0, which can be drawn, the rate becomes 0; 1 cannot


def _dense_flops(task: SamplingTask, nfe: Counter[str]) -> FlopsReport:
    """Cost of full passes; a schedule's own saving is then its saving with head."""
    length, samples = task.plan.length, task.plan.num_samples
    full = {key: model.pass_flops(length).total for key, model in task.denoisers.items()}
    executed = sum(passes * full[key] for key, passes in nfe.items())
    made = sum(nfe.values()) * full[reference_key(task.denoisers, length)]
    return cost_report(task.denoisers, task.schedule, length, samples=samples, executed=executed, heavy_alone=made)
