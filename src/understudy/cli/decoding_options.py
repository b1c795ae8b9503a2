"""Options of commands that sample under any decoding rule."""

from typing import Annotated

import typer

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
