"""`understudy demo`: six schedules of the bundled models under the same noise."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from understudy.cli.comparison_view import drive, show_samples, show_tables

if TYPE_CHECKING:
    from understudy.evaluation import Comparison
    from understudy.planning import Plan

BARS = "▁▂▃▄▅▆▇█"

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
    """Compare six schedules, a planned one and fewer steps of heavy alone among them. Two minutes on two cores."""
    from understudy.demo import bundled_importance, bundled_judge, bundled_models, plan_demo, run_demo
    from understudy.report import write_comparison
    from understudy.whole_files import check_folder

    check_folder(output)
    models, judge, plan = bundled_models(), bundled_judge(), plan_demo(steps)
    options = {"num_samples": num_samples, "steps": steps, "length": length, "seed": seed}
    run = run_demo(models.denoisers, judge, **options, planned=plan.schedule)
    comparison = drive(run)
    words = [str(part) for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = shlex.join(["understudy", "demo", "--output", str(output), *words])
    drawn = {"noise": bundled_importance().noise, "models": models.paths}
    written = write_comparison(comparison, output, tokenizer=models.tokenizer, command=command, drawn=drawn)
    written += _draw_importance(output)
    if as_json:
        predicted = plan.prediction.to_dict()
        document = {"command": command, **comparison.to_dict(), "plan": predicted}
        typer.echo(json.dumps({**document, "files": [str(path) for path in written]}, ensure_ascii=False))
    else:
        _show(comparison, models.tokenizer, plan, written)


def _draw_importance(folder: Path) -> list[Path]:
    """Draw where the bundled models differ, where pictures can be made."""
    from understudy.demo import bundled_importance
    from understudy.report import can_draw
    from understudy.report.canvas import write_picture
    from understudy.report.importance_figure import render_importance

    if not can_draw():
        return []
    path = folder / "importance.png"
    write_picture(path, render_importance(bundled_importance()))
    return [path]


def _show(comparison: "Comparison", tokenizer: object, plan: "Plan", written: list[Path]) -> None:
    from understudy.report import can_draw

    console = Console()
    show_samples(console, comparison, tokenizer, names=("heavy only", "sandwich"), count=2)
    show_tables(console, comparison)
    _show_plan(console, plan)
    console.print(
        "\nWritten:", *(f"  {path}" for path in written), sep="\n", markup=False, highlight=False, soft_wrap=True
    )
    if not can_draw():
        console.print("No picture: it needs matplotlib, pip install 'understudy[plot]'", markup=False)


def _show_plan(console: Console, plan: "Plan") -> None:
    """Where the bundled models differ, and what was planned from it."""
    from understudy.demo import bundled_importance

    path = bundled_importance().path()
    density = path.smooth(32)[0]
    curve = "".join(BARS[min(len(BARS) - 1, int(len(BARS) * value / density.max()))] for value in density)
    plan_kl, sandwich = plan.prediction, next(entry for entry in plan.named if entry.name == "sandwich")
    lines = (
        "\nWhere the light model differs, by path KL, from all masked to clean:",
        f"  {curve}",
        f"So the planned schedule is {plan.schedule}: {plan_kl.path_kl:.1f} ± {plan_kl.path_kl_se:.1f} nats of path KL "
        f"for a text of {path.free_positions} tokens, against {sandwich.path_kl:.1f} ± {sandwich.path_kl_se:.1f} for "
        f"the sandwich ({path.num_samples} trajectories; the analysis comes with the models, `understudy analyze` "
        "makes it anew).",
    )
    console.print(*lines, sep="\n", markup=False, highlight=False)
