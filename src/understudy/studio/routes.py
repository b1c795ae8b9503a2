"""What the studio answers to: the page at /, and its API below /studio/api."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from understudy.errors import SettingError
from understudy.flops import costliest_first
from understudy.importance import Importance
from understudy.server.app import requires_key
from understudy.server.engine import Engine
from understudy.server.event_stream import EventStream, event_lines
from understudy.server.sequences import RunRequest
from understudy.server.service import Service, read_schedule
from understudy.studio.drafts import DraftReader, template_of
from understudy.studio.knowledge import Knowledge
from understudy.studio.page import HEADERS, page_files
from understudy.studio.pieces import special_ids
from understudy.studio.presets import presets
from understudy.studio.runs import RunTeller, StudioRun, StudioRuns
from understudy.studio.wire import Draft, RunBody, StudioRoute, refusal

STEPS, NEW_TOKENS = 64, 96  # what the page begins with, where the limits allow it

Session = Annotated[str, Header(alias="X-Studio-Session", min_length=16, max_length=64, pattern=r"^[\w-]+$")]
After = Annotated[int, Header(alias="Last-Event-ID", ge=0)]
Steps = Annotated[int, Query(ge=1)]
LightShare = Annotated[float, Query(gt=0, lt=1)]


def studio_room(
    importance: Importance | None = None, *, orphan_seconds: float = 30.0
) -> Callable[[Service], APIRouter]:
    """Give what `create_app` takes as a room: the studio over whatever service it is made for.

    importance: what an analysis of the models found; without it the page shows no curves and no frontier.
    orphan_seconds: a run that nobody has listened to for so long is cancelled.
    """
    return lambda service: studio_router(service, importance, orphan_seconds)


def studio_router(service: Service, importance: Importance | None, orphan_seconds: float) -> APIRouter:
    """Give the routes of the studio over a service; see `studio_room`.

    The API asks for a key where the service has keys. The page itself is open to everyone who reaches the server, since
    it holds nothing.
    """
    engine = service.engine
    knowledge = None if importance is None else Knowledge(importance)
    studio = _Studio(
        engine,
        knowledge,
        DraftReader(engine.models, engine.limits, knowledge),
        StudioRuns(orphan_seconds),
        RunTeller(engine.models),
    )
    router = APIRouter(include_in_schema=False)
    router.include_router(_page_router())
    for part in (_look_router(studio), _run_router(studio)):
        router.include_router(part, prefix="/studio/api", dependencies=[requires_key(service)])
    return router


@dataclass(frozen=True)
class _Studio:
    """What the routes share."""

    engine: Engine
    knowledge: Knowledge | None
    reader: DraftReader
    runs: StudioRuns
    teller: RunTeller

    def setup(self) -> dict[str, Any]:
        """All that the page needs to know before anything is typed."""
        models, limits = self.engine.models, self.engine.limits
        longest = limits.max_length(models.denoisers)
        order = costliest_first(models.denoisers, longest)
        return {
            "models": [self._model(key, longest) for key in order],
            "reference": order[0],
            "max_length": longest,
            "special": special_ids(models),
            "limits": {"steps": limits.steps, "samples": limits.samples, "seconds": limits.seconds},
            "defaults": {"steps": min(STEPS, limits.steps), "new_tokens": min(NEW_TOKENS, longest)},
            "presets": [preset.to_dict() for preset in presets(order[0], tuple(order[1:]))],
            "importance": None if self.knowledge is None else self.knowledge.curves(),
            "has_frontier": self.knowledge is not None and self.knowledge.can_plan,
        }

    def _model(self, key: str, length: int) -> dict[str, Any]:
        models = self.engine.models
        cost = models.denoisers[key].pass_flops(length)
        shape = getattr(models.denoisers[key], "shape", None)
        return {
            "key": key,
            "source": models.paths.get(key, ""),
            "description": models.descriptions.get(key, ""),
            "blocks": getattr(shape, "blocks", None),
            "width": getattr(shape, "width", None),
            "pass_flops": cost.total,
        }

    def start(self, body: RunBody) -> RunRequest:
        """From the fields of the page to a request."""
        template = template_of(self.engine.models, body.text, body.new_tokens)
        self.engine.limits.check_steps(body.steps)
        return RunRequest(
            read_schedule(body.schedule, body.steps, self.engine.models.denoisers),
            {
                "template": template,
                "steps": body.steps,
                "num_samples": body.num_samples,
                "seed": body.seed,
                "temperature": body.temperature,
            },
        )

    async def stream(self, entry: StudioRun, after: int) -> AsyncGenerator[str, None]:
        """Events of a run as server-sent events, the last one with the exact characters of every token."""
        async with aclosing(self.runs.follow(entry, after)) as events:
            async for event in events:
                content = event.to_dict()
                if event.kind == "done":
                    content["rows"] = await asyncio.to_thread(self.teller.rows, entry.run)
                yield event_lines(content, event=event.kind, index=event.index)


def _page_router() -> APIRouter:
    router, known = APIRouter(), page_files()

    @router.get("/")
    async def page(request: Request) -> Response:
        return known["index.html"].answer(request)

    @router.get("/studio/static/{name}")
    async def file(name: str, request: Request) -> Response:
        found = known.get(name)
        return refusal(404, f"there is no file {name!r}") if found is None else found.answer(request)

    return router


def _look_router(studio: _Studio) -> APIRouter:
    """What can be known without running anything."""
    router = APIRouter(route_class=StudioRoute)

    @router.get("/setup")
    async def setup() -> Response:
        return _json(studio.setup())

    @router.post("/drafts")
    def read_draft(draft: Draft) -> Response:
        return _json(studio.reader.read(draft))

    @router.get("/frontier")
    def frontier(steps: Steps, light_share: LightShare = 0.25) -> Response:
        if studio.knowledge is None:
            raise SettingError("nothing is known of these models; serve with --importance FILE")
        return _json(studio.knowledge.frontier(steps, light_share))

    return router


def _run_router(studio: _Studio) -> APIRouter:
    """Runs, each of the session that started it."""
    router = APIRouter(route_class=StudioRoute)

    @router.get("/runs")
    async def list_runs(session: Session) -> Response:
        return _json([studio.teller.brief(entry) for entry in studio.runs.of(session)])

    @router.post("/runs", status_code=201)
    async def start_run(body: RunBody, session: Session) -> Response:
        request = await run_in_threadpool(studio.start, body)
        run = await run_in_threadpool(studio.engine.submit, request)
        entry = studio.runs.add(session, run, body.model_dump(exclude={"pair"}), body.pair)
        return _json(studio.teller.whole(entry), status=201)

    def own(action: Callable[[StudioRun], Response]) -> Callable[[str, str], Coroutine[Any, Any, Response]]:
        """An answer about a run of the session's own; to everyone else there is none of that id."""

        async def answer(run_id: str, session: Session) -> Response:
            entry = studio.runs.get(session, run_id)
            return _no_such_run() if entry is None else action(entry)

        return answer

    def cancel(entry: StudioRun) -> Response:
        entry.run.cancel()
        return Response(status_code=204)

    router.get("/runs/{run_id}")(own(lambda entry: _json(studio.teller.whole(entry))))
    router.get("/runs/{run_id}/download")(own(lambda entry: _json(studio.teller.document(entry))))
    router.delete("/runs/{run_id}")(own(cancel))

    @router.get("/runs/{run_id}/events")
    async def events(run_id: str, session: Session, last_event_id: After = 0) -> Response:
        entry = studio.runs.get(session, run_id)
        if entry is None:
            return _no_such_run()
        answer = EventStream(studio.stream(entry, last_event_id))
        answer.headers.update({**HEADERS, "Cache-Control": "no-store"})
        return answer

    return router


def _json(content: Any, *, status: int = 200) -> Response:
    return JSONResponse(content, status_code=status, headers={"Cache-Control": "no-store"})


def _no_such_run() -> Response:
    return refusal(404, "the server knows no such run of yours; it keeps the last 50 until it is stopped")
