"""Which blocks a light model keeps: the ones whose loss would hurt most, by measurement.

Greedy: of the blocks that remain, leave out the one without which KL(heavy ‖ rest) per masked token is least; measure
again; until as many remain as are wanted. In the first round this KL is the importance of each block. Every round looks
at the same noised text, so candidates are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

from understudy.denoisers.dit import DiTForMaskedLM
from understudy.errors import SettingError
from understudy.lightening.measuring import Divergences, Estimate, Weighing, measure, num_passes
from understudy.lightening.skipping import Kept
from understudy.lightening.text import HeldOutText
from understudy.record_journal import RecordJournal


@dataclass(frozen=True)
class Round:
    """One block was left out.

    kl: by block, KL(heavy ‖ network without it and without those left out before). removed: the block of least KL, the
    first among equals. margin: by how much the second best is worse, paired by block of text; a margin within its error
    says that noise has chosen. None in a round with one candidate.
    """

    kl: dict[int, Estimate]
    removed: int
    margin: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "kl": {str(block): asdict(found) for block, found in self.kl.items()}}


@dataclass(frozen=True)
class Choice:
    """Blocks that stay, in their order, and the rounds that led there."""

    kept: Kept
    rounds: tuple[Round, ...]

    @property
    def kl(self) -> Estimate:
        """KL(heavy ‖ what is kept), measured on the text it was chosen on, so slightly too low."""
        last = self.rounds[-1]
        return last.kl[last.removed]


def choice_passes(num_blocks: int, wanted: int, text: HeldOutText, weighing: Weighing) -> int:
    """Sequences that `choose_blocks` passes through networks."""
    return sum(num_passes(left, text, weighing) for left in range(wanted + 1, num_blocks + 1))


def check_wanted(wanted: int, num_blocks: int) -> None:
    """SettingError unless so many blocks can be kept of a network's and some be left out."""
    if not 1 <= wanted < num_blocks:
        raise SettingError(
            f"blocks is {wanted}; the heavy model has {num_blocks}, so a lighter one can keep 1 to {num_blocks - 1}"
        )


def choose_blocks(
    heavy: DiTForMaskedLM, wanted: int, text: HeldOutText, weighing: Weighing, journal: RecordJournal
) -> Generator[int, None, Choice]:
    """Choose `wanted` blocks; yields sequences passed, `choice_passes` in all.

    SettingError unless `wanted` is at least 1 and below the number of blocks, and the errors of `measure`.
    """
    check_wanted(wanted, len(heavy.blocks))
    kept, rounds = tuple(range(len(heavy.blocks))), list[Round]()
    while len(kept) > wanted:
        subsets = [tuple(block for block in kept if block != left_out) for left_out in kept]
        name = "without " + " ".join(str(entry.removed) for entry in rounds)
        found = yield from measure(heavy, heavy, subsets, text, weighing, journal, name)
        rounds.append(_round(kept, found))
        kept = subsets[kept.index(rounds[-1].removed)]
    return Choice(kept, tuple(rounds))


def _round(kept: Kept, found: Divergences) -> Round:
    kl = [found.estimate(number) for number in range(len(kept))]
    first, *others = sorted(range(len(kept)), key=lambda number: kl[number].mean)
    margin = found.difference(others[0], first) if others else None
    return Round(dict(zip(kept, kl, strict=True)), kept[first], margin)
