"""What comes back from sampling: records while it runs, a result at the end.

Shapes: n samples, L length, B sequences in a pass, R positions revealed by it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.flops import FlopsReport
from understudy.schedule import ModelSchedule


@dataclass(frozen=True)
class StepRecord:
    """One pass: which model, which sequences at which step, what was revealed where.

    samples, steps: int64 (B,), a sequence and the nominal step it is at (0-based; N for the clean-up pass).
    rows, positions: int64 (R,); `positions[r]` of sequence `samples[rows[r]]` received `tokens[r]`.
    canvas: int64 (n or more, L), all sequences as they are now, on the models' device; not to be written to.
    """

    key: str
    samples: NDArray[np.int64]
    steps: NDArray[np.int64]
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    canvas: torch.Tensor

    @property
    def tokens(self) -> torch.Tensor:
        """What was revealed, int64 (R,), on the models' device: looked up when asked, since a token never changes."""
        rows, columns = (torch.from_numpy(index).to(self.canvas.device) for index in (self.places, self.positions))
        return self.canvas[rows, columns]

    @property
    def places(self) -> NDArray[np.int64]:
        """Sequence of each revealed position (R,)."""
        return self.samples[self.rows]


@dataclass(frozen=True)
class SampleResult:
    """Finished samples and what they cost.

    tokens: int64 (n, L) on the CPU. reveal_step: int64 (n, L), the step that wrote each token; −1 where it was given.
    nfe: passes made by each key, counted per sequence and summed over samples. seconds: wall time.
    """

    tokens: torch.Tensor
    reveal_step: NDArray[np.int64]
    schedule: ModelSchedule
    nfe: dict[str, int]
    flops: FlopsReport
    seconds: float

    def written_by(self) -> NDArray[np.str_]:
        """Key of the model that wrote each token (n, L); empty where the token was given."""
        last = self.schedule.segments[-1].key  # the clean-up pass; the given positions, at −1, are last of all
        by_step = np.array([*self.schedule.steps(), last, ""])
        return np.asarray(by_step[self.reveal_step])
