"""Judges, and what they are given to read: ids as they were drawn, texts encoded anew, or the published protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from understudy import metrics
from understudy.denoisers import load_judge
from understudy.errors import DataError, SettingError
from understudy.text_runs import decode_ids, written_runs
from understudy.tokenizer_files import load_tokenizer

Ids: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

Protocol: TypeAlias = Literal["ids", "retokenized", "published"]
"""How samples reach the judge.

ids: the token ids as they were drawn, for a judge that shares the tokenizer.
retokenized: their text without special tokens, encoded by the judge's tokenizer; every token after the first counts.
published: their text with special tokens, decoded as in `published_text`, cut and counted as in
`metrics.published_rows`. Figures of two protocols are not comparable.
"""


@dataclass(frozen=True)
class Judge:
    """A causal language model that scores samples, the tokenizer it reads with, and the name it is reported under."""

    model: Any
    tokenizer: Any
    name: str

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> "Judge":
        """Load from a folder or hub id that holds both. Raises ModelError or DataError where it does not."""
        return cls(load_judge(path, device=device), load_tokenizer(path), str(path))

    def nlls(self, reading: "Reading", *, batch_size: int = 8, bos_id: int | None = None) -> list[NDArray[np.float64]]:
        """NLLs of the scored tokens of each sample; errors as `metrics.token_nlls`."""
        return metrics.token_nlls(
            self.model, reading.rows, batch_size=batch_size, bos_id=bos_id, scored=list(reading.scored)
        )


@dataclass(frozen=True)
class Reading:
    """What a judge reads: for each sample the ids of its vocabulary, and a bool per id that says whether it counts."""

    rows: Sequence[Ids]
    scored: Sequence[Bools]


def reading_of(
    judge: Judge, rows: Sequence[Ids], free: Sequence[Bools] | Bools, *, protocol: Protocol = "ids", tokenizer: Any
) -> Reading:
    """Put samples before a judge by one protocol.

    rows: token ids of n samples. free: in their shape, false where a token was given. tokenizer: what reads the ids.
    Raises DataError where texts encode to nothing or, under the published protocol, where tokens were given: it has no
    place for them; SettingError for a protocol that is not known.
    """
    if protocol == "ids":
        return Reading(rows, list(free))
    if protocol == "retokenized":
        return _encoded_anew(judge, rows, free, tokenizer)
    if protocol != "published":
        raise SettingError(f"protocol is {protocol!r}; it must be ids, retokenized or published")
    if not all(row.all() for row in free):
        raise DataError("the published protocol scores whole texts, and some tokens were given; use another protocol")
    texts = [published_text(row, tokenizer) for row in rows]
    context = metrics.context_length(judge.model)
    return Reading(*metrics.published_rows(texts, judge.tokenizer, max_length=max(map(len, rows)), context=context))


def published_text(row: Ids, tokenizer: Any) -> str:
    """Text of a sample as the published code decodes it: special tokens kept, spaces cleaned up where that is set.

    That code leaves `clean_up_tokenization_spaces` to the tokenizer's configuration, and the transformers of its time
    (4.38) took it for true where the configuration says nothing, as that of GPT-2. Then spaces before punctuation and
    contractions go, whatever release of transformers is installed: newer ones do nothing of the kind for such
    tokenizers. Those of `understudy prepare` say false.
    """
    text = decode_ids(tokenizer, row.tolist())
    is_cleaned = tokenizer.init_kwargs.get("clean_up_tokenization_spaces", True)
    return str(tokenizer.clean_up_tokenization(text)) if is_cleaned else text


def _encoded_anew(judge: Judge, rows: Sequence[Ids], free: Sequence[Bools] | Bools, tokenizer: Any) -> Reading:
    """Given and sampled text are encoded apart, so that no token of the judge's spans both."""
    special = np.array(tokenizer.all_special_ids, dtype=np.int64)
    ids, scored = [], []
    for index, (row, mine) in enumerate(zip(rows, free, strict=True)):
        is_text = ~np.isin(row, special)
        keys = np.where(mine[is_text], "sampled", "").tolist()
        runs = written_runs(tokenizer, row[is_text].tolist(), keys)
        parts = [judge.tokenizer(run.text, add_special_tokens=False, verbose=False).input_ids for run in runs]
        if not any(part for part, run in zip(parts, runs, strict=True) if run.key):
            raise DataError(f"sample {index} has no sampled text to encode; leave it out, or score the ids")
        ids.append(np.array([token for part in parts for token in part], dtype=np.int64))
        scored.append(np.repeat([bool(run.key) for run in runs], [len(part) for part in parts]))
    return Reading(ids, scored)


def check_vocabulary(tokenizer: Any, judge: Judge) -> None:
    """Raise DataError unless the judge reads every id that it knows as `tokenizer` does.

    Ids beyond the judge's vocabulary, such as a mask token added last, do not count: no sample holds them.
    """
    theirs = {index: token for token, index in judge.tokenizer.get_vocab().items()}
    for token, index in tokenizer.get_vocab().items():
        if index in theirs and theirs[index] != token:
            raise DataError(
                f"judge {judge.name} reads token {index} as {theirs[index]!r}, the models as {token!r}; "
                "give a judge that shares the models' tokenizer, or have texts encoded anew (retokenized)"
            )
