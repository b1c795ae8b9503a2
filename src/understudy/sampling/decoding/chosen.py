"""What a run tells of a rule that chooses positions by confidence: no plan knows it, so it travels with the tokens.

Shapes: n samples, L length, K keys of the schedule, P parts in which samples were made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.flops import cost_report
from understudy.sampling.decoding.task import ConfidenceTask, DecodingTask
from understudy.sampling.result import SampleResult


@dataclass(frozen=True)
class Chosen:
    """Who was revealed when, and what it cost.

    reveal_step: int64 (n, L). passes: int64 (P, K), in the order of the schedule's keys. flops: float64 (P, 2), those
    executed and what the same passes cost with the costliest model in all of them.
    """

    reveal_step: NDArray[np.int64]
    passes: NDArray[np.int64]
    flops: NDArray[np.float64]

    @classmethod
    def of(cls, result: SampleResult) -> "Chosen":
        """What one run of `decode_steps` tells, as one part."""
        executed = result.flops.executed
        passes = np.array([[result.nfe[key] for key in result.schedule.keys]])
        return cls(result.reveal_step, passes, np.array([[executed, executed / (1 - result.flops.schedule_saved)]]))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Chosen | None":
        """What `arrays` gave, parts one after another; None where a plan knew all of it."""
        if "reveal_step" not in arrays:
            return None
        return cls(arrays["reveal_step"].astype(np.int64), arrays["passes"], arrays["flops"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The same as arrays, small enough to be sent."""
        return {"reveal_step": self.reveal_step.astype(np.int32), "passes": self.passes, "flops": self.flops}

    def result(self, task: ConfidenceTask, tokens: torch.Tensor, seconds: float) -> SampleResult:
        """The result of a whole task; see `result_of`."""
        nfe = dict(zip(task.schedule.keys, self.passes.sum(axis=0).tolist(), strict=True))
        models, (samples, length) = task.request.denoisers, task.request.template.shape
        executed, heavy_alone = self.flops.sum(axis=0).tolist()
        flops = cost_report(models, task.schedule, length, samples=samples, executed=executed, heavy_alone=heavy_alone)
        return SampleResult(tokens, self.reveal_step, task.schedule, nfe, flops, seconds)


def result_of(task: DecodingTask, tokens: torch.Tensor, seconds: float, chosen: Chosen | None) -> SampleResult:
    """The result of a whole task, whoever made its parts: from its plan, or from what the runs told.

    tokens: int64 (n, L). chosen: of a `ConfidenceTask`; None of any other.
    """
    if isinstance(task, ConfidenceTask):
        assert chosen is not None
        return chosen.result(task, tokens, seconds)
    nfe = task.plan.num_passes(task.schedule)
    return SampleResult(tokens, task.plan.reveal_step, task.schedule, nfe, task.flops, seconds)
