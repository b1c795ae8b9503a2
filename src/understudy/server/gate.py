"""What every request passes first and every answer last: the host, the size of bodies, and what is counted."""

import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.server.hosts import Hosts
from understudy.server.metrics import Metrics
from understudy.server.problems import AnswerError

MAX_BODY = 2**20  # bytes; a text of the longest sequences is far smaller


class Gate:
    """Refuses other hosts than `hosts`, any unless given, and bodies of more than `max_body` bytes.

    Counts answers by path and status.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: Hosts | None = None, max_body: int = MAX_BODY) -> None:
        self.app, self.metrics, self.hosts, self.max_body = app, metrics, hosts, max_body

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
            if (problem := self._stranger(scope)) is None:
                await self._limited(scope, receive, note)
            else:
                await problem.answer(scope, receive, note)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status or 500)).inc()
            self.metrics.request_seconds.labels(path).observe(time.monotonic() - started)

    def _stranger(self, scope: Scope) -> AnswerError | None:
        """What is wrong with the Host header; a browser always sends one."""
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if self.hosts is None or all(map(self.hosts.accept, given)):
            return None
        return AnswerError(
            400,
            f"the Host header is {given[0]!r}, and this service answers on loopback alone: call it by localhost or "
            "127.0.0.1, or serve with --allow-host and that name",
            code="unknown_host",
        )

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
