"""Decoding rules beside ancestral sampling, under the same schedules, accounting and step records.

| rule | who is revealed next | how many | planned ahead |
|---|---|---|---|
| ancestral | each position at its own random step | random | yes |
| first_hitting | each position at its own random time | one | yes |
| random | the next of a random order | by pace | yes |
| low_confidence | the highest probability of the token drawn | by pace or threshold | no |
| margin | the largest lead of the likeliest token | by pace or threshold | no |
| entropy | the lowest entropy | by pace | no |
"""

from understudy.sampling.decoding.chosen import Chosen, result_of
from understudy.sampling.decoding.engine import decode, decode_steps, task_steps
from understudy.sampling.decoding.task import (
    DECODINGS,
    ConfidenceTask,
    DecodingOptions,
    DecodingTask,
    decoding_task,
    part_of,
    passes_of,
    request_of,
    with_request,
)

__all__ = [
    "DECODINGS",
    "Chosen",
    "ConfidenceTask",
    "DecodingOptions",
    "DecodingTask",
    "decode",
    "decode_steps",
    "decoding_task",
    "part_of",
    "passes_of",
    "request_of",
    "result_of",
    "task_steps",
    "with_request",
]
