"""From what stands in the fields of the page to something that can be sampled.

Shapes: L length.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.denoisers.model_set import ModelSet
from understudy.errors import SettingError, UnderstudyError
from understudy.noise import NoiseSchedule
from understudy.prompts import GAP, Prompt
from understudy.sampling import SamplingTask
from understudy.schedule import ModelSchedule
from understudy.server.limits import ServerLimits
from understudy.server.service import read_schedule
from understudy.studio.knowledge import Knowledge, expected_cost
from understudy.studio.pieces import template_pieces
from understudy.studio.wire import Draft, describe


def template_of(models: ModelSet, text: str, new_tokens: int) -> NDArray[np.int64]:
    """Template (L,) of a text with gaps, or of one that `new_tokens` follow; nothing at all is given where it is empty.

    Raises PromptError as `Prompt.template` does.
    """
    if GAP.search(text):
        return Prompt(infill=text).template(models)
    return Prompt(prefix=text or None).template(models, new_tokens=new_tokens)


@dataclass(frozen=True)
class DraftReader:
    """Says of a draft what it comes to, field by field, before anything is run."""

    models: ModelSet
    limits: ServerLimits
    knowledge: Knowledge | None

    def read(self, draft: Draft) -> dict[str, Any]:
        """Give for the text its template or what is wrong with it, and for each schedule the same."""
        template = None
        try:
            template = checked = self._template(draft)
            text = self._text(draft.text, checked)
        except UnderstudyError as error:
            text = {"error": describe(error)}
        return {
            "text": text,
            "schedules": [self._schedule(schedule, draft.steps, template) for schedule in draft.schedules],
        }

    def _text(self, text: str, template: NDArray[np.int64]) -> dict[str, Any]:
        wanted, tokens = int(np.count_nonzero(template == self._mask_id)), template.tolist()
        return {
            "given": len(tokens) - wanted,
            "wanted": wanted,
            "has_gaps": GAP.search(text) is not None,
            "template": {"tokens": tokens, "pieces": template_pieces(self.models, tokens, self._mask_id)},
        }

    @property
    def _mask_id(self) -> int:
        return next(iter(self.models.denoisers.values())).mask_id

    def _template(self, draft: Draft) -> NDArray[np.int64]:
        template = template_of(self.models, draft.text, draft.new_tokens)
        longest = self.limits.max_length(self.models.denoisers)
        if len(template) > longest:
            raise SettingError(f"text and new tokens come to {len(template)} tokens; at most {longest} fit")
        return template

    def _schedule(self, text: str, steps: int, template: NDArray[np.int64] | None) -> dict[str, Any]:
        try:
            self.limits.check_steps(steps)
            chosen = read_schedule(text, steps, self.models.denoisers)
            # One token long: whatever is wrong with the schedule shows, and next to nothing is drawn.
            task = SamplingTask.create(self.models.denoisers, chosen, length=1)
        except UnderstudyError as error:
            return {"error": describe(error)}
        schedule = task.schedule
        return {
            "schedule": str(schedule),
            "segments": segments_of(schedule),
            "expected": None if template is None else self._expected(schedule, task.noise, template),
            "path_kl": None if template is None or self.knowledge is None else self.knowledge.path_kl(schedule),
        }

    def _expected(self, schedule: ModelSchedule, noise: NoiseSchedule, template: NDArray[np.int64]) -> dict[str, Any]:
        wanted = int(np.count_nonzero(template == self._mask_id))
        return expected_cost(self.models.denoisers, schedule, noise, length=len(template), wanted=wanted)


def segments_of(schedule: ModelSchedule) -> list[tuple[str, int]]:
    """Segments as pairs of key and count, for JSON."""
    return [(segment.key, segment.count) for segment in schedule.segments]
