"""The service as an ASGI application: the engine's life, the routes, and what holds for all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.params import Depends
from fastapi.security import HTTPBearer

from understudy import __version__
from understudy.denoisers.model_set import ModelSet
from understudy.server.completions import completions
from understudy.server.engine import Engine
from understudy.server.gate import Gate
from understudy.server.hosts import Hosts
from understudy.server.keys import Keys
from understudy.server.limits import ServerLimits
from understudy.server.metrics import Metrics
from understudy.server.operations import operations
from understudy.server.problems import AnswerError, add_handlers
from understudy.server.schema import describe
from understudy.server.service import DEFAULT_STEPS, Service

Room = Callable[[Service], APIRouter]


def create_app(
    models: ModelSet,
    limits: ServerLimits | None = None,
    *,
    schedule: str | None = None,
    steps: int | None = None,
    keys: Keys | None = None,
    hosts: Hosts | None = None,
    cuda_graphs: bool = True,
    drain_seconds: float | None = None,
    rooms: Sequence[Room] = (),
) -> FastAPI:
    """Make the service over models; it works from the application's start to its shutdown, once.

    limits: what it takes on. schedule, steps: of requests that name none; 256 steps unless given, or the most allowed.
    keys: who may use it; everyone unless given. hosts: by which names it may be called; by any unless given.
    drain_seconds: how long accepted requests are finished at the shutdown; as long as they take unless given.
    rooms: functions that give further routes for the service, such as those of the studio; they guard themselves
    (`requires_key`). `app.state.service` is what they are given. Raises SettingError or ScheduleError.
    """
    limits = limits or ServerLimits()
    metrics = Metrics(models, limits)
    engine = Engine(models, limits, observer=metrics, cuda_graphs=cuda_graphs)
    steps = min(DEFAULT_STEPS, limits.steps) if steps is None else steps
    service = Service(engine, schedule, steps, keys or Keys())
    metrics.watch(engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop, drain=True, seconds=drain_seconds)

    app = FastAPI(title="Understudy", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.metrics = service, metrics
    app.add_middleware(Gate, metrics=metrics, hosts=hosts)
    add_handlers(app)
    app.include_router(operations(service, metrics))
    app.include_router(completions(service), dependencies=[requires_key(service)])
    for room in rooms:
        app.include_router(room(service))
    describe(app)
    return app


def requires_key(service: Service) -> Depends:
    """Give the dependency that lets only callers with a key through; where the service has no keys, everyone."""
    if not service.keys.are_needed:
        return Depends(lambda: None)
    bearer = HTTPBearer(auto_error=False, description="One of the keys of the service's file, where it has one.")

    async def check(request: Request, _: object = Security(bearer)) -> None:
        if not service.keys.accept(request.headers.get("Authorization")):
            raise AnswerError(
                401,
                "a valid API key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    guard: Depends = Security(check)
    return guard
