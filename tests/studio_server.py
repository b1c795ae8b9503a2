"""The studio behind a real server in a thread of this process, with models that wait where a test tells them to."""

import socket
import threading
from contextlib import contextmanager
from dataclasses import replace

import uvicorn

from understudy.demo import bundled_importance, bundled_models
from understudy.server import ServerLimits
from understudy.server.app import create_app
from understudy.server.keys import Keys
from understudy.studio import studio_room


class Gate:
    """Lets passes through: all of them while it is open, otherwise as many as `let` allows."""

    def __init__(self):
        self._changed, self._left = threading.Condition(), float("inf")

    def let(self, passes):
        """Close the gate, after so many more passes."""
        with self._changed:
            self._left = passes
            self._changed.notify_all()

    def open(self):
        self.let(float("inf"))

    def pass_through(self):
        with self._changed:
            assert self._changed.wait_for(lambda: self._left > 0, timeout=60), "a test left its gate closed"
            self._left -= 1


class GatedDenoiser:
    """Passes everything on, and waits at a gate before each pass."""

    def __init__(self, inner, gate):
        self.inner, self.gate = inner, gate

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def logits(self, xt, t=None, where=None):
        self.gate.pass_through()
        return self.inner.logits(xt, t, where)


def gated_models(gate):
    """The bundled pair behind a gate."""
    models = bundled_models()
    return replace(models, denoisers={key: GatedDenoiser(model, gate) for key, model in models.denoisers.items()})


def studio_app(gate, *, keys=(), importance=None, orphan_seconds=30.0, **limits):
    """The service with the studio; importance: None for that of the bundled pair, False for none."""
    found = bundled_importance() if importance is None else importance or None
    room = studio_room(found, orphan_seconds=orphan_seconds)
    return create_app(gated_models(gate), ServerLimits(**limits), keys=Keys(keys), rooms=[room])


class _QuietServer(uvicorn.Server):
    """Says when it listens, and leaves the signals of this process alone."""

    def __init__(self, config):
        super().__init__(config)
        self.is_listening = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.is_listening.set()

    @contextmanager
    def capture_signals(self):
        yield


@contextmanager
def serving(app, port=0):
    """Serve an application on a free port of this machine, or on `port`; gives its address."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, ws="none")
    server = _QuietServer(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert server.is_listening.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()
