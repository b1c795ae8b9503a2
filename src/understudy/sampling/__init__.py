"""Sampling: the engine that executes reveal plans, and the published sampler as its reference."""

from understudy.sampling.ancestral import sample_plain
from understudy.sampling.draw import inverse_cdf, probabilities
from understudy.sampling.engine import sample, sample_steps
from understudy.sampling.result import SampleResult, StepRecord
from understudy.sampling.task import SamplingOptions, SamplingTask, default_length, fill_template

__all__ = [
    "SampleResult",
    "SamplingOptions",
    "SamplingTask",
    "StepRecord",
    "default_length",
    "fill_template",
    "inverse_cdf",
    "probabilities",
    "sample",
    "sample_plain",
    "sample_steps",
]
