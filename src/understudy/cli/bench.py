"""`understudy bench`: what a pass of each model takes on this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from understudy.cli.models import (
    Device,
    Heavy,
    Light,
    Models,
    Precision,
    RemapMasks,
    Tokenizer,
    TrustRemoteCode,
    load_given,
)
from understudy.driving import run_to_end
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.costs import CostTable, PassTime

DEFAULT_BATCH_SIZES = (1, 8, 32)

BatchSizes = Annotated[
    list[int] | None,
    typer.Option("--batch-size", help="Sequences in a pass; may be repeated. Default: 1, 8, 32.", show_default=False),
]
Steps = Annotated[int, typer.Option("--steps", help="Denoising steps N: fewer steps reveal more in each pass.")]
Length = Annotated[int | None, typer.Option("--length", help="Tokens per sample. Default: the most the models take.")]
Graphs = Annotated[bool, typer.Option("--cuda-graphs/--no-cuda-graphs", help="On a GPU, capture passes as graphs.")]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE.json", help="Write the cost table there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def bench_command(
    heavy: Heavy = None,
    light: Light = None,
    model: Models = None,
    batch_size: BatchSizes = None,
    length: Length = None,
    steps: Steps = 256,
    device: Device = "auto",
    precision: Precision = "auto",
    tokenizer: Tokenizer = None,
    trust_remote_code: TrustRemoteCode = False,
    remap_masks: RemapMasks = False,
    cuda_graphs: Graphs = True,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Time a pass of each model at each batch size. The table serves `understudy flops --cost-table`."""
    given = dict(locals())
    from understudy.costs import measure_costs
    from understudy.sampling import default_length
    from understudy.whole_files import check_writable

    sizes = batch_size or list(DEFAULT_BATCH_SIZES)
    for size in sizes:
        if size < 1:
            raise SettingError(f"the batch size is {size}; it must be at least 1")
    if output is not None:
        check_writable(output)
    models = load_given(given).denoisers
    progress = Console(stderr=True)

    def show(figure: "tuple[str, PassTime]") -> None:
        key, entry = figure
        if progress.is_terminal:
            progress.print(f"{key}, batch {entry.batch_size}: {entry.milliseconds:.3g} ms", highlight=False)

    run = measure_costs(
        models,
        length=default_length(models) if length is None else length,
        steps=steps,
        batch_sizes=sizes,
        cuda_graphs=cuda_graphs,
    )
    table = run_to_end(run, show)
    if output is not None:
        table.save(output)
    if as_json:
        typer.echo(json.dumps(table.to_dict()))
    else:
        _show(Console(), table, output)


def _show(console: Console, table: "CostTable", output: Path | None) -> None:
    heading = f"Milliseconds of a pass at length {table.length}, {table.steps} steps, on {table.place}"
    console.print(heading, highlight=False)
    keys = list(table.times)
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("batch", justify="right")
    for key in keys:
        grid.add_column(f"{key}\n[fastest, slowest]", justify="right")
    for key in keys[1:]:
        grid.add_column(f"{key} / {keys[0]}", justify="right")
    for size in table.times[keys[0]]:
        entries = [table.times[key][size] for key in keys]
        cells = [f"{entry.milliseconds:.3g} [{entry.fastest:.3g}, {entry.slowest:.3g}]" for entry in entries]
        ratios = [f"{entry.milliseconds / entries[0].milliseconds:.2f}" for entry in entries[1:]]
        grid.add_row(str(size), *cells, *ratios)
    console.print(grid)
    console.print(f"Median of {entries[0].windows} windows, with the fastest and the slowest.", highlight=False)
    if output is not None:
        console.print(f"Written to {output}; `understudy flops --cost-table {output}` counts in it.", highlight=False)
