"""Sampling: the engine that executes reveal plans, other decoding rules, and the published sampler as the reference."""

from understudy.sampling.ancestral import sample_plain
from understudy.sampling.decoding import (
    DECODINGS,
    Chosen,
    ConfidenceTask,
    DecodingOptions,
    DecodingTask,
    decode,
    decode_steps,
    decoding_task,
    part_of,
    passes_of,
    request_of,
    result_of,
    task_steps,
    with_request,
)
from understudy.sampling.draw import inverse_cdf, probabilities
from understudy.sampling.engine import sample, sample_steps
from understudy.sampling.result import SampleResult, StepRecord
from understudy.sampling.task import SamplingOptions, SamplingTask, default_length, fill_template

__all__ = [
    "DECODINGS",
    "Chosen",
    "ConfidenceTask",
    "DecodingOptions",
    "DecodingTask",
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
    "part_of",
    "passes_of",
    "probabilities",
    "request_of",
    "result_of",
    "sample",
    "sample_plain",
    "sample_steps",
    "task_steps",
    "with_request",
]
