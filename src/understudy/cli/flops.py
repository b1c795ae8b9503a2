"""`understudy flops`: what a schedule saves, before anything is run."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from understudy.cli.models import read_bindings
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.costs import CostTable
    from understudy.flops import Shape
    from understudy.noise import NoiseSchedule
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
Length = Annotated[
    int | None, typer.Option("--length", help="Tokens per sample. Default: 1024, or what the cost table was made at.")
]
Vocabulary = Annotated[
    int | None,
    typer.Option("--vocab-size", help="Entries of the vocabulary, the mask included. Default: 50258, or the table's."),
]
Noise = Annotated[str, typer.Option("--noise", help="Noise schedule: loglinear or cosine.")]
Costs = Annotated[
    Path | None,
    typer.Option("--cost-table", metavar="FILE.json", help="Pass times of `understudy bench`: count milliseconds too."),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", help="Sequences in a pass of the cost table. Default: its largest."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

DEFAULT_LENGTH, DEFAULT_VOCABULARY, DEFAULT_SHAPES = 1024, 50258, ("H=12x768", "L=4x768")
SAVINGS = {
    "nominal_blocks_saved": "saved:\nnominal\nblocks",
    "nominal_saved": "saved:\nnominal\nwith head",
    "executed_saved": "saved:\nexecuted",
    "schedule_saved": "saved: by\nschedule\nalone",
}
TIMES = ("ms a\nsample", "saved:\ntime")
NOTES = (
    ("nominal", "every step a full pass; the paper counts the blocks only"),
    ("executed", "passes that reveal something, against a dense heavy pass at every step"),
    ("by schedule alone", "the same passes, against heavy making all of them"),
)
WIDE = 140  # characters from which every heading takes one line
SHORTEST = 8  # characters that the longest segment takes, as in H100000, and the heading


@dataclass(frozen=True)
class _Scene:
    """What every schedule is counted for; `costs` with the batch size at which it is read, where there is one."""

    shapes: "Mapping[str, Shape]"
    length: int
    noise: "NoiseSchedule"
    costs: "tuple[CostTable, int] | None"


def flops_command(
    schedule: Schedules = None,
    model: Shapes = None,
    steps: Steps = None,
    length: Length = None,
    vocab_size: Vocabulary = None,
    noise: Noise = "loglinear",
    cost_table: Costs = None,
    batch_size: BatchSize = None,
    as_json: AsJson = False,
) -> None:
    """Count what schedules save, from the shapes of the models alone.

    Defaults are the paper's setting: 12 and 4 blocks of width 768, length 1024, GPT-2 vocabulary, L125,H750,L125.

    With a cost table, models and length are those that were measured, and milliseconds are counted too.
    """
    from understudy.noise import noise_schedule
    from understudy.schedule import ModelSchedule

    _check_positive(length=length, vocab_size=vocab_size)
    law = noise_schedule(noise)
    costs = read_costs(cost_table, batch_size)
    scene = _set_scene(model or (), length, vocab_size, law, costs)
    rows = [_count(ModelSchedule.parse(text, steps), scene) for text in schedule or ["L125,H750,L125"]]
    document = {
        "length": scene.length,
        "vocab_size": max(shape.vocab_size for shape in scene.shapes.values()),
        "noise": noise,
        "models": {key: asdict(shape) for key, shape in scene.shapes.items()},
        **({} if cost_table is None or costs is None else {"cost_table": _describe(cost_table, *costs)}),
        "schedules": rows,
    }
    if as_json:
        typer.echo(json.dumps(document))
    else:
        _show(Console(), document)


def _set_scene(
    models: Sequence[str],
    length: int | None,
    vocab_size: int | None,
    noise: "NoiseSchedule",
    costs: "tuple[CostTable, int] | None",
) -> _Scene:
    """Shapes and length as given or by default; with a cost table those that were measured."""
    if costs is None:
        shapes = _read_shapes(models or DEFAULT_SHAPES, vocab_size or DEFAULT_VOCABULARY)
        return _Scene(shapes, length or DEFAULT_LENGTH, noise, None)
    table, _ = costs
    return _Scene(_measured_shapes(table, models, vocab_size), _measured_length(table, length), noise, costs)


def _count(schedule: "ModelSchedule", scene: _Scene) -> dict[str, Any]:
    from understudy.flops import expected_passes, expected_report

    _check_bound(schedule, scene)
    report = expected_report(scene.shapes, schedule, scene.noise, length=scene.length)
    row: dict[str, Any] = {
        "schedule": str(schedule),
        "steps": schedule.num_steps,
        "nfe": expected_passes(schedule, scene.noise, scene.length),
        "flops": report.to_dict(),
    }
    if scene.costs is not None:
        table, batch_size = scene.costs
        row["time"] = {
            "milliseconds": table.sample_milliseconds(schedule, scene.noise, batch_size),
            "saved": table.sample_saved(schedule, scene.noise, batch_size),
        }
    return row


def read_costs(path: Path | None, batch_size: int | None) -> "tuple[CostTable, int] | None":
    """The table with the batch size to read it at, its largest unless given."""
    if path is None:
        if batch_size is not None:
            raise SettingError(f"--batch-size is {batch_size} without a cost table; give --cost-table FILE.json too")
        return None
    from understudy.costs import CostTable

    table = CostTable.load(path)
    if batch_size is None and not table.batch_sizes:
        raise SettingError(f"{str(path)!r} has no batch size at which every model was measured; give --batch-size")
    size = table.batch_sizes[-1] if batch_size is None else batch_size
    table.costliest(size)  # an error unless every model was measured at it
    return table, size


def _measured_length(table: "CostTable", length: int | None) -> int:
    if length not in (None, table.length):
        raise SettingError(
            f"--length is {length}, but the cost table was measured at length {table.length}; leave it out, or measure "
            f"again by `understudy bench --length {length}`"
        )
    return table.length


def _measured_shapes(table: "CostTable", models: Sequence[str], vocab_size: int | None) -> "dict[str, Shape]":
    """Shapes of the table's models: its own where it holds them, else those given."""
    known = {shape.vocab_size for shape in table.shapes.values()}
    if vocab_size is not None and known - {vocab_size}:
        raise SettingError(
            f"--vocab-size is {vocab_size}, but the cost table's models have {', '.join(map(str, sorted(known)))}; "
            "leave it out"
        )
    given = _read_shapes(models, vocab_size or max(known, default=DEFAULT_VOCABULARY))
    for key, shape in given.items():
        if key not in table.times:
            raise SettingError(
                f"--model names {key}, but the cost table holds {', '.join(table.times)} only; measure it"
            )
        if table.shapes.get(key, shape) != shape:
            measured = table.shapes[key]
            raise SettingError(
                f"--model gives {key} as {shape.blocks}x{shape.width}, but the cost table measured "
                f"{measured.blocks}x{measured.width}; leave it out"
            )
    shapes = {key: table.shapes.get(key) or given.get(key) for key in table.times}
    missing = [key for key, shape in shapes.items() if shape is None]
    if missing:
        raise SettingError(
            f"the cost table does not know the shape of {missing[0]}; add --model {missing[0]}=BLOCKSxWIDTH"
        )
    return {key: shape for key, shape in shapes.items() if shape is not None}


def _describe(path: Path, table: "CostTable", batch_size: int) -> dict[str, Any]:
    """What the milliseconds hold for."""
    return {
        "file": str(path),
        "batch_size": batch_size,
        "steps": table.steps,
        "reference": table.costliest(batch_size),
        "place": table.place,
    }


def _check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise SettingError(f"{name} is {value}; it must be at least 1")


def _read_shapes(models: Sequence[str], vocab_size: int) -> "dict[str, Shape]":
    from understudy.flops import TransformerShape

    shapes: dict[str, Shape] = {}
    for key, text in read_bindings(models, "H=12x768").items():
        match = re.fullmatch(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", text, re.ASCII)
        if match is None:
            raise SettingError(f"the shape of {key} is {text!r}; write BLOCKSxWIDTH, both at least 1, such as 12x768")
        shapes[key] = TransformerShape(int(match[2] or 768), int(match[1]), vocab_size)
    return shapes


def _check_bound(schedule: "ModelSchedule", scene: _Scene) -> None:
    unbound = [key for key in schedule.keys if key not in scene.shapes]
    if unbound:
        source = "shapes are given for" if scene.costs is None else "the cost table holds"
        remedy = "add --model {}=BLOCKSxWIDTH" if scene.costs is None else "measure {} too"
        raise SettingError(
            f"the schedule {schedule} names {', '.join(unbound)}, but {source} {', '.join(scene.shapes)} only; "
            f"{remedy.format(unbound[0])} or change the schedule"
        )


def _show(console: Console, document: dict[str, Any]) -> None:
    shapes = ", ".join(f"{key} {shape['blocks']}x{shape['width']}" for key, shape in document["models"].items())
    settings = f"{shapes}, length {document['length']}, vocabulary {document['vocab_size']}"
    rows, is_wide = document["schedules"], console.width >= WIDE
    beside = console.measure(_table(rows, SHORTEST, is_wide)).maximum - SHORTEST
    table = _table(rows, max(SHORTEST, console.width - beside), is_wide)
    console.print("Expected cost of one sample", settings, table, sep="\n", highlight=False)
    notes = Table.grid(padding=(0, 2, 0, 0))
    for name, meaning in (*NOTES, *_time_notes(document)):
        notes.add_row(name, meaning)
    console.print(notes)


def _time_notes(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What the columns of time hold for, where there are any."""
    costs = document.get("cost_table")
    if costs is None:
        return []
    place = f"batches of {costs['batch_size']} on {costs['place']}"
    note = grid_note(costs["steps"], [row["steps"] for row in document["schedules"]])
    meaning = f"milliseconds of those passes in {place}{note}"
    return [("ms a sample", meaning), ("time", f"against {costs['reference']} making all of them")]


def grid_note(timed_steps: int, steps: Iterable[int]) -> str:
    """What to add to milliseconds where passes were timed at another number of steps than is counted."""
    is_same = all(count == timed_steps for count in steps)
    return "" if is_same else f", timed at {timed_steps} steps, where a pass reveals another number of tokens"


def _table(rows: list[dict[str, Any]], schedule_width: int, is_wide: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("schedule", overflow="fold")
    for name in ("passes", *SAVINGS.values(), *(TIMES if "time" in rows[0] else ())):
        table.add_column(name.replace("\n", " ") if is_wide else name, justify="right", no_wrap=True)
    for row in rows:
        passes = "\n".join(f"{count:.0f} {key}" for key, count in row["nfe"].items())
        savings = [f"{row['flops'][name]:z.1%}" for name in SAVINGS]
        if "time" in row:
            time = row["time"]["milliseconds"]
            savings += [f"{time:,.0f}" if time >= 100 else f"{time:.3g}", f"{row['time']['saved']:z.1%}"]
        table.add_row(fold_schedule(row["schedule"], schedule_width), passes, *savings)
    return table


def fold_schedule(schedule: str, width: int) -> str:
    """Break a schedule into lines after commas, so that no segment is cut in two."""
    lines = textwrap.wrap(schedule.replace(",", ", "), width)
    return "\n".join(line.replace(" ", "") for line in lines)
