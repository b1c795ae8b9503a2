"""Sampling: the engine that executes reveal plans, other decoding rules, and the published sampler as the reference."""

from understudy.sampling.ancestral import sample_plain
from understudy.sampling.decoding import (
    DECODINGS,
    ConfidenceTask,
    DecodingOptions,
    decode,
    decode_steps,
    decoding_task,
)
from understudy.sampling.draw import inverse_cdf, probabilities
from understudy.sampling.engine import sample, sample_steps
from understudy.sampling.result import SampleResult, StepRecord
from understudy.sampling.task import SamplingOptions, SamplingTask, default_length, fill_template

__all__ = [
    "DECODINGS",
    "ConfidenceTask",
    "DecodingOptions",
    "SampleResult",
    "SamplingOptions",
    "SamplingTask",
    "StepRecord",
    "decode",
    "decode_steps",
    "decoding_task",
    "default_length",
    "fill_template",
    "inverse_cdf",
    "probabilities",
    "sample",
    "sample_plain",
    "sample_steps",
]
