"""`understudy flops`: what a schedule saves, before anything is run."""

import json
import re
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from understudy.cli.models import read_bindings
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.flops import TransformerShape
    from understudy.schedule import ModelSchedule

Schedules = Annotated[
    list[str] | None,
    typer.Option("--schedule", help="Such as L125,H750,L125, the default; may be repeated.", show_default=False),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="KEY=BLOCKSxWIDTH", help="Shape of a model, such as H=12x768; may be repeated."),
]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps N; needed where a schedule is in percent.")]
Length = Annotated[int, typer.Option("--length", help="Tokens per sample.")]
Vocabulary = Annotated[int, typer.Option("--vocab-size", help="Entries of the vocabulary, the mask included.")]
Noise = Annotated[str, typer.Option("--noise", help="Noise schedule: loglinear or cosine.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

SAVINGS = {
    "nominal_blocks_saved": "saved:\nnominal\nblocks",
    "nominal_saved": "saved:\nnominal\nwith head",
    "executed_saved": "saved:\nexecuted",
    "schedule_saved": "saved: by\nschedule\nalone",
}
NOTES = (
    ("nominal", "every step a full pass; the paper counts the blocks only"),
    ("executed", "passes that reveal something, against a dense heavy pass at every step"),
    ("by schedule alone", "the same passes, against heavy making all of them"),
)
WIDE = 140  # characters from which every heading takes one line
SHORTEST = 8  # characters that the longest segment takes, as in H100000, and the heading


def flops_command(
    schedule: Schedules = None,
    model: Shapes = None,
    steps: Steps = None,
    length: Length = 1024,
    vocab_size: Vocabulary = 50258,
    noise: Noise = "loglinear",
    as_json: AsJson = False,
) -> None:
    """Count what schedules save, from the shapes of the models alone.

    Defaults are the paper's setting: 12 and 4 blocks of width 768, length 1024, GPT-2 vocabulary, L125,H750,L125.
    """
    from understudy.flops import expected_passes, expected_report
    from understudy.noise import noise_schedule
    from understudy.schedule import ModelSchedule

    _check_positive(length=length, vocab_size=vocab_size)
    law = noise_schedule(noise)
    shapes = _read_shapes(model or ["H=12x768", "L=4x768"], vocab_size)
    rows: list[dict[str, Any]] = []
    for text in schedule or ["L125,H750,L125"]:
        parsed = ModelSchedule.parse(text, steps)
        _check_bound(parsed, shapes)
        report = expected_report(shapes, parsed, law, length=length)
        passes = expected_passes(parsed, law, length)
        rows.append({"schedule": str(parsed), "steps": parsed.num_steps, "nfe": passes, "flops": report.to_dict()})
    models = {key: asdict(shape) for key, shape in shapes.items()}
    document = {"length": length, "vocab_size": vocab_size, "noise": noise, "models": models, "schedules": rows}
    if as_json:
        typer.echo(json.dumps(document))
    else:
        _show(Console(), document)


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise SettingError(f"{name} is {value}; it must be at least 1")


def _read_shapes(models: list[str], vocab_size: int) -> "dict[str, TransformerShape]":
    from understudy.flops import TransformerShape

    shapes = {}
    for key, text in read_bindings(models, "H=12x768").items():
        match = re.fullmatch(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", text, re.ASCII)
        if match is None:
            raise SettingError(f"the shape of {key} is {text!r}; write BLOCKSxWIDTH, both at least 1, such as 12x768")
        shapes[key] = TransformerShape(int(match[2] or 768), int(match[1]), vocab_size)
    return shapes


def _check_bound(schedule: "ModelSchedule", shapes: "dict[str, TransformerShape]") -> None:
    unbound = [key for key in schedule.keys if key not in shapes]
    if unbound:
        raise SettingError(
            f"the schedule {schedule} names {', '.join(unbound)}, but shapes are given for {', '.join(shapes)} only; "
            f"add --model {unbound[0]}=BLOCKSxWIDTH or change the schedule"
        )


def _show(console: Console, document: dict[str, Any]) -> None:
    shapes = ", ".join(f"{key} {shape['blocks']}x{shape['width']}" for key, shape in document["models"].items())
    settings = f"{shapes}, length {document['length']}, vocabulary {document['vocab_size']}"
    rows, is_wide = document["schedules"], console.width >= WIDE
    beside = console.measure(_table(rows, SHORTEST, is_wide)).maximum - SHORTEST
    table = _table(rows, max(SHORTEST, console.width - beside), is_wide)
    console.print("Expected cost of one sample", settings, table, sep="\n", highlight=False)
    notes = Table.grid(padding=(0, 2, 0, 0))
    for name, meaning in NOTES:
        notes.add_row(name, meaning)
    console.print(notes)


def _table(rows: list[dict[str, Any]], schedule_width: int, is_wide: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("schedule", overflow="fold")
    for name in ("passes", *SAVINGS.values()):
        table.add_column(name.replace("\n", " ") if is_wide else name, justify="right", no_wrap=True)
    for row in rows:
        passes = "\n".join(f"{count:.0f} {key}" for key, count in row["nfe"].items())
        savings = (f"{row['flops'][name]:z.1%}" for name in SAVINGS)
        table.add_row(_fold(row["schedule"], schedule_width), passes, *savings)
    return table


def _fold(schedule: str, width: int) -> str:
    """Break a schedule into lines after commas, so that no segment is cut in two."""
    lines = textwrap.wrap(schedule.replace(",", ", "), width)
    return "\n".join(line.replace(" ", "") for line in lines)
