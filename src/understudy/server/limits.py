"""How much a service takes on: in flight, waiting, and of one request."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from understudy.denoisers.protocol import Denoiser
from understudy.errors import SettingError
from understudy.schedule import ModelSchedule

if TYPE_CHECKING:
    from understudy.server.sequences import RunRequest

DEFAULT_LENGTH = 1024  # where neither the models nor the limits say one


@dataclass(frozen=True)
class ServerLimits:
    """What a service takes on; everything at least 1, the queue at least 0.

    max_sequences: sequences in flight, that is with a row on a canvas. queue: sequences that wait for one.
    batch_size: most sequences in one pass. length: tokens of a sequence, given ones included; that of the models unless
    given. samples: sequences of one request. steps: of a schedule. seconds: from a request's arrival to its end.

    Raises SettingError for a value out of range, or where an idle service could not take the largest request.
    """

    max_sequences: int = 64
    queue: int = 256
    batch_size: int = 32
    length: int | None = None
    samples: int = 16
    steps: int = 4096
    seconds: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "queue" else 1
            if value is not None and not least <= value < float("inf"):
                raise SettingError(f"{field.name} is {value}; it must be at least {least}")
        if self.samples > self.max_sequences + self.queue:
            raise SettingError(
                f"one request may have {self.samples} samples, but only {self.max_sequences} sequences may be in "
                f"flight and {self.queue} wait; allow fewer samples or a longer queue"
            )

    def max_length(self, denoisers: Mapping[str, Denoiser]) -> int:
        """Most tokens of a sequence: the least that the limits and the models allow."""
        known = [self.length, *(model.max_length for model in denoisers.values())]
        return min((length for length in known if length is not None), default=DEFAULT_LENGTH)

    def check_steps(self, steps: int | None) -> None:
        """Raise SettingError for more steps than a schedule may have."""
        _check("steps", steps, self.steps)

    def check(self, request: "RunRequest", denoisers: Mapping[str, Denoiser]) -> None:
        """Raise SettingError where a request asks for too much: before anything of that size is made.

        ScheduleError where its schedule is none.
        """
        options = request.options
        _check("num_samples", options.get("num_samples", 1), self.samples)
        self.check_steps(options.get("steps"))
        schedule = request.schedule
        if isinstance(schedule, str):
            schedule = ModelSchedule.parse(schedule, options.get("steps"))
        self.check_steps(None if schedule is None else schedule.num_steps)
        longest = self.max_length(denoisers)
        _check("length", options.get("length"), longest)
        if (template := options.get("template")) is not None:
            _check("length", np.shape(template)[-1] if np.ndim(template) else 1, longest)


def _check(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise SettingError(f"{name} is {value}; this service takes at most {most}")
