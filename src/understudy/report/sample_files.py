"""Samples of a file as a report shows them: their texts, who wrote them, and how they were drawn."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import DataError
from understudy.report.authorship import Run, written_runs
from understudy.saved_samples import GIVEN, SavedSamples, check_texts, read_samples

SETTINGS = ("schedule", "seed", "temperature", "top_p", "noise", "prefix", "suffix", "models")


@dataclass(frozen=True)
class SampleFile:
    """Samples with, for each, a letter per token that says who wrote it, or None where the file does not say.

    settings: what the first sample says of how it was drawn; empty for a file that holds texts and ids alone.
    """

    saved: SavedSamples
    writers: tuple[str | None, ...]
    settings: Mapping[str, Any]

    @property
    def num_samples(self) -> int:
        """How many samples the file holds."""
        return len(self.writers)

    @property
    def models(self) -> tuple[str, ...]:
        """Keys that wrote anything, in the order of the file's models where it names them, else of the alphabet."""
        used = {key for letters in self.writers for key in letters or "" if key != GIVEN}
        named = self.settings.get("models")
        order = list(named) if isinstance(named, dict) else []
        return tuple(sorted(used, key=lambda key: (order.index(key) if key in order else len(order), key)))

    @property
    def tokens_by_model(self) -> dict[str, int]:
        """Tokens that each model wrote."""
        counts = Counter("".join(letters or "" for letters in self.writers))
        return {key: counts[key] for key in self.models}

    @classmethod
    def load(cls, path: str | Path) -> "SampleFile":
        """Read a file of `understudy sample --output`, or of a comparison. DataError where it is damaged."""
        saved = read_samples(path)
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line.strip()]
        settings = {name: rows[0][name] for name in SETTINGS if rows[0].get(name) is not None}
        return cls(saved, tuple(row.get("written_by") for row in rows), settings)

    def can_be_cut(self, tokenizer: Any) -> bool:
        """Whether it is known who wrote what, and the tokenizer reads the ids as the texts."""
        if None in self.writers:
            return False
        try:
            check_texts(self.saved, tokenizer)
        except (DataError, OverflowError):  # the second for ids beyond what a tokenizer can be asked for
            return False
        return True

    def runs(self, index: int, tokenizer: Any) -> list[Run]:
        """Text of a sample in runs by writer; uncoloured, as the file has it, without a tokenizer."""
        letters = self.writers[index]
        if tokenizer is None or letters is None:
            return [Run(self.saved.texts[index], "")]
        keys = ["" if letter == GIVEN else letter for letter in letters]
        return written_runs(tokenizer, self.saved.tokens[index], keys)


def cut_runs(runs: Sequence[Run], most: int) -> list[Run]:
    """The first `most` characters of runs, with an ellipsis where any are left out."""
    kept: list[Run] = []
    left = most
    for run in runs:
        if len(run.text) > left:
            kept.append(Run(run.text[:left] + " …", run.key))
            break
        kept.append(run)
        left -= len(run.text)
    return kept
