"""The engine of the service: one thread that makes pass after pass, each for whoever needs the same model.

Continuous batching: requests join and leave between passes, at whatever step each of them is. A sample is the same
whatever else runs, as in `understudy.sample`: on the CPU to the last bit. On a GPU the next pass is begun before the
tokens of the last one have arrived, which its plan does not need to know.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from understudy.denoisers.model_set import ModelSet
from understudy.errors import QueueFullError, ServiceError, UnderstudyError, one_line
from understudy.sampling.queue import Pass
from understudy.sampling.task import device_of
from understudy.server.batching import assemble, choose
from understudy.server.canvases import LaunchedPass, SharedCanvas
from understudy.server.limits import ServerLimits
from understudy.server.sequences import CanvasKind, Run, RunningSequence, RunRequest
from understudy.server.texts import TokenTexts
from understudy.server.throughput import Throughput

log = logging.getLogger(__name__)

EngineState = Literal["new", "running", "draining", "stopped", "broken"]


class Observer:
    """What an engine tells of its work, in its own thread; here nobody listens."""

    def passed(self, batch: Pass, length: int) -> None:
        """Hear of a pass that was made, of sequences of `length` tokens."""

    def left(self, run: Run) -> None:
        """Hear of a run that is over and gone from the engine."""


class Engine:
    """Serves many requests at once, over the models of one set.

    submit, stop and the runs may be used from any thread. limits: what it takes on. cuda_graphs: as in `sample`.

    >>> from understudy.denoisers.model_set import bundled_models
    >>> engine = Engine(bundled_models())
    >>> engine.start()
    >>> run = engine.submit(RunRequest("L2,H4,L2", {"length": 16, "seed": 1}))
    >>> run.wait(), run.state, tuple(run.result.tokens.shape)
    (True, 'done', (1, 16))
    >>> engine.stop()
    True
    """

    def __init__(
        self,
        models: ModelSet,
        limits: ServerLimits | None = None,
        *,
        observer: Observer | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        self.models, self.limits = models, limits or ServerLimits()
        self.texts = TokenTexts(models.tokenizer)
        self._observer, self._cuda_graphs = observer or Observer(), cuda_graphs
        self._state: EngineState = "new"
        self._reason = ""
        self._changed = threading.Condition()
        self._waiting: deque[Run] = deque()  # under the lock, as the state; what follows is the thread's own
        self._active: list[RunningSequence] = []
        self._canvases: dict[CanvasKind, SharedCanvas] = {}
        self._pending: deque[LaunchedPass] = deque()
        self._left: dict[Run, int] = {}  # sequences of each run that are not finished
        self._admitted = self._made = 0
        self._throughput, self._settled_at = Throughput(), 0.0
        self._depth = 0 if device_of(models.denoisers).type == "cpu" else 1  # passes under way while one is chosen
        self._thread = threading.Thread(target=self._work, name="understudy-engine", daemon=True)

    @property
    def state(self) -> EngineState:
        """What it is doing: new, running, draining, stopped or broken."""
        return self._state

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a row."""
        with self._changed:
            return sum(len(run.tokens) - run.num_admitted for run in self._waiting)

    @property
    def num_active(self) -> int:
        """Sequences that have a row."""
        return len(self._active)

    def start(self) -> None:
        """Begin to work; once."""
        with self._changed:
            assert self._state == "new", "an engine is started once"
            self._state = "running"
        self._settled_at = time.monotonic()
        self._thread.start()

    def stop(self, *, drain: bool = True, seconds: float | None = None) -> bool:
        """Refuse new requests and end: after those that were accepted are finished, or at once where not `drain`.

        seconds: how long to wait for that, as long as it takes unless given; runs that are not over then are
        cancelled. Says whether the thread has ended.
        """
        with self._changed:
            if self._state == "new":
                self._state = "stopped"
            elif self._state == "running":
                self._state = "draining"
            self._changed.notify_all()
        if self._thread.ident is None or self._thread is threading.current_thread():
            return True
        if drain:
            self._thread.join(seconds)
        if self._thread.is_alive():
            self._cancel_all()
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def submit(self, request: RunRequest) -> Run:
        """Accept a request, to be served as soon as there is room.

        Raises the errors of `SamplingTask.create`, SettingError where it asks for more than the limits allow,
        QueueFullError where there is no room for it at present, ServiceError where the engine takes nothing.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[RunRequest]) -> list[Run]:
        """Accept all of several requests, or none; see `submit`. The limits are those of one request for each."""
        for request in requests:
            self.limits.check(request, self.models.denoisers)
        wanted = sum(request.options.get("num_samples", 1) for request in requests)
        with self._changed:  # before plans are drawn, which takes the most time of all that happens here
            self._check_room(wanted)
        runs = [Run(request.task(self.models.denoisers), self.limits.seconds) for request in requests]
        with self._changed:
            self._check_room(wanted)
            self._waiting += runs
            self._changed.notify_all()
        return runs

    def _check_room(self, wanted: int) -> None:
        if self._state != "running":
            reasons = {"broken": self._reason, "new": "the service has not been started"}
            raise ServiceError(reasons.get(self._state, "the service is shutting down; ask another one"))
        room = self.limits.max_sequences + self.limits.queue
        present = [*(sequence.run for sequence in self._active), *self._waiting]
        taken = self.num_waiting + len(self._active)
        if taken + wanted > room:
            mean = sum(len(run.task.plan.events) / len(run.tokens) for run in present) / max(1, len(present))
            raise QueueFullError(
                f"{taken} sequences are being sampled or wait, of {room} at most, and {wanted} more are asked for; "
                "ask again later",
                retry_seconds=self._throughput.seconds_for((taken + wanted - room) * mean),
            )

    def _cancel_all(self) -> None:
        with self._changed:
            runs = {*self._waiting, *(sequence.run for sequence in list(self._active))}
        for run in runs:
            run.cancel()

    # What follows is the thread's.

    def _work(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # broad, because whatever it is, nobody may wait for ever
            log.exception("the engine is broken")
            self._break(f"the service is broken ({one_line(error)}); start it again")
        else:
            with self._changed:
                self._state = "stopped"

    def _turn(self) -> bool:
        """Make a pass, or wait until there is one to make; whether to go on."""
        self._sweep()
        with self._changed:
            admitted = self._take_waiting()
            self._active += admitted
        self._admit(admitted)
        groups = (((one.kind, one.key), one) for one in self._active if not one.is_finished)
        batch = choose(groups, self.limits.batch_size)
        if batch:
            self._launch(batch)
        if len(self._pending) > (self._depth if batch else 0):
            self._settle(self._pending.popleft())
        elif not batch:
            with self._changed:
                if not self._waiting:
                    if self._state == "draining":
                        return False
                    self._changed.wait()
                    self._settled_at = time.monotonic()
        return True

    def _sweep(self) -> None:
        """Let go of what is over: cancelled, failed, out of time."""
        now = time.monotonic()
        with self._changed:
            present = list(dict.fromkeys((*self._left, *self._waiting)))
        for run in present:
            if now > run.deadline:
                run.fail(
                    f"not finished within {self.limits.seconds:g} s, the most that one request may take", "timeout"
                )
        over = [run for run in present if run.is_over]
        if not over:
            return
        for sequence in [one for one in self._active if one.run.is_over]:
            self._remove(sequence)
        with self._changed:
            self._waiting = deque(run for run in self._waiting if not run.is_over)
        for run in over:
            self._left.pop(run, None)
            self._observer.left(run)

    def _take_waiting(self) -> list[RunningSequence]:
        """Take those that are next in the queue, as many as there is room for."""
        taken: list[RunningSequence] = []
        while self._waiting and len(self._active) + len(taken) < self.limits.max_sequences:
            run = self._waiting[0]
            taken.append(RunningSequence(run, run.num_admitted, self._admitted))
            taken[-1].since = self._made
            run.num_admitted += 1
            self._admitted += 1
            if run.num_admitted == len(run.tokens):
                self._waiting.popleft()
        return taken

    def _admit(self, sequences: list[RunningSequence]) -> None:
        by_canvas: dict[CanvasKind, list[RunningSequence]] = {}
        for sequence in sequences:
            by_canvas.setdefault(sequence.kind, []).append(sequence)
            run = sequence.run
            if run not in self._left:
                self._left[run] = len(run.tokens)
                run.start()
        for kind, group in by_canvas.items():
            if kind not in self._canvases:
                self._canvases[kind] = SharedCanvas(
                    kind, self.models.denoisers, batch_size=self.limits.batch_size, cuda_graphs=self._cuda_graphs
                )
            self._canvases[kind].add(group)

    def _canvas_of(self, sequence: RunningSequence) -> SharedCanvas:
        return self._canvases[sequence.kind]

    def _remove(self, sequence: RunningSequence) -> None:
        kind = sequence.kind
        self._canvases[kind].remove(sequence)
        self._active.remove(sequence)
        if self._canvases[kind].is_empty:
            del self._canvases[kind]

    def _launch(self, sequences: list[RunningSequence]) -> None:
        self._made += 1
        try:
            launched = self._canvas_of(sequences[0]).launch(assemble(sequences), sequences)
        except Exception as error:  # broad, because a model is somebody else's programme
            self._recover([(sequence, sequence.event) for sequence in sequences], error)
            return
        for sequence in sequences:
            sequence.event += 1
            sequence.since = self._made
        self._pending.append(launched)

    def _settle(self, launched: LaunchedPass) -> None:
        """Wait for a pass, and tell everyone what it revealed."""
        try:
            tokens = launched.tokens()
        except Exception as error:  # as above
            self._recover(launched.pairs, error)
            return
        if tokens is None:
            self._recover(launched.pairs, None)
            return
        now = time.monotonic()
        self._throughput.add(len(launched.pairs), now - self._settled_at)
        share = round(1000 * (now - self._settled_at) / len(launched.pairs), 3)
        self._settled_at = now
        live = [pair for pair in launched.pairs if not pair[0].run.is_over]
        if live:
            self._observer.passed(launched.batch, live[0][0].kind.length)
        ends = np.cumsum(launched.batch.where.counts)
        for (sequence, event), found in zip(launched.pairs, np.split(tokens, ends[:-1]), strict=True):
            self._reveal(sequence, event, found, share)

    def _reveal(
        self, sequence: RunningSequence, event: int, tokens: NDArray[np.int64], milliseconds: float | None = None
    ) -> None:
        run, positions = sequence.run, sequence.positions(event)
        if run.is_over:
            return
        run.tokens[sequence.sample, positions] = tokens
        if not run.num_passes:
            run.first_token = time.monotonic()
        run.num_passes += 1
        texts = [self.texts(token) for token in tokens.tolist()]
        run.publish("reveal", sequence.details(event, positions, tokens.tolist(), texts, milliseconds))
        if event + 1 == sequence.end:
            self._remove(sequence)
            self._left[run] -= 1
            if not self._left[run]:
                self._finish(run)

    def _finish(self, run: Run) -> None:
        run.finish()
        del self._left[run]
        self._observer.left(run)

    def _recover(self, pairs: list[tuple[RunningSequence, int]], error: Exception | None) -> None:
        """After a pass that went wrong: go back to before it, and find out whose fault it was, one by one.

        Passes that were begun after it are dropped and made again. Where the device itself is lost, this raises.
        """
        later = [pair for launched in self._pending for pair in launched.pairs]
        self._pending.clear()
        back: dict[RunningSequence, int] = {}
        for sequence, event in (*pairs, *later):
            if not sequence.run.is_over:
                back[sequence] = min(event, back.get(sequence, event))
        for sequence, event in back.items():
            sequence.event = event
            self._canvas_of(sequence).restore([sequence])
        for sequence, _ in pairs:
            if sequence in back:
                self._try_alone(sequence, error if len(pairs) == 1 else None, is_known=len(pairs) == 1)

    def _try_alone(self, sequence: RunningSequence, error: Exception | None, *, is_known: bool) -> None:
        """Make a sequence's pass without company; a run whose model fails even so is over."""
        if sequence.run.is_over:  # by another of its sequences
            return
        key, tokens = sequence.key, None
        if not is_known:
            try:
                launched = self._canvas_of(sequence).launch(assemble([sequence]), [sequence])
                tokens = launched.tokens()
            except Exception as raised:  # as in _launch
                error = raised
        if tokens is None:
            sequence.run.fail(_failure(key, error), "model")
            return
        self._observer.passed(launched.batch, sequence.kind.length)
        sequence.event += 1
        sequence.since = self._made
        self._reveal(sequence, sequence.event - 1, tokens)

    def _break(self, reason: str) -> None:
        with self._changed:
            self._state, self._reason = "broken", reason
            runs = {*self._waiting, *self._left, *(sequence.run for sequence in self._active)}
            self._waiting.clear()
        for run in runs:
            run.fail(reason, "service")
            self._observer.left(run)
        for kept in (self._active, self._left, self._pending, self._canvases):
            kept.clear()


def _failure(key: str, error: Exception | None) -> str:
    if error is None:
        return f"model {key} returned logits with NaN or no finite entry; is its checkpoint intact?"
    return str(error) if isinstance(error, UnderstudyError) else f"model {key} failed: {one_line(error)}"
