"""The service as a process: the socket, the signals, and leaving in good order."""

import asyncio
import gc
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from understudy.errors import SettingError, one_line
from understudy.server.engine import Engine

ANSWER_SECONDS = 5  # in which those whose requests are cancelled in the end hear of it
FORCED_SECONDS = 5.0  # for the pass that is under way


def open_socket(host: str, port: int) -> socket.socket:
    """Listen on a host and port; 0 is any free one. SettingError where that cannot be."""
    if not 0 <= port <= 65535:
        raise SettingError(f"port is {port}; it must lie between 0 and 65535, where 0 takes a free one")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise SettingError(
            f"host {host!r} is not known here ({one_line(error)}); give an address of this machine"
        ) from error
    try:
        return socket.create_server(place[:2], family=family, backlog=2048)
    except OSError as error:
        reason = one_line(error).partition(" (while")[0]
        raise SettingError(f"cannot listen on {host} port {port}: {reason}; choose another --port") from error


def address_of(listening: socket.socket) -> str:
    """Where a browser finds what listens on a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: FastAPI, listening: socket.socket, *, grace_seconds: int = 60, access_log: bool = True) -> None:
    """Serve an application of `create_app` until the process is told to end, by SIGINT or SIGTERM.

    Then nothing new is accepted, and what was accepted is finished, for `grace_seconds` at most; a second signal
    cancels it, a third leaves without a word.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        access_log=access_log,
        server_header=False,
        timeout_graceful_shutdown=grace_seconds + ANSWER_SECONDS,
    )
    engine = app.state.service.engine
    # Models and libraries stay to the end; the collector need not look through them while requests come and go.
    gc.collect()
    gc.freeze()
    _Server(config, engine, grace_seconds).run(sockets=[listening])
    engine.stop(drain=False, seconds=FORCED_SECONDS)


class _Server(uvicorn.Server):
    """A server for which an orderly end, once asked for, is no failure: it does not raise the signal again."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace_seconds: float) -> None:
        super().__init__(config)
        self.engine, self.grace_seconds = engine, grace_seconds
        self._is_hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; when asked again, cancel what runs, whose clients hear of it, so that all ends by itself.

        When asked a third time, leave at once: threads that wait for a pass which hangs can be ended in no other way.
        """
        if self._is_hurried:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        elif self.should_exit:
            self._is_hurried = True
            self.engine.stop(drain=False, seconds=0)
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was accepted, for so long, and cancel the rest; then close."""
        draining = asyncio.create_task(asyncio.to_thread(self.engine.stop, drain=True, seconds=self.grace_seconds))
        await super().shutdown(sockets)
        if not self.force_exit:
            await draining

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
