"""Every error that Understudy raises on purpose.

UnderstudyError
├── ScheduleError    a schedule string or a set of segments that is not a schedule (knows its column)
├── ModelError       a model folder that cannot be used: missing, truncated, wrong kind, NaN logits
│   └── PairingError two models that cannot share a sample: other vocabulary, mask id or length
├── PromptError      a prefix or template that cannot be used: empty, too long, unknown tokens
├── DataError        text, tokens or a prepared folder that cannot be used
├── SettingError     an argument outside its range, or two arguments that exclude each other
├── ServiceError     a service that takes no request now: stopping, or broken
│   └── QueueFullError  one whose queue is full for the moment (knows when to ask again)
└── ClusterError     a Ray cluster that does not answer, has no room, or whose workers keep dying

Messages are one line: what was given, what is allowed, how to mend it. The command prints them as they are.
"""


class UnderstudyError(Exception):
    """Base of the tree; catching it catches everything that a user can cause."""


class ScheduleError(UnderstudyError):
    """A string or a set of segments that is not a schedule.

    `column` is the 1-based position in the string at which reading failed, or None when there is no string.
    """

    def __init__(self, message: str, *, column: int | None = None) -> None:
        self.column = column
        super().__init__(message if column is None else f"column {column}: {message}")


class ModelError(UnderstudyError):
    """A model that cannot be loaded or that returned logits nobody can draw from."""


class PairingError(ModelError):
    """Models that cannot share one sample."""


class PromptError(UnderstudyError):
    """A prefix, suffix or template that does not fit."""


class DataError(UnderstudyError):
    """Text, token blocks or a prepared folder that cannot be used."""


class SettingError(UnderstudyError):
    """An argument outside its range."""


class ServiceError(UnderstudyError):
    """A service that takes no request now."""


class QueueFullError(ServiceError):
    """A service that has no room for a request at the moment; `retry_seconds` from now it may have."""

    def __init__(self, message: str, *, retry_seconds: int) -> None:
        self.retry_seconds = retry_seconds
        super().__init__(message)


class ClusterError(UnderstudyError):
    """A Ray cluster that does not answer, has no room, or whose workers keep dying."""


def one_line(error: BaseException) -> str:
    """What an exception says, on one line of at most 200 characters; its type where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
