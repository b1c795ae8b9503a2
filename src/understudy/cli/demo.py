"""`understudy demo`: four schedules of the bundled models under the same noise."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from understudy.cli.comparison_view import drive, show_samples, show_tables

if TYPE_CHECKING:
    from understudy.evaluation import Comparison

Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for numbers, samples, picture and page.")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n", help="Samples of each schedule; more tell more apart.")]
Steps = Annotated[int, typer.Option("--steps", help="Denoising steps N, at least 8.")]
Length = Annotated[int, typer.Option("--length", help="Tokens per sample.")]
Seed = Annotated[int, typer.Option("--seed", help="All schedules share it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def demo_command(
    output: Output = Path("understudy-demo"),
    num_samples: NumSamples = 8,
    steps: Steps = 64,
    length: Length = 128,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare heavy only, the sandwich, light steps in the middle, and light only. About two minutes on two cores."""
    from understudy.demo import bundled_judge, bundled_models, run_demo
    from understudy.report import write_comparison
    from understudy.whole_files import check_folder

    check_folder(output)
    models, judge = bundled_models(), bundled_judge()
    run = run_demo(models.denoisers, judge, num_samples=num_samples, steps=steps, length=length, seed=seed)
    comparison = drive(run)
    options = {"--output": output, "--num-samples": num_samples, "--steps": steps, "--length": length, "--seed": seed}
    command = shlex.join(["understudy", "demo", *(str(part) for option in options.items() for part in option)])
    written = write_comparison(comparison, output, tokenizer=models.tokenizer, command=command)
    if as_json:
        document = {"command": command, **comparison.to_dict(), "files": [str(path) for path in written]}
        typer.echo(json.dumps(document, ensure_ascii=False))
    else:
        _show(comparison, models.tokenizer, written)


def _show(comparison: "Comparison", tokenizer: object, written: list[Path]) -> None:
    from understudy.report import can_draw

    console = Console()
    show_samples(console, comparison, tokenizer, names=("heavy only", "sandwich"), count=2)
    show_tables(console, comparison)
    console.print("\nWritten:", *(f"  {path}" for path in written), sep="\n", markup=False, highlight=False)
    if not can_draw():
        console.print("No picture: it needs matplotlib, pip install 'understudy[plot]'", markup=False)
