"""A request on its way: its sequences, what has happened to it so far, and who wants to hear of it.

Shapes: n samples, L length, R positions revealed by one pass.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.denoisers.protocol import Denoiser
from understudy.sampling import SampleResult, SamplingOptions, SamplingTask
from understudy.schedule import ModelSchedule

State = Literal["waiting", "running", "done", "cancelled", "failed"]
END_STATES = ("done", "cancelled", "failed")


@dataclass(frozen=True)
class RunRequest:
    """What `understudy.sample` takes: a schedule, and the keyword arguments of `SamplingTask.create`.

    Options batch_size and cuda_graphs are the service's to choose and have no effect.
    """

    schedule: ModelSchedule | str | None = None
    options: SamplingOptions = field(default_factory=SamplingOptions)

    def task(self, denoisers: Mapping[str, Denoiser]) -> SamplingTask:
        """Check the request and draw its plan. Raises the errors of `SamplingTask.create`."""
        return SamplingTask.create(denoisers, self.schedule, **self.options)


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One thing that happened to a run; `index` counts from 1.

    kind: `started`; `reveal` (key, step, sample, positions (R,), tokens (R,), texts (R,), milliseconds); and at the end
    one of `done` (nfe, flops, seconds), `failed` (message, code) and `cancelled`.
    """

    index: int
    kind: str
    details: Mapping[str, Any]

    @property
    def is_end(self) -> bool:
        """Whether nothing comes after it."""
        return self.kind in END_STATES

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return {"index": self.index, "kind": self.kind, **self.details}


class Run:
    """One request from its arrival to its end. The engine writes; anyone may look at it, from any thread.

    id: unguessable. tokens: int64 (n, L), as they are now, the mask id where nothing is revealed yet. failure: what
    went wrong, and its code (`model`, `timeout` or `service`). num_passes: passes made, over all samples. num_admitted:
    samples that have or had a row. created, started, first_token: when it came, had a row and a token (monotonic).
    """

    def __init__(self, task: SamplingTask, seconds: float = float("inf")) -> None:
        self.id, self.task = secrets.token_urlsafe(12), task
        self.tokens = task.template.copy()
        self.num_passes = self.num_admitted = 0
        self.result: SampleResult | None = None
        self.failure: tuple[str, str] | None = None
        self.created = time.monotonic()
        self.started = self.first_token = float("nan")
        self.deadline = self.created + seconds
        self._state: State = "waiting"
        self._events: list[RunEvent] = []
        self._changed = threading.Condition()
        self._listeners: set[_Listener] = set()

    @property
    def state(self) -> State:
        """Where the run is: waiting, running, done, cancelled or failed."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen any more."""
        return self._state in END_STATES

    @cached_property
    def event_keys(self) -> list[str]:
        """Key of the model that makes each event of the plan (E,)."""
        return [str(key) for key in self.task.plan.event_keys(self.task.schedule)]

    def cancel(self) -> None:
        """End the run, if it is not over; its places are free before the next pass begins."""
        self.end("cancelled", {})

    def wait(self, seconds: float | None = None) -> bool:
        """Block until the run is over, or so many seconds long; say whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_over, seconds)

    async def ended(self) -> None:
        """Wait until the run is over, without blocking the event loop."""
        with _Listener(self, wants_all=False) as listener:
            while not self.is_over:
                await listener.woken()

    async def events(self, after: int = 0) -> AsyncIterator[RunEvent]:
        """Give every event whose index is above `after`, those of the past first, and stop at the end of the run.

        Any number of listeners may follow a run, each from wherever it likes; one that leaves changes nothing.
        """
        async with aclosing(self.news(after)) as news:
            async for events in news:
                for event in events:
                    yield event

    async def news(self, after: int = 0) -> AsyncGenerator[list[RunEvent], None]:
        """As `events`, with all that has happened since the last look at a time."""
        after = max(0, after)
        with _Listener(self) as listener:
            while True:
                is_over = self.is_over  # before looking: what ends a run is the last of its events
                if events := self._events[after:]:
                    after += len(events)
                    yield events
                if is_over and after >= len(self._events):
                    return
                await listener.woken()

    # What follows is the engine's.

    def publish(self, kind: str, details: Mapping[str, Any], *, state: State | None = None) -> bool:
        """Append an event and enter a state, unless the run is over; says whether it was not."""
        with self._changed:
            if self.is_over:
                return False
            self._events.append(RunEvent(len(self._events) + 1, kind, details))
            self._state = state or self._state
            is_over = state in END_STATES
            if is_over:
                self.failure = (details["message"], details["code"]) if state == "failed" else None
                self._changed.notify_all()
            listeners = [listener for listener in self._listeners if listener.wants_all or is_over]
        for listener in listeners:
            listener.wake()
        return True

    def start(self) -> None:
        """Say that the run's first sequence has a row."""
        task, self.started = self.task, time.monotonic()
        num_samples, length = task.template.shape
        details = {
            "schedule": str(task.schedule),
            "steps": task.schedule.num_steps,
            "seed": int(task.seed),
            "num_samples": num_samples,
            "length": length,
            "num_passes": task.num_passes,
        }
        self.publish("started", details, state="running")

    def finish(self) -> None:
        """Say that everything is revealed, and what it took; the time is that since the run was started."""
        task, seconds = self.task, time.monotonic() - self.started
        nfe, flops = task.plan.num_passes(task.schedule), task.flops
        self.result = SampleResult(
            torch.from_numpy(self.tokens), task.plan.reveal_step, task.schedule, nfe, flops, seconds
        )
        self.end("done", {"nfe": nfe, "flops": flops.to_dict(), "seconds": round(seconds, 6)})

    def end(self, state: State, details: Mapping[str, Any]) -> bool:
        """Bring the run to its end, unless it is over; says whether it was not."""
        return self.publish(state, details, state=state)

    def fail(self, message: str, code: str) -> bool:
        """End the run with what went wrong, unless it is over; says whether it was not."""
        return self.end("failed", {"message": message, "code": code})

    def listen(self, listener: "_Listener", *, is_there: bool) -> None:
        """Add a listener, or take it away."""
        with self._changed:
            (self._listeners.add if is_there else self._listeners.discard)(listener)


class _Listener:
    """One who waits in an event loop for news of a run; several pieces of news wake it once."""

    def __init__(self, run: Run, *, wants_all: bool = True) -> None:
        self.run, self.wants_all = run, wants_all
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._is_called = False

    def __enter__(self) -> "_Listener":
        self.run.listen(self, is_there=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.run.listen(self, is_there=False)

    def wake(self) -> None:
        """Call from any thread."""
        if self._is_called:
            return
        self._is_called = True
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # its loop is closed: nobody is there any more
            self.run.listen(self, is_there=False)

    async def woken(self) -> None:
        """Wait for news since the last look; what came in the meantime counts."""
        await self._news.wait()
        self._news.clear()
        self._is_called = False


class CanvasKind(NamedTuple):
    """What sequences must have in common to lie on one canvas: a captured pass has these built in."""

    length: int
    temperature: float
    top_p: float


class RunningSequence:
    """One sample of a run while it lies on a canvas: which of its events comes next, and since when it waits.

    kind: of its canvas. slot: its row there. since: number of the last pass that it was in or came after. order: of
    admission.
    """

    def __init__(self, run: Run, sample: int, order: int) -> None:
        self.run, self.sample, self.order = run, sample, order
        task, events = run.task, run.task.plan.events
        self.kind = CanvasKind(task.template.shape[1], task.temperature, task.top_p)
        first, last = np.searchsorted(events.samples, [sample, sample + 1])
        self.event, self.end = int(first), int(last)
        self.slot, self.since = -1, 0

    @property
    def key(self) -> str:
        """Model that the next event needs."""
        return self.run.event_keys[self.event]

    @property
    def is_finished(self) -> bool:
        """Whether no event is left."""
        return self.event == self.end

    def positions(self, event: int) -> NDArray[np.int64]:
        """Positions (R,) that an event reveals."""
        events = self.run.task.plan.events
        return events.positions[events.starts[event] : events.starts[event + 1]]

    def details(
        self,
        event: int,
        positions: NDArray[np.int64],
        tokens: Sequence[int],
        texts: Sequence[str],
        milliseconds: float | None,
    ) -> dict[str, Any]:
        """What a `reveal` says; milliseconds: this sequence's equal share of its pass, None where it was not timed."""
        return {
            "key": self.run.event_keys[event],
            "step": int(self.run.task.plan.events.steps[event]),
            "sample": self.sample,
            "positions": positions.tolist(),
            "tokens": list(tokens),
            "texts": list(texts),
            "milliseconds": milliseconds,
        }
