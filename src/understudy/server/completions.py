"""What OpenAI's clients ask for, and the stream of a canvas."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from understudy.server.asking import Asking
from understudy.server.event_stream import EventStream, until_over
from understudy.server.problems import AnswerError, ProblemAnswer, problem_of_run
from understudy.server.sequences import Run
from understudy.server.service import Service
from understudy.server.streams import canvas_events, text_chunks
from understudy.server.wire import CompletionAnswer, CompletionBody, DenoiseBody, ModelCard, ModelCards

CANVAS_EVENTS = ("start", "canvas", "reveal", "done", "error")
CLIENT_LEFT = 499  # nobody reads it; the log shows it

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer, "description": why}
    for status, why in {
        400: "The body is wrong, or asks for what there is not.",
        401: "A valid API key is needed.",
        404: "There is no such model.",
        413: "The body is too large.",
        429: "The queue is full; Retry-After says when to come again.",
        500: "A model failed.",
        503: "The service takes no requests now.",
        504: "It took too long.",
    }.items()
}


def _stream(*names: str) -> dict[str, Any]:
    """Describe the events of a stream, by name where they have one."""
    data: dict[str, Any] = {"data": {"type": "string"}}
    fields = data | ({"event": {"enum": list(names)}} if names else {})
    return {"text/event-stream": {"schema": {"type": "object", "properties": fields, "required": [*fields]}}}


def completions(service: Service) -> APIRouter:
    """Make the routes; whoever includes them guards them."""
    router = APIRouter(prefix="/v1", tags=["completions"])
    started = int(time.time())

    @router.get("/models", responses={401: REFUSALS[401]})
    async def models() -> ModelCards:
        """The models: one name for all under the service's schedule, and each alone under its key."""
        names = (service.name, *service.models.denoisers)
        return ModelCards(data=[ModelCard(id=name, created=started) for name in names])

    @router.get("/models/{model}", responses={401: REFUSALS[401], 404: REFUSALS[404]})
    async def model(model: str) -> ModelCard:
        """One model."""
        if model not in (service.name, *service.models.denoisers):
            raise AnswerError(404, f"there is no model {model!r}", param="model", code="model_not_found")
        return ModelCard(id=model, created=started)

    @router.post(
        "/completions",
        response_model=CompletionAnswer,
        responses={200: {"content": _stream(), "description": "The completion, or a stream of it."}, **REFUSALS},
    )
    async def complete(body: CompletionBody, request: Request) -> Response:
        """Write texts; each step by the model that the schedule names."""
        asking, runs = await _submit(service, body)
        if body.stream:
            return EventStream(text_chunks(asking, runs), lambda: _cancel(runs))
        if not await until_over(request, runs):
            return Response(status_code=CLIENT_LEFT)
        for run in runs:
            if (problem := problem_of_run(run)) is not None:
                raise problem
        answer = await asyncio.to_thread(asking.answer, runs)
        return JSONResponse(answer.to_dict())

    @router.post(
        "/denoise",
        response_class=StreamingResponse,  # for the description alone
        responses={200: {"content": _stream(*CANVAS_EVENTS), "description": "The canvas while it fills."}, **REFUSALS},
    )
    async def denoise(body: DenoiseBody) -> Response:
        """Write texts and show the canvas while it fills."""
        if body.stream is False or body.stream_options is not None:
            raise AnswerError(400, "this is always a stream; leave stream and stream_options out", param="stream")
        asking, runs = await _submit(service, body)
        return EventStream(canvas_events(asking, runs, body.canvas_every), lambda: _cancel(runs))

    return router


async def _submit(service: Service, body: CompletionBody) -> tuple[Asking, list[Run]]:
    def submit() -> tuple[Asking, list[Run]]:
        asking = Asking.read(service, body)
        return asking, asking.submit()

    return await asyncio.to_thread(submit)  # tokens and plans take their time


def _cancel(runs: list[Run]) -> None:
    for run in runs:
        run.cancel()
