"""What samples begin with, end with or hold: texts with gaps, prefixes, suffixes, chats, from an option or a file.

Shapes: L length of a sample, G new tokens.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.denoisers.model_set import ModelSet
from understudy.errors import DataError, PromptError
from understudy.sampling import fill_template

GAP = re.compile(r"\[MASK(?:[*:](\d+))?\]")
PARTS = {"prefix", "suffix", "infill", "messages"}
MAX_GAP = 65536  # tokens, of one gap and of all
MAX_DIGITS = 9


@dataclass(frozen=True)
class Prompt:
    """What is given of one sample.

    infill: a text with [MASK] for each token that is wanted, or [MASK*5] for five; it goes alone. prefix, suffix: texts
    at its ends. messages: a chat, as the tokenizer's template writes it, instead of a prefix.
    """

    prefix: str | None = None
    suffix: str | None = None
    infill: str | None = None
    messages: tuple[dict[str, str], ...] | None = None

    def __post_init__(self) -> None:
        others = (self.prefix, self.suffix, self.messages)
        if self.infill is not None and any(part is not None for part in others):
            raise PromptError("an infill says all that is given; leave out prefix, suffix and messages")
        if self.prefix is not None and self.messages is not None:
            raise PromptError("messages take the place of a prefix; give one of them")

    def template(
        self, models: ModelSet, *, length: int | None = None, new_tokens: int | None = None
    ) -> NDArray[np.int64]:
        """Template (L,) with the mask id where a token is wanted.

        length: L; new_tokens: G, from which L follows. An infill needs neither and fixes both. Raises PromptError where
        nothing is given to go by, nothing is left to sample, or a text is empty.
        """
        mask_id = next(iter(models.denoisers.values())).mask_id
        if self.infill is not None:
            return _infill(self.infill, models, mask_id)
        prefix = self._prefix(models)
        suffix = [] if self.suffix is None else models.encode_suffix(self.suffix)
        if new_tokens is not None:
            length = len(prefix) + new_tokens + len(suffix)
        if length is None:
            raise PromptError("neither the length of a sample nor the number of new tokens is given; give one of them")
        return fill_template(length, mask_id, prefix, suffix)

    def _prefix(self, models: ModelSet) -> list[int]:
        if self.messages is not None:
            return _chat(self.messages, models.tokenizer)
        return [] if self.prefix is None else models.encode_prefix(self.prefix)


def _infill(text: str, models: ModelSet, mask_id: int) -> NDArray[np.int64]:
    """Encode the text between gaps; a space before a gap belongs to the token that will fill it."""
    begin = next(iter(models.denoisers.values())).begin_id
    ids, end, wanted = [] if begin is None else [begin], 0, 0
    found = list(GAP.finditer(text))
    if not found:
        raise PromptError("an infill holds no [MASK], so there is nothing to sample; write one for each token")
    for gap in found:
        ids += _encoded(text[end : gap.start()].rstrip(" "), models)
        size = gap[1] or "1"
        count = int(size) if len(size) <= MAX_DIGITS else MAX_GAP + 1  # Python reads no numbers of thousands of digits
        if not 1 <= count <= MAX_GAP:
            raise PromptError(f"a gap stands for {size[:MAX_DIGITS]} tokens; it may stand for 1 to {MAX_GAP}")
        wanted += count
        if wanted > MAX_GAP:
            raise PromptError(f"the gaps stand for more than {MAX_GAP} tokens in all; take fewer or shorter ones")
        ids += [mask_id] * count
        end = gap.end()
    return np.array([*ids, *_encoded(text[end:], models)], dtype=np.int64)


def _encoded(text: str, models: ModelSet) -> list[int]:
    return models.encode_suffix(text) if text else []


def _chat(messages: Sequence[dict[str, str]], tokenizer: Any) -> list[int]:
    """Token ids of a chat, up to where the answer begins."""
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("the tokenizer has no chat template; give a prefix instead of messages")
    try:
        text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    except Exception as error:  # broad, because a template is a programme of its own
        reason = str(error).partition("\n")[0]
        raise PromptError(f"the chat template cannot write these messages ({reason})") from error
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read prompts from a file: of each line of a `.jsonl` an object of `PARTS`, of any other text a prefix.

    Empty lines do not count. Raises DataError for a file that cannot be read or holds none, PromptError for a line
    that is no prompt; it says which.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(f"prompts {str(path)!r} cannot be read ({reason})") from error
    is_json = Path(path).suffix == ".jsonl"
    prompts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                prompts.append(_parsed(line) if is_json else Prompt(prefix=line.removesuffix("\r")))
            except PromptError as error:
                raise PromptError(f"line {number} of {str(path)!r}: {error}") from error
    if not prompts:
        raise DataError(f"{str(path)!r} holds no prompt; write one on each line")
    return prompts


def _parsed(line: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"it is no JSON ({error})") from error
    if not isinstance(value, dict) or not value.keys() <= PARTS:
        raise PromptError(f"it must be an object with some of {', '.join(sorted(PARTS))}")
    texts = {name: value.get(name) for name in ("prefix", "suffix", "infill")}
    messages = value.get("messages")
    are_texts = all(text is None or isinstance(text, str) for text in texts.values())
    are_messages = messages is None or (
        isinstance(messages, list)
        and all(isinstance(turn, dict) and all(isinstance(part, str) for part in turn.values()) for turn in messages)
    )
    if not (are_texts and are_messages):
        raise PromptError("prefix, suffix and infill are texts; messages is a list of {role, content}")
    return Prompt(**texts, messages=None if messages is None else tuple(messages))


def by_length(
    templates: Sequence[NDArray[np.int64]], num_samples: int = 1
) -> list[tuple[Sequence[int], NDArray[np.int64]]]:
    """Put templates (L_i,) of one length together: indices of their samples, and the rows (n, L); shortest first.

    num_samples: of each template; template i has the indices from i·num_samples on. A single template stays one row
    (1, L). Sampled group by group under these indices, a sample is what it would be alone: nothing is padded.
    """
    if len(templates) == 1:
        return [(range(num_samples), templates[0][None])]
    groups: dict[int, list[int]] = {}
    for place, template in enumerate(templates):
        groups.setdefault(len(template), []).append(place)
    found: list[tuple[Sequence[int], NDArray[np.int64]]] = []
    for size in sorted(groups):
        indices = [place * num_samples + index for place in groups[size] for index in range(num_samples)]
        found.append((indices, np.repeat(np.stack([templates[place] for place in groups[size]]), num_samples, axis=0)))
    return found
