"""Text on a terminal, coloured by the model that wrote each part of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping


def written_text(tokenizer: Any, token_ids: Sequence[int], keys: Sequence[str], colours: "Mapping[str, str]") -> Text:
    """Text of `token_ids` (L,), each part in the style of the key (L,) that wrote it.

    colours: of the models by key, the costliest first (`model_colours`). Control characters are made visible.
    """
    from understudy.report.authorship import visible, written_runs

    text = Text()
    for run in written_runs(tokenizer, token_ids, keys):
        text.append(visible(run.text), style=model_style(run.key, colours))
    return text


def legend(colours: "Mapping[str, str]", *, with_given: bool = False) -> Text:
    """One line that says which style is which model's, and that of given text where there is any."""
    text = Text("Who wrote what: ")
    for key in colours:
        text.append(f"model {key}", style=model_style(key, colours)).append("   ")
    if with_given:
        text.append("given", style=model_style("", colours))
    return text


def model_style(key: str, colours: "Mapping[str, str]") -> str:
    """Colour of a model; all but the costliest are underlined too, for terminals and eyes that show no colour."""
    if not key:
        return "dim"
    return colours[key] if key == next(iter(colours)) else f"underline {colours[key]}"
