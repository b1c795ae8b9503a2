"""`understudy report`: a folder of results as one page."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder with files of analyze, plan, search, evaluate, bench and sample.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE.html",
        help="The page; the same name with .md, and pictures, beside it. Default: report.html in DIR.",
    ),
]
Title = Annotated[str | None, typer.Option("--title", help="Heading of the page. Default: the folder's name.")]
TokenizerPath = Annotated[
    str | None,
    typer.Option("--tokenizer", metavar="DIR|ID", help="What reads the ids of sample files. Default: the bundled one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def report_command(
    folder: Folder,
    output: Output = None,
    title: Title = None,
    tokenizer: TokenizerPath = None,
    as_json: AsJson = False,
) -> None:
    """Turn a folder of results into one page with figures, tables and what can be read from them."""
    from understudy.report import can_draw, write_report

    written = [str(path) for path in write_report(folder, output, title=title, tokenizer=tokenizer)]
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "page": written[0], "files": written}, ensure_ascii=False))
        return
    console = Console()
    console.print(
        "Written:", *(f"  {path}" for path in written), sep="\n", markup=False, highlight=False, soft_wrap=True
    )
    if not can_draw():
        console.print("No pictures: they need matplotlib, pip install 'understudy[plot]'", markup=False)
