"""What every part of the service works with: the models, the engine, who may use it, and what holds by default."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

from understudy.denoisers.model_set import ModelSet
from understudy.errors import ScheduleError, SettingError
from understudy.flops import reference_key
from understudy.schedule import MAX_STEPS, ModelSchedule
from understudy.server.engine import Engine
from understudy.server.keys import Keys
from understudy.server.limits import ServerLimits

DEFAULT_STEPS = 256


@dataclass(frozen=True)
class Service:
    """One service, as its rooms see it.

    schedule: of requests that name none, in the notation, per cent or counts; None lets the costliest model make all
    steps. steps: of requests and schedules that do not say. keys: who may use it. name: of the model in OpenAI's terms.

    Raises SettingError or ScheduleError where schedule and steps do not go together or name a model that is not there.
    """

    engine: Engine
    schedule: str | None = None
    steps: int = DEFAULT_STEPS
    keys: Keys = field(default_factory=Keys)
    name: str = "understudy"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.limits.steps:
            raise SettingError(f"steps is {self.steps} by default; it must lie between 1 and {self.limits.steps}")
        if self.schedule is not None:
            self.resolve(None, None, 1)

    @property
    def models(self) -> ModelSet:
        """The models and their tokenizer."""
        return self.engine.models

    @property
    def limits(self) -> ServerLimits:
        """What it takes on."""
        return self.engine.limits

    @property
    def max_length(self) -> int:
        """Most tokens of a sequence, given ones included."""
        return self.limits.max_length(self.models.denoisers)

    def resolve(self, schedule: str | None, steps: int | None, length: int) -> ModelSchedule:
        """Give the schedule of a request for sequences of `length` tokens; what it leaves out is by default.

        A schedule in counts says its steps itself. Raises ScheduleError or SettingError.
        """
        text = self.schedule if schedule is None else schedule
        if text is None:
            return ModelSchedule.single(steps or self.steps, reference_key(self.models.denoisers, length))
        return read_schedule(text, steps or (self.steps if "%" in text else None), self.models.denoisers)


def read_schedule(text: str, steps: int | None, known: Collection[str]) -> ModelSchedule:
    """Read a schedule as `ModelSchedule.parse` does; a key that is not among `known` is said before a wrong total.

    Raises ScheduleError, for such a key at its column, or SettingError.
    """
    unbound: list[str] = []
    with suppress(ScheduleError):  # of which the second reading has the exact words
        named = ModelSchedule.parse(text, MAX_STEPS if "%" in text else None).keys
        unbound = [key for key in named if key not in known]
    if unbound:
        raise ScheduleError(
            f"the schedule names {', '.join(unbound)}, but models are bound to {', '.join(known)} only; "
            "bind the missing key or change the schedule",
            column=text.index(unbound[0]) + 1,
        )
    return ModelSchedule.parse(text, steps)
