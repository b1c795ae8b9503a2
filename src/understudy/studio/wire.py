"""What the page may send, and what is said when it sends something else."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from understudy.errors import QueueFullError, ScheduleError, ServiceError, UnderstudyError
from understudy.reveal import MAX_SEED
from understudy.server.problems import whole_to

MAX_TEXT = 20_000  # characters; a schedule of single steps needs many
BROWSER_WHOLE = 2**53 - 1  # JavaScript counts no further
MOST_SEED = min(BROWSER_WHOLE, MAX_SEED)

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Whole = Annotated[int, Field(ge=1, le=1_000_000)]


class Draft(BaseModel):
    """What stands in the fields of the page while someone types; `schedules` are the one or two to look at."""

    model_config = ConfigDict(extra="forbid")

    text: Text = ""
    schedules: list[Text] = Field(default_factory=list, max_length=2)
    steps: Whole = 64
    new_tokens: Whole = 64


class RunBody(BaseModel):
    """A run to be started: a text to go on from, or one with gaps; empty to write freely.

    new_tokens: how many follow the text, without effect where it has gaps. pair: a name of the page's making that two
    runs have which were started side by side.
    """

    model_config = ConfigDict(extra="forbid")

    text: Text = ""
    schedule: Text
    steps: Whole
    new_tokens: Whole
    num_samples: Whole = 1
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    pair: Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[\w-]+$")] | None = None


class StudioRoute(APIRoute):
    """A route that says what is wrong in one form: {"error": {message, param, column}}."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                name = ".".join(str(part) for part in first["loc"][1:]) or "body"
                reason = f"{whole_to(MOST_SEED)} on this page" if name == "seed" else first["msg"]
                return refusal(422, f"{name}: {reason}", param=name)
            except QueueFullError as error:
                return refusal(429, str(error), headers={"Retry-After": str(error.retry_seconds)})
            except ServiceError as error:
                return refusal(503, str(error))
            except UnderstudyError as error:
                return refusal(400, **describe(error))

        return answer


def describe(error: UnderstudyError) -> dict[str, Any]:
    """Say an error as the page reads it: in its own words, and for a schedule the column (from 1) that it is about."""
    column = error.column if isinstance(error, ScheduleError) else None
    return {"message": str(error), "param": "schedule" if column is not None else None, "column": column}


def refusal(
    status: int,
    message: str,
    *,
    param: str | None = None,
    column: int | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An answer that says what is wrong."""
    content = {"error": {"message": message, "param": param, "column": column}}
    return JSONResponse(content, status_code=status, headers=headers)
