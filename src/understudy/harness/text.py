"""From the harness' strings to token ids, and back. Nothing here runs a model."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from understudy.denoisers.model_set import ModelSet
from understudy.errors import PromptError, one_line

Ids = list[int]


def begin_ids(models: ModelSet) -> Ids:
    """What every sequence begins with: the begin token, or nothing."""
    begin = next(iter(models.denoisers.values())).begin_id
    return [] if begin is None else [begin]


def encode_context(models: ModelSet, text: str) -> Ids:
    """Token ids of a context after the begin token, which is not doubled where a chat template wrote it already."""
    begin = begin_ids(models)
    if not text:
        return begin
    ids = models.encode_prefix(text)
    return ids[1:] if begin and ids[1:2] == begin else ids


def encode_pair(models: ModelSet, context: str, continuation: str) -> tuple[Ids, Ids]:
    """Token ids of a context and of what follows, encoded as one text and cut between them.

    As lm-eval does it: spaces at the end of the context go with the continuation, as tokens begin with them. Where
    a token reaches over the cut, the two are encoded one by one, so that together they are still the text.
    Raises PromptError for a continuation that encodes to nothing.
    """
    stem = context.rstrip()
    tail = context[len(stem) :] + continuation
    given, whole = encode_context(models, stem), encode_context(models, stem + tail)
    if len(whole) > len(given) and whole[: len(given)] == given:
        return given, whole[len(given) :]
    return given, models.encode_suffix(tail)


def windows(context: Ids, target: Ids, limit: int | None, begin: Ids) -> list[tuple[Ids, Ids]]:
    """Contexts and targets of at most `limit` tokens together, whose log-likelihoods add up to that of the target.

    A context loses its left end first (the begin token stays). A target that is too long even so is cut into pieces
    as long as fit; each has before it what room there is for, which is nothing but for the last.
    """
    if limit is None or len(context) + len(target) <= limit:
        return [(context, target)]
    head = begin if context[: len(begin)] == begin else []
    body, room = context[len(head) :], limit - len(head)
    found = []
    for start in range(0, len(target), room):
        piece, before = target[start : start + room], body + target[:start]
        found.append((head + before[len(before) - min(len(before), room - len(piece)) :], piece))
    return found


def noise_index(ids: Sequence[int]) -> int:
    """Number in 0 … 2^62 − 1 that stands for token ids: the noise of a request is a function of it, not of its place.

    So an answer depends neither on the other requests nor on those that a cache has answered before.
    """
    digest = hashlib.blake2b(np.asarray(ids, dtype="<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def cut(models: ModelSet, ids: Ids, until: Sequence[str]) -> str:
    """Text of new tokens up to the first end token or string of `until`, neither of which is in it."""
    tokenizer, end = models.tokenizer, next(iter(models.denoisers.values())).end_id
    special = [text for text in until if text in tokenizer.all_special_tokens]
    stops = {end, *(tokenizer.convert_tokens_to_ids(text) for text in special)}
    ends = [place for place, token in enumerate(ids) if token in stops]
    text = models.decode(ids[: ends[0]] if ends else ids)
    found = [place for place in (text.find(stop) for stop in until if stop) if place >= 0]
    return text[: min(found)] if found else text


def chat_text(tokenizer: Any, messages: list[dict[str, str]], *, is_open: bool) -> str:
    """A chat as the tokenizer's own template writes it, up to where an answer begins or else within the last one.

    Raises PromptError where there is no template, or it cannot write these messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("the tokenizer has no chat template; evaluate without --apply_chat_template")
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=is_open, continue_final_message=not is_open
            )
        )
    except Exception as error:  # broad, because a template is a programme of its own
        raise PromptError(f"the chat template cannot write these messages ({one_line(error)})") from error
