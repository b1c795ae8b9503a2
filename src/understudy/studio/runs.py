"""Whose runs there are, what a page is told of them, and when nobody wants one any more.

Everything here belongs to one event loop. Shapes: L length.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from understudy.denoisers.model_set import ModelSet
from understudy.flops import reference_key
from understudy.sampling import SamplingTask
from understudy.server.sequences import Run, RunEvent
from understudy.studio.drafts import segments_of
from understudy.studio.pieces import template_pieces, token_pieces

MAX_OWN, MAX_ALL = 50, 500  # runs that are kept, of one session and of all: every event of each is
MAX_TOKENS = 500_000  # of all that are kept: the events take some 800 bytes a token


@dataclass(eq=False)
class StudioRun:
    """A run as its owner knows it. settings: what stood in the fields. listeners: streams that follow it now.

    pair: what it has in common with the run that was started beside it.
    """

    session: str
    run: Run
    settings: dict[str, Any]
    created: datetime
    pair: str | None = None
    listeners: int = 0
    watch: asyncio.TimerHandle | None = None


@dataclass
class StudioRuns:
    """The runs of all sessions by id, oldest first; one that nobody listens to for `orphan_seconds` is cancelled."""

    orphan_seconds: float
    entries: dict[str, StudioRun] = field(default_factory=dict)

    def add(self, session: str, run: Run, settings: dict[str, Any], pair: str | None = None) -> StudioRun:
        """Keep a run that was just accepted; the oldest finished ones are forgotten for it where there are too many."""
        self.entries[run.id] = entry = StudioRun(session, run, settings, datetime.now(UTC), pair)
        self._forget([kept for kept in self.entries.values() if kept.session == session], MAX_OWN)
        self._forget([*self.entries.values()], MAX_ALL)
        self._lighten()
        self._watch(entry)
        return entry

    def get(self, session: str, run_id: str) -> StudioRun | None:
        """Give a session's own run; nobody sees those of others."""
        entry = self.entries.get(run_id)
        return entry if entry is not None and entry.session == session else None

    def of(self, session: str) -> list[StudioRun]:
        """Give a session's runs, the latest first."""
        return [entry for entry in reversed(self.entries.values()) if entry.session == session]

    async def follow(self, entry: StudioRun, after: int) -> AsyncGenerator[RunEvent, None]:
        """Give the events of a run from `after` on; while someone listens it is not cancelled."""
        entry.listeners += 1
        if entry.watch is not None:
            entry.watch.cancel()
        try:
            async for event in entry.run.events(after):
                yield event
        finally:
            entry.listeners -= 1
            if not entry.listeners:
                self._watch(entry)

    def _watch(self, entry: StudioRun) -> None:
        """Cancel the run after a while, unless someone has come to listen by then."""
        if not entry.run.is_over:
            loop = asyncio.get_running_loop()
            entry.watch = loop.call_later(self.orphan_seconds, _cancel_orphan, entry)

    def _forget(self, kept: list[StudioRun], most: int) -> None:
        """Drop the oldest of `kept` beyond `most`, of those that are over."""
        over = [entry for entry in kept if entry.run.is_over]
        for entry in over[: max(0, len(kept) - most)]:
            del self.entries[entry.run.id]

    def _lighten(self) -> None:
        """Drop the oldest of those that are over while all together have more than `MAX_TOKENS` tokens."""
        held = sum(entry.run.tokens.size for entry in self.entries.values())
        for entry in [entry for entry in self.entries.values() if entry.run.is_over]:
            if held <= MAX_TOKENS:
                return
            held -= entry.run.tokens.size
            del self.entries[entry.run.id]


def _cancel_orphan(entry: StudioRun) -> None:
    if not entry.listeners:
        entry.run.cancel()


@dataclass(frozen=True)
class RunTeller:
    """Says of a run what the page wants to know, in JSON's types."""

    models: ModelSet

    def brief(self, entry: StudioRun) -> dict[str, Any]:
        """A row of the list of past runs."""
        run, task, result = entry.run, entry.run.task, entry.run.result
        return {
            "id": run.id,
            "state": run.state,
            "created": entry.created.isoformat(),
            "settings": entry.settings,
            "pair": entry.pair,
            "schedule": str(task.schedule),
            "segments": segments_of(task.schedule),
            "excerpt": self.models.decode(run.tokens[0].tolist())[:200] if result else None,
            "passes": run.num_passes,
            "schedule_saved": result.flops.schedule_saved if result else None,
            "seconds": result.seconds if result else None,
            "message": run.failure[0] if run.failure else None,
        }

    def whole(self, entry: StudioRun) -> dict[str, Any]:
        """All that is needed to show a run; `canvas`: its tokens so far, null where one is masked."""
        run, task = entry.run, entry.run.task
        tokens = run.tokens.tolist()
        return {
            **self.brief(entry),
            "steps": task.schedule.num_steps,
            "length": task.template.shape[1],
            "num_samples": len(task.template),
            "template": {
                "tokens": task.template[0].tolist(),
                "pieces": template_pieces(self.models, task.template[0].tolist(), task.mask_id),
            },
            "canvas": [[None if token == task.mask_id else token for token in row] for row in tokens],
            "planned": task.plan.num_passes(task.schedule),
            "flops": task.flops.to_dict(),
            **self.costs(task),
        }

    def costs(self, task: SamplingTask) -> dict[str, Any]:
        """FLOPs of a pass by key, so that a page can count while a run goes on.

        fixed: of any pass, per_token: for each token that it reveals, dense: of a full pass.
        """
        length, models = task.template.shape[1], task.denoisers
        costs = {}
        for key, model in models.items():
            one, two = (model.pass_flops(length, revealed).total for revealed in (1, 2))
            dense = model.pass_flops(length).total
            costs[key] = {"fixed": 2 * one - two, "per_token": two - one, "dense": dense}
        return {"keys": list(task.schedule.keys), "reference": reference_key(models, length), "costs": costs}

    def rows(self, run: Run) -> list[list[str]]:
        """Exact characters of every token of a finished run: some tokens hold half a character each."""
        return [token_pieces(self.models, row) for row in run.tokens.tolist()]

    def texts(self, run: Run) -> list[str]:
        """Text of each sample."""
        return [self.models.decode(row) for row in run.tokens.tolist()]

    def document(self, entry: StudioRun) -> dict[str, Any]:
        """Everything about a run, to be kept; `samples` and what they cost only when it is done."""
        run, result = entry.run, entry.run.result
        samples: list[dict[str, Any]] = []
        if result is not None:
            written = [[key or None for key in row] for row in result.written_by().tolist()]
            samples = [
                {"text": text, "token_ids": tokens, "written_by": keys}
                for text, tokens, keys in zip(self.texts(run), result.tokens.tolist(), written, strict=True)
            ]
        return {
            "format": "understudy-studio-run-1",
            "models": dict(self.models.paths),
            "state": run.state,
            "created": entry.created.isoformat(),
            **{name: value for name, value in entry.settings.items() if name != "schedule"},
            "schedule": str(run.task.schedule),
            "schedule_as_typed": entry.settings["schedule"],
            "length": run.task.template.shape[1],
            "nfe": result and result.nfe,
            "flops": result and result.flops.to_dict(),
            "seconds": result and result.seconds,
            "samples": samples,
        }
