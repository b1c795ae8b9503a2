"""From a body to what the engine samples, and back to the choices of an answer.

Shapes: L length, G new tokens.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.prompts import GAP, Prompt
from understudy.sampling import SamplingOptions, fill_template
from understudy.server.growing_text import GrowingText
from understudy.server.problems import AnswerError, problem_of
from understudy.server.sequences import Run, RunRequest
from understudy.server.service import Service
from understudy.server.wire import DEFAULT_MAX_TOKENS, Choice, CompletionAnswer, CompletionBody, Cost, Usage


@dataclass(frozen=True)
class Asked:
    """One prompt and its samples. first, end: where its text lies in the template; shown: what goes before the text."""

    request: RunRequest
    first: int
    end: int
    shown: str = ""

    @property
    def num_samples(self) -> int:
        """Samples of this prompt."""
        return self.request.options["num_samples"]

    @property
    def template(self) -> Any:
        """Template (L,)."""
        return self.request.options["template"]


@dataclass(frozen=True)
class Asking:
    """All that one body asks for."""

    service: Service
    body: CompletionBody
    id: str
    created: int
    model: str
    seed: int
    prompts: Sequence[Asked]

    @classmethod
    def read(cls, service: Service, body: CompletionBody) -> "Asking":
        """Understand a body. Raises AnswerError where it asks for what there is not."""
        model = body.model or service.name
        schedule = _schedule_text(service, body, model)
        seed = secrets.randbelow(2**53) if body.seed is None else body.seed  # exact in JSON, wherever it is read
        most = service.limits.samples
        count = body.num_samples * (1 if body.infill is not None else len(body.prompts))
        if count > most:
            raise AnswerError(
                400, f"{count} samples are asked for; this service takes at most {most} at a time", param="n"
            )
        asked = []
        for number, (row, first, end, shown) in enumerate(_templates(service, body)):
            indices = range(number * body.num_samples, (number + 1) * body.num_samples)
            request = _request(service, body, schedule, {"template": row, "seed": seed, "indices": indices})
            asked.append(Asked(request, first, end, shown))
        name = f"cmpl-{secrets.token_urlsafe(16)}"
        return cls(service, body, name, int(time.time()), model, seed, asked)

    def submit(self) -> list[Run]:
        """Give everything to the engine. Raises AnswerError where it cannot or will not take it."""
        try:
            return self.service.engine.submit_all([asked.request for asked in self.prompts])
        except UnderstudyError as error:
            raise problem_of(error) from error

    def texts(self) -> list[list[GrowingText]]:
        """Empty texts of the samples of each prompt."""
        return [[self.text(asked) for _ in range(asked.num_samples)] for asked in self.prompts]

    def text(self, asked: Asked) -> GrowingText:
        """An empty text of a sample of a prompt."""
        tokenizer = self.service.models.tokenizer
        ends = {model.end_id for model in self.service.models.denoisers.values() if model.end_id is not None}
        if self.body.infill is not None:
            return GrowingText(tokenizer)
        given = asked.template[: asked.first].tolist()
        return GrowingText(tokenizer, given, stops=self.body.stops, ends=() if self.body.ignore_eos else ends)

    def answer(self, runs: Sequence[Run]) -> CompletionAnswer:
        """The answer, when all runs are done."""
        choices: list[Choice] = []
        for asked, run, texts in zip(self.prompts, runs, self.texts(), strict=True):
            for row, text in zip(run.tokens.tolist(), texts, strict=True):
                ids = row[asked.first : asked.end]
                shown = asked.shown + text.push(ids) + text.close()
                choices.append(self.choice(len(choices), shown, text, ids if self.body.return_token_ids else None))
        return self.envelope(choices, usage=self.usage(), understudy=self.cost(runs))

    def choice(self, index: int, piece: str, text: GrowingText, ids: list[int] | None = None) -> Choice:
        """A choice of an answer or a chunk."""
        return Choice(index=index, text=piece, finish_reason=text.finish_reason, token_ids=ids)

    def envelope(self, choices: list[Choice], **rest: Any) -> CompletionAnswer:
        """An answer or a chunk around choices."""
        return CompletionAnswer(id=self.id, created=self.created, model=self.model, choices=choices, **rest)

    def usage(self) -> Usage:
        """Tokens given and sampled."""
        mask_id = next(iter(self.service.models.denoisers.values())).mask_id
        wanted = [int(np.count_nonzero(asked.template == mask_id)) for asked in self.prompts]
        given = sum(len(asked.template) - new for asked, new in zip(self.prompts, wanted, strict=True))
        sampled = sum(asked.num_samples * new for asked, new in zip(self.prompts, wanted, strict=True))
        return Usage(prompt_tokens=given, completion_tokens=sampled, total_tokens=given + sampled)

    def cost(self, runs: Sequence[Run]) -> Cost:
        """What all runs together took."""
        results = [run.result for run in runs if run.result is not None]
        nfe = {key: sum(result.nfe[key] for result in results) for key in results[0].nfe}
        return Cost(
            schedule=str(results[0].schedule),
            steps=results[0].schedule.num_steps,
            seed=self.seed,
            nfe=nfe,
            flops=_together([result.flops.to_dict() for result in results]),
            seconds=round(max(result.seconds for result in results), 6),
        )


def _together(reports: list[dict[str, float]]) -> dict[str, float]:
    """Sum FLOPs, and weigh each saved share by what it is a share of.

    That of the nominal figures is N dense passes, of which the blocks are the same share at about the same length.
    """
    executed = [report["executed"] for report in reports]
    dense = [cost / (1 - report["executed_saved"]) for cost, report in zip(executed, reports, strict=True)]
    alone = [cost / (1 - report["schedule_saved"]) for cost, report in zip(executed, reports, strict=True)]
    weights = {"schedule_saved": alone}
    return {
        name: sum(executed)
        if name == "executed"
        else float(np.average([report[name] for report in reports], weights=weights.get(name, dense)))
        for name in reports[0]
    }


def _schedule_text(service: Service, body: CompletionBody, model: str) -> str | None:
    """The schedule that a body asks for: in words, or by the name of one model."""
    if model == service.name:
        return body.schedule
    if model not in service.models.denoisers:
        known = ", ".join([service.name, *service.models.denoisers])
        raise AnswerError(
            404, f"there is no model {model!r}; there are: {known}", param="model", code="model_not_found"
        )
    if body.schedule is not None:
        raise AnswerError(
            400, f"model {model} works alone; leave the schedule out or name {service.name}", param="schedule"
        )
    return f"{model}100%"


def _request(service: Service, body: CompletionBody, schedule: str | None, own: SamplingOptions) -> RunRequest:
    most = service.limits.steps
    try:
        service.limits.check_steps(body.steps)
        resolved = service.resolve(schedule, body.steps, len(own["template"]))  # type: ignore[arg-type]
    except UnderstudyError as error:
        raise problem_of(error, "steps") from error
    if resolved.num_steps > most:
        what = f"the schedule has {resolved.num_steps} steps; this service takes at most {most}"
        raise AnswerError(400, what, param="schedule")
    options: SamplingOptions = {
        **own,
        "num_samples": body.num_samples,
        "noise": body.noise,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
    }
    return RunRequest(resolved, options)


def _templates(service: Service, body: CompletionBody) -> list[tuple[Any, int, int, str]]:
    """Template of each prompt, where its text begins and ends in it, and what is shown before."""
    try:
        if body.infill is not None:
            row = _infill(service, body.infill)
            return [(row, 0, len(row), "")]
        _check_no_gap("suffix", body.suffix or "")
        suffix = service.models.encode_suffix(body.suffix) if body.suffix else []
        return [_template(service, body, prompt, suffix) for prompt in body.prompts]
    except UnderstudyError as error:
        raise problem_of(error, "prompt" if body.infill is None else "infill") from error


def _infill(service: Service, text: str) -> Any:
    # Before anything of that size is made.
    sizes = [gap[1] or "1" for gap in GAP.finditer(text)]
    if any(len(size) > 9 for size in sizes) or sum(map(int, sizes)) > service.max_length:
        raise _too_long(service, "the gaps alone come to more", "infill")
    row = Prompt(infill=text).template(service.models)
    if len(row) > service.max_length:
        raise _too_long(service, f"the infill has {len(row)}", "infill")
    return row


def _template(
    service: Service, body: CompletionBody, prompt: str | list[int], suffix: list[int]
) -> tuple[Any, int, int, str]:
    models = service.models
    first_model = next(iter(models.denoisers.values()))
    if isinstance(prompt, str):
        _check_no_gap("prompt", prompt)
        begin = [] if first_model.begin_id is None else [first_model.begin_id]
        ids, shown = (models.encode_prefix(prompt), prompt) if prompt else (begin, "")
    else:
        _check_ids(prompt, first_model.vocab_size)
        ids, shown = prompt, models.decode(prompt)
    given = len(ids) + len(suffix)
    length = body.length or given + (body.max_tokens or DEFAULT_MAX_TOKENS)
    if length > service.max_length:
        field = "length" if body.length else "max_tokens" if given < service.max_length else "prompt"
        raise _too_long(service, f"{given} are given and {length - given} asked for", field)
    row = fill_template(length, first_model.mask_id, ids, suffix)
    return row, len(ids), length - len(suffix), shown if body.echo else ""


def _check_no_gap(field: str, text: str) -> None:
    """A gap would be taken for plain text where nothing is filled in."""
    if (gap := GAP.search(text)) is not None:
        message = (
            f"the {field} holds {gap[0][:20]}, which is filled in an infill alone: put the whole text into infill, "
            "without prompt, suffix, max_tokens and length"
        )
        raise AnswerError(400, message, param=field)


def _check_ids(ids: list[int], vocab_size: int) -> None:
    if (strange := max(ids)) >= vocab_size:
        message = f"token {strange} lies outside of the vocabulary; ids go from 0 to {vocab_size - 1}"
        raise AnswerError(400, message, param="prompt")


def _too_long(service: Service, what: str, param: str) -> AnswerError:
    message = f"a sequence may have {service.max_length} tokens here, and {what}; shorten it"
    return AnswerError(400, message, param=param, code="context_length_exceeded")
