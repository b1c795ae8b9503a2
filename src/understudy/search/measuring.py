"""Measuring one schedule on some samples: the part of a search that runs models."""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from understudy import metrics
from understudy.driving import mapped
from understudy.evaluation import Judge, Scoring, judge_samples, reading_of
from understudy.sampling import SamplingTask, sample_steps
from understudy.schedule import ModelSchedule
from understudy.work import Tools


@dataclass(frozen=True)
class Unit:
    """What is measured and journalled at once: samples first … end − 1 of one schedule."""

    schedule: ModelSchedule
    first: int
    end: int

    @property
    def name(self) -> str:
        """Its name in the journal."""
        return f"{self.schedule} {self.first}:{self.end}"


def measure(task: SamplingTask, judge: Judge, scoring: Scoring, tokenizer: Any) -> Generator[int, None, dict[str, Any]]:
    """Sample and judge one unit; yields the number of sequences in each pass, returns plain values.

    tokenizer: what reads the models' ids, where the judge reads texts. The values are nll_sums, counts, entropies, each
    a list over samples; nfe by key; seconds. Tokens that were given are context and count nowhere. ModelError where a
    model or the judge returns no usable number.
    """
    started = time.perf_counter()
    result = yield from mapped(sample_steps(task), lambda record: len(record.samples))
    free = result.reveal_step >= 0
    rows = metrics.sample_rows(result.tokens)
    reading = reading_of(judge, rows, free, protocol=scoring.protocol, tokenizer=tokenizer)
    judged = judge_samples(judge, rows, free, reading, scoring)
    return {
        "nll_sums": judged.nll_sums.tolist(),
        "counts": judged.counts.tolist(),
        "entropies": metrics.token_entropy(judged.written).tolist(),
        "nfe": result.nfe,
        "seconds": round(time.perf_counter() - started, 3),
    }


@dataclass(frozen=True)
class Measuring:
    """A unit as work for any process: `task` is without its models."""

    task: SamplingTask
    scoring: Scoring

    def run(self, tools: Tools) -> Generator[int, None, dict[str, Any]]:
        """`measure`, by the models and the judge that are there."""
        task = replace(self.task, denoisers=tools.denoisers)
        return (yield from measure(task, tools.judge, self.scoring, tools.tokenizer))
