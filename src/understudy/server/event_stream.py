"""Answers that go on for a while: server-sent events, and noticing that the client has left."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from understudy.server.sequences import Run

QUIET_SECONDS = 15.0  # then a comment is sent, so that nobody on the way takes the connection for dead
STALL_SECONDS = 60.0  # a client that takes nothing for so long has left


def event_lines(data: Mapping[str, Any] | str, *, event: str | None = None, index: int | None = None) -> str:
    """One event as it is sent; data: JSON, or a bare word."""
    head = "" if event is None else f"event: {event}\n"
    number = "" if index is None else f"id: {index}\n"
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"{number}{head}data: {text}\n\n"


class EventStream(Response):
    """Sends what a generator gives until it ends or the client leaves; then it is closed and `on_end` called."""

    media_type = "text/event-stream"

    def __init__(self, parts: AsyncGenerator[str, None], on_end: Callable[[], None] = lambda: None) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]  # nobody knows it yet
        self.parts, self.on_end = parts, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                with suppress(OSError, TimeoutError):  # the client has left
                    sending.result()
        finally:
            await _end_tasks((sending, leaving))
            await self.parts.aclose()
            self.on_end()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        following: asyncio.Future[str] = asyncio.ensure_future(anext(self.parts))
        try:
            while True:
                done, _ = await asyncio.wait({following}, timeout=QUIET_SECONDS)
                if not done:
                    await self._send(send, ": still here\n\n")
                    continue
                try:
                    part = following.result()
                except StopAsyncIteration:
                    break
                await self._send(send, part)
                following = asyncio.ensure_future(anext(self.parts))
        finally:
            await _end_tasks((following,))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, part: str) -> None:
        message = {"type": "http.response.body", "body": part.encode("utf-8", "replace"), "more_body": True}
        async with asyncio.timeout(STALL_SECONDS):
            await send(message)


async def until_over(request: Request, runs: Iterable[Run]) -> bool:
    """Wait until all runs are over; say whether the client is still there. Where it has left they are cancelled."""
    runs = list(runs)
    ending: asyncio.Future[Any] = asyncio.ensure_future(asyncio.gather(*(run.ended() for run in runs)))
    leaving: asyncio.Future[Any] = asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait({ending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return ending.done()
    finally:
        await _end_tasks((ending, leaving))
        for run in runs:
            run.cancel()  # nothing, where it is over


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end_tasks(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel what still runs, and wait until it has ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
