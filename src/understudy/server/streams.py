"""Completions while they are made: text as it becomes final from the left, and the canvas as it fills."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from understudy.server.asking import Asking
from understudy.server.event_stream import event_lines
from understudy.server.problems import AnswerError, problem_of_run
from understudy.server.sequences import Run, RunEvent
from understudy.server.wire import Choice


async def text_chunks(asking: Asking, runs: Sequence[Run]) -> AsyncGenerator[str, None]:
    """OpenAI's stream: a chunk whenever the finished stretch from the left has grown, and what it took in the last."""
    samples = asking.body.num_samples
    unfinished = {
        (number, sample): _Stretch(asking, number, sample) for number in range(len(runs)) for sample in range(samples)
    }
    for stretch in unfinished.values():
        if stretch.asked.shown:
            yield _chunk(asking, stretch.choice(stretch.asked.shown))
    kept = ""  # the end of the last to finish: it goes out with what everything took
    async with aclosing(_merged(runs)) as happenings:
        async for number, events in happenings:
            if (problem := _problem(runs[number], events)) is not None:
                yield event_lines(problem.body)
                return
            grown = dict.fromkeys((number, event.details["sample"]) for event in events if event.kind == "reveal")
            for place in [place for place in grown if place in unfinished]:
                stretch = unfinished[place]
                piece = stretch.grow(runs[number])
                if not stretch.is_over:
                    if piece:
                        yield _chunk(asking, stretch.choice(piece))
                elif len(unfinished) == 1:
                    kept += piece
                else:
                    yield _chunk(asking, unfinished.pop(place).choice(piece))
    (last,) = unfinished.values()  # everything is revealed
    cost = asking.cost(runs)
    if asking.body.stream_options is not None and asking.body.stream_options.include_usage:
        yield _chunk(asking, last.choice(kept))
        yield event_lines(asking.envelope([], usage=asking.usage(), understudy=cost).to_dict())
    else:
        yield _chunk(asking, last.choice(kept), understudy=cost)
    yield event_lines("[DONE]")


class _Stretch:
    """One choice of a stream: how far it is final from the left."""

    def __init__(self, asking: Asking, number: int, sample: int) -> None:
        self.asking, self.number, self.sample = asking, number, sample
        self.asked = asking.prompts[number]
        self.mask_id = next(iter(asking.service.models.denoisers.values())).mask_id
        self.text, self.place = asking.text(self.asked), self.asked.first

    @property
    def is_over(self) -> bool:
        """Whether nothing follows."""
        return self.text.finish_reason is not None

    def grow(self, run: Run) -> str:
        """Give the text that has become final."""
        row, first = run.tokens[self.sample], self.place
        if self.is_over or row[first] == self.mask_id:
            return ""
        while self.place < self.asked.end and row[self.place] != self.mask_id:
            self.place += 1
        piece = self.text.push(row[first : self.place].tolist())
        return piece + (self.text.close() if self.place == self.asked.end else "")

    def choice(self, piece: str) -> Choice:
        """Give a piece of its text as it is sent."""
        return self.asking.choice(self.number * self.asking.body.num_samples + self.sample, piece, self.text)


def _chunk(asking: Asking, choice: Choice, **rest: Any) -> str:
    return event_lines(asking.envelope([choice], **rest).to_dict())


async def canvas_events(asking: Asking, runs: Sequence[Run], every: int) -> AsyncGenerator[str, None]:
    """The stream of a canvas: `start`, `canvas` now and then, `reveal` for every pass, and `done` or `error`.

    every: reveals after which the whole canvas is sent again; 0: never but for the first and the last time.
    """
    samples, made = asking.body.num_samples, 0
    last = sum(run.task.num_passes for run in runs)  # after it the canvas is sent anyway
    yield event_lines(_start(asking, runs), event="start")
    yield event_lines(_canvas(asking, runs), event="canvas")
    async with aclosing(_merged(runs)) as happenings:
        async for number, events in happenings:
            lines: list[str] = []
            for event in events:
                if event.kind == "reveal":
                    made += 1
                    index = number * samples + event.details["sample"]
                    details = {name: value for name, value in event.details.items() if name != "sample"}
                    lines.append(event_lines({"index": index, **details}, event="reveal"))
                    if every and made % every == 0 and made < last:
                        # By itself: whoever reads slowly has many of them to come, which are not to be made at once.
                        yield "".join([*lines, event_lines(_canvas(asking, runs), event="canvas")])
                        lines.clear()
            if (problem := _problem(runs[number], events)) is not None:
                yield "".join([*lines, event_lines(problem.body, event="error")])
                return
            if lines:
                yield "".join(lines)
    yield event_lines(_canvas(asking, runs), event="canvas")
    answer = await asyncio.to_thread(asking.answer, runs)
    yield event_lines(answer.to_dict(), event="done")


def _start(asking: Asking, runs: Sequence[Run]) -> dict[str, Any]:
    schedule = runs[0].task.schedule
    return {
        "id": asking.id,
        "created": asking.created,
        "model": asking.model,
        "schedule": str(schedule),
        "steps": schedule.num_steps,
        "seed": asking.seed,
        "num_passes": sum(run.task.num_passes for run in runs),
    }


def _canvas(asking: Asking, runs: Sequence[Run]) -> dict[str, Any]:
    texts, mask_id = asking.service.engine.texts, runs[0].task.mask_id
    rows = [[None if token == mask_id else token for token in row] for run in runs for row in run.tokens.tolist()]
    return {
        "passes": sum(run.num_passes for run in runs),
        "choices": [
            {"index": index, "tokens": row, "texts": [None if token is None else texts(token) for token in row]}
            for index, row in enumerate(rows)
        ],
    }


def _problem(run: Run, events: Sequence[RunEvent]) -> AnswerError | None:
    """What went wrong, if that is how these events end."""
    return problem_of_run(run) if events[-1].is_end else None


async def _merged(runs: Sequence[Run]) -> AsyncGenerator[tuple[int, list[RunEvent]], None]:
    """Events of several runs as they come, each time those of one run, with its number."""
    if len(runs) == 1:
        async with aclosing(runs[0].news()) as news:
            async for events in news:
                yield 0, events
        return
    arrived: asyncio.Queue[tuple[int, list[RunEvent]]] = asyncio.Queue()

    async def follow(number: int) -> None:
        async with aclosing(runs[number].news()) as news:
            async for events in news:
                await arrived.put((number, events))

    tasks = [asyncio.create_task(follow(number)) for number in range(len(runs))]
    try:
        left = len(runs)
        while left:
            number, events = await arrived.get()
            left -= events[-1].is_end
            yield number, events
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
