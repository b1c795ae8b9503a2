"""What goes wrong, in the form that OpenAI's clients read: {"error": {message, type, param, code}}."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from understudy.errors import QueueFullError, ScheduleError, ServiceError, UnderstudyError
from understudy.server.sequences import Run

STATUS_OF_FAILURES = {"model": 500, "timeout": 504, "service": 503}


class ProblemDetails(BaseModel):
    """What went wrong. param: the field of the body that it is about. code: for programmes."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ProblemAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: ProblemDetails


class AnswerError(Exception):
    """An answer that is no success. Its status, and what goes in its body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        self.details = ProblemDetails(message=message, type=kind, param=param, code=code)

    @property
    def body(self) -> dict[str, Any]:
        """What the answer holds."""
        return {"error": self.details.model_dump()}

    @property
    def answer(self) -> JSONResponse:
        """The answer itself."""
        return JSONResponse(self.body, self.status, self.headers)


def problem_of(error: UnderstudyError, param: str | None = None) -> AnswerError:
    """Say what an error of the library means to a caller."""
    if isinstance(error, QueueFullError):
        return AnswerError(429, str(error), code="queue_full", headers={"Retry-After": str(error.retry_seconds)})
    if isinstance(error, ServiceError):
        return AnswerError(503, str(error), code="unavailable", headers={"Retry-After": "5"})
    return AnswerError(400, str(error), param="schedule" if isinstance(error, ScheduleError) else param)


def problem_of_run(run: Run) -> AnswerError | None:
    """Say what a run that is over and not done means to its caller; None where it is done."""
    if run.state == "done":
        return None
    if run.failure is None:
        return AnswerError(503, "the request was cancelled by the service", code="cancelled")
    message, code = run.failure
    # What failed once fails again: clients of OpenAI's making would ask twice more.
    headers = {} if code == "service" else {"x-should-retry": "false"}
    return AnswerError(STATUS_OF_FAILURES[code], message, code=code, headers=headers)


def add_handlers(app: FastAPI) -> None:
    """Have every error of an application answered in this form."""

    def show(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AnswerError)
        return error.answer

    def show_ours(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, UnderstudyError)
        return problem_of(error).answer

    def show_plain(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = "body_too_large" if error.status_code == 413 else None
        return AnswerError(error.status_code, str(error.detail), code=code, headers=dict(error.headers or {})).answer

    def show_unknown(_: Request, error: Exception) -> JSONResponse:  # which is raised again, for the log
        return AnswerError(500, "the service failed on this request; its log says why", code="internal").answer

    def show_invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _invalid(error).answer

    app.add_exception_handler(AnswerError, show)
    app.add_exception_handler(UnderstudyError, show_ours)
    app.add_exception_handler(HTTPException, show_plain)
    app.add_exception_handler(RequestValidationError, show_invalid)
    app.add_exception_handler(Exception, show_unknown)


def _invalid(error: RequestValidationError) -> AnswerError:
    """Name the first field that does not fit."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = place[0] if place and first["type"] != "json_invalid" else None
    if first["type"] == "extra_forbidden":
        return AnswerError(400, f"there is no field {param!r}", param=param, code="unknown_field")
    if first["type"] == "none_required":
        return AnswerError(400, f"{param} is not supported; leave it out", param=param, code="not_supported")
    if len({str(own["loc"]) for own in error.errors() if own["loc"][:2] == first["loc"][:2]}) > 1:  # none of a union
        return AnswerError(400, f"{param} has none of the forms that it may have; see /openapi.json", param=param)
    reason = str(first["msg"]).removeprefix("Value error, ")
    return AnswerError(400, reason if param is None else f"{param}: {reason}", param=param)
