"""A service over tiny models, stopped whatever happens; and a model that waits to be let on."""

import asyncio
import threading
from contextlib import contextmanager

import numpy as np
import uvicorn

from models import CountingDenoiser
from stage import make_pair, make_tokenizer
from understudy.denoisers.model_set import ModelSet
from understudy.server import Engine, ServerLimits
from understudy.server.serving import address_of, open_socket

TOKENIZER = make_tokenizer()
MASK = TOKENIZER.mask_token_id
SECONDS = 30  # the most that anything here may take


def model_set(denoisers=None):
    denoisers = denoisers or make_pair(TOKENIZER)
    return ModelSet(denoisers, TOKENIZER, dict.fromkeys(denoisers, "tiny"))


@contextmanager
def running_engine(denoisers=None, *, observer=None, ahead=None, **limits):
    """An engine at work; it is stopped at once in the end. ahead: passes begun before one is told, as on a GPU 1."""
    engine = Engine(model_set(denoisers), ServerLimits(**limits), observer=observer)
    engine._depth = engine._depth if ahead is None else ahead
    engine.start()
    try:
        yield engine
    finally:
        assert engine.stop(drain=False, seconds=SECONDS)


class GatedDenoiser(CountingDenoiser):
    """Waits before every pass until it is let on, and notes the canvases (B, L) that it was shown."""

    def __init__(self, inner):
        super().__init__(inner)
        self.permits, self.arrived, self.shown = threading.Semaphore(0), threading.Semaphore(0), []

    def logits(self, xt, t=None, where=None):
        self.shown.append(xt.clone())
        self.arrived.release()
        assert self.permits.acquire(timeout=SECONDS)
        return super().logits(xt, t, where)

    def wait(self):
        """Wait until a pass stands at the gate."""
        assert self.arrived.acquire(timeout=SECONDS)

    def open(self, passes=1_000_000):
        """Let so many passes on."""
        self.permits.release(passes)


class PoisonedDenoiser(CountingDenoiser):
    """Fails over canvases that hold a certain token: by NaN, or by raising."""

    def __init__(self, inner, token, error=None):
        super().__init__(inner)
        self.token, self.error = token, error

    def logits(self, xt, t=None, where=None):
        ill = (xt == self.token).any(1).numpy()
        logits = super().logits(xt, t, where)
        if self.error is not None and ill.any():
            raise self.error
        logits[np.flatnonzero(ill[where.rows])] = float("nan")
        return logits


def follow(run, after=0):
    """All events of a run, to its end."""

    async def collect():
        return [event async for event in run.events(after)]

    return asyncio.run(asyncio.wait_for(collect(), SECONDS))


@contextmanager
def live(app):
    """Address of an application that is served on a free port of this machine, to real clients."""
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            started.set()

    with open_socket("127.0.0.1", 0) as listening:
        server = Server(uvicorn.Config(app, ws="none", log_level="error", timeout_graceful_shutdown=SECONDS))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            assert started.wait(SECONDS)
            yield address_of(listening)
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()
