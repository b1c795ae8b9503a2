"""For whoever runs the service: does it live, is it ready, what has it done."""

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from understudy.server.metrics import Metrics
from understudy.server.problems import AnswerError, ProblemAnswer
from understudy.server.service import Service


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """The service takes requests. models: their keys."""

    status: Literal["ready"] = "ready"
    models: list[str]
    active_sequences: int
    waiting_sequences: int


def operations(service: Service, metrics: Metrics) -> APIRouter:
    """Make the routes; they need no key, so a public proxy should not pass /metrics on."""
    router = APIRouter(tags=["operations"])

    @router.get("/health")
    async def health() -> Health:
        """Say that the process lives."""
        return Health()

    @router.get("/ready", responses={503: {"model": ProblemAnswer, "description": "It takes none now."}})
    async def ready() -> Readiness:
        """Say whether the models are loaded and requests are taken."""
        engine = service.engine
        if engine.state != "running":
            raise AnswerError(503, f"the engine is {engine.state}", code="unavailable")
        return Readiness(
            models=[*service.models.denoisers],
            active_sequences=engine.num_active,
            waiting_sequences=engine.num_waiting,
        )

    @router.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Everything that is counted, in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
