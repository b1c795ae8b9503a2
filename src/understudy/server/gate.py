"""What every request passes first and every answer last: the size of bodies, and what is counted."""

import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.server.metrics import Metrics
from understudy.server.problems import AnswerError

MAX_BODY = 2**20  # bytes; a text of the longest sequences is far smaller


class Gate:
    """Refuses bodies of more than `max_body` bytes, and counts answers by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body: int = MAX_BODY) -> None:
        self.app, self.metrics, self.max_body = app, metrics, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._limited(scope, receive, note)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status or 500)).inc()
            self.metrics.request_seconds.labels(path).observe(time.monotonic() - started)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the body on while it is small enough, whatever its head says of its size."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_body:
            await AnswerError(413, self._too_large, code="body_too_large").answer(scope, receive, send)
            return
        size = 0

        async def count() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body:
                raise HTTPException(413, self._too_large)  # the one kind that is let through while a body is read
            return message

        await self.app(scope, count, send)

    @property
    def _too_large(self) -> str:
        return f"a body may have {self.max_body} bytes; this one has more"
