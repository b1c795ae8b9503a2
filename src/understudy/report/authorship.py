"""Which model wrote which characters of a sample, and the colours that say so everywhere."""

import unicodedata
from collections.abc import Sequence

from understudy.text_runs import Run, written_runs

__all__ = ["PALETTE", "Run", "model_colours", "visible", "written_runs"]

# Blue and orange are told apart with every common form of colour blindness, and stand out from black and from white.
# Their order is that of the models, the costliest first.
PALETTE = ("#3B82D6", "#D97B0A", "#1B9E77", "#9A5BB5", "#B3344C", "#6B7280")


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """Give each key its colour as #RRGGBB; `models` lists the costliest first, as `Comparison.models` does."""
    return {key: PALETTE[index % len(PALETTE)] for index, key in enumerate(models)}


def visible(text: str) -> str:
    """Replace control characters, which a terminal would obey, by a dot; line ends and tabs stay."""
    return "".join("·" if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t" else c for c in text)
