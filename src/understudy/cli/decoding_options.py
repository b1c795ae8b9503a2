"""Options of commands that sample under any decoding rule."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

RULE = ("decoding", "block_length", "threshold")  # names of the options below
Decoding = Annotated[
    str,
    typer.Option(
        "--decoding",
        metavar="RULE",
        help="Who is revealed next: ancestral, first_hitting, random, low_confidence, margin or entropy.",
    ),
]
BlockLength = Annotated[
    int | None,
    typer.Option("--block-length", help="With the last four rules: finish so many tokens before the next block."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", help="With low_confidence or margin: a pass reveals all tokens whose score reaches it."
    ),
]


def told_decoding(settings: Mapping[str, Any]) -> dict[str, str]:
    """What a terminal says of the rule that samples were drawn by, name by name; nothing of ancestral sampling."""
    told = {}
    if settings.get("decoding", "ancestral") != "ancestral":
        told["decoding"] = str(settings["decoding"])
    if settings.get("block_length") is not None:
        told["block length"] = str(settings["block_length"])
    if settings.get("threshold") is not None:
        told["threshold"] = (
            f"{settings['threshold']:g}: passes are as many as the models' certainty takes, not the steps"
        )
    return told
