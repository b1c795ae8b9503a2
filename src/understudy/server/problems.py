"""What goes wrong, in the form that OpenAI's clients read: {"error": {message, type, param, code}}."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from understudy.errors import QueueFullError, ScheduleError, ServiceError, UnderstudyError
from understudy.reveal import MAX_SEED
from understudy.server.sequences import Run
from understudy.server.wire import FORMS

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

    def show_plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 404 and error.detail == "Not Found":
            return _no_such_path(request).answer
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            what = f"{request.url.path} does not take {request.method}; it takes {allowed}"
            return AnswerError(405, what, code="method_not_allowed", headers=dict(error.headers or {})).answer
        code = "body_too_large" if error.status_code == 413 else None
        return AnswerError(error.status_code, str(error.detail), code=code, headers=dict(error.headers or {})).answer

    def show_unknown(_: Request, error: Exception) -> JSONResponse:  # which is raised again, for the log
        return AnswerError(500, "the service failed on this request; its log says why", code="internal").answer

    def show_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _invalid(request, error).answer

    app.add_exception_handler(AnswerError, show)
    app.add_exception_handler(UnderstudyError, show_ours)
    app.add_exception_handler(HTTPException, show_plain)
    app.add_exception_handler(RequestValidationError, show_invalid)
    app.add_exception_handler(Exception, show_unknown)


def _no_such_path(request: Request) -> AnswerError:
    path = request.url.path
    if path.rstrip("/").endswith("/chat/completions"):
        what = "chat is not supported here; send the text to go on from as prompt to POST /v1/completions"
    else:
        what = f"there is no {path[:200]} here; there are POST /v1/completions, POST /v1/denoise and GET /v1/models"
    return AnswerError(404, what, code="unknown_url")


def _invalid(request: Request, error: RequestValidationError) -> AnswerError:
    """Name the first field that does not fit."""
    first = error.errors()[0]
    kind = first["type"]
    if kind == "json_invalid" or (first["loc"] == ("body",) and kind != "disagreement"):
        return AnswerError(400, _no_object(request, error, first), code="no_json_object")
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = place[0] if place else first.get("ctx", {}).get("param")
    if kind == "extra_forbidden":
        return AnswerError(400, f"there is no field {'.'.join(place)!r}", param=param, code="unknown_field")
    if kind == "none_required":
        return AnswerError(400, f"{param} is not supported; leave it out", param=param, code="not_supported")
    if param in FORMS:
        return AnswerError(400, f"{param} has none of the forms that it may have: {FORMS[param]}", param=param)
    if param == "seed":
        return AnswerError(400, f"seed: {whole_to(MAX_SEED)}", param=param)
    reason = str(first["msg"])
    return AnswerError(400, f"{'.'.join(place)}: {reason}" if place else reason, param=param)


def whole_to(most: int) -> str:
    """What a seed may be."""
    return f"it must be a whole number from 0 to {most}"


def _no_object(request: Request, error: RequestValidationError, first: Any) -> str:
    """Say why a body is no JSON object, and where it ceases to be one."""
    wanted = 'send a JSON object, such as {"prompt": "The king"}'
    if first["type"] == "json_invalid":
        text, place = str(error.body), int(first["loc"][-1])
        line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
        return f"the body is no JSON: {first['ctx']['error']} at line {line}, column {column}"
    if first["type"] == "missing":
        return f"the body is empty; {wanted}"
    sent = request.headers.get("content-type", "")
    if "json" not in sent:
        given = f"has the Content-Type {sent[:100]!r}" if sent else "has no Content-Type"
        return f"the body {given}; {wanted}, with Content-Type: application/json"
    return f"the body is JSON, but no object; {wanted}"
