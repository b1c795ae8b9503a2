"""`understudy analyze`: where in time the models differ, and what each denoising step costs in path KL."""

import json
import shlex
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from understudy.cli.files import check_files
from understudy.cli.interrupts import journal_kept, keeping
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
    number_facts,
)
from understudy.cli.ray_options import Ray, RayWorkers, place_of, ray_cluster, ray_facts, workers_for
from understudy.driving import run_to_end
from understudy.environment import describe_environment
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.cluster import RayWorkforce
    from understudy.denoisers.model_set import ModelSet
    from understudy.importance import AnalysisProgress, AnalysisSettings, Importance

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR|FILE",
        help="Held-out text: a prepared folder, or text. Default: texts that the bundled judge wrote.",
    ),
]
Blocks = Annotated[int, typer.Option("--blocks", help="Held-out blocks.")]
Times = Annotated[int, typer.Option("--times", help="Times at which they are noised; 0: no held-out curves.")]
Samples = Annotated[int, typer.Option("--num-samples", "-n", help="Trajectories of each condition; 0: none.")]
Steps = Annotated[int, typer.Option("--steps", help="Denoising steps N of the trajectories.")]
Length = Annotated[int | None, typer.Option("--length", help="Tokens per sample. Default: the most the models take.")]
PrefixLengths = Annotated[
    list[int] | None,
    typer.Option("--prefix-length", help="Also trajectories behind so many held-out tokens; may be repeated."),
]
Bins = Annotated[int, typer.Option("--bins", help="Bins of steps in which path KL is pooled.")]
Positions = Annotated[int, typer.Option("--positions", help="Masked positions compared in each pass of a sequence.")]
Noise = Annotated[str | None, typer.Option("--noise", help="loglinear or cosine. Default: as trained, or loglinear.")]
Reference = Annotated[
    str | None, typer.Option("--reference", help="Key to compare with. Default: the costliest model.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Most sequences in one pass.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of noise and trajectories.")]
Output = Annotated[Path, typer.Option("--output", metavar="FILE.json", help="The importance file; what `plan` reads.")]
Figure = Annotated[Path | None, typer.Option("--figure", metavar="FILE.png", help="Draw the curves there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


SETTINGS = ("steps", "length", "num_samples", "bins", "positions", "noise", "batch_size", "seed")


def analyze_command(
    output: Output,
    heavy: Heavy = None,
    light: Light = None,
    model: Models = None,
    data: Data = None,
    blocks: Blocks = 32,
    times: Times = 16,
    num_samples: Samples = 16,
    steps: Steps = 128,
    length: Length = None,
    prefix_length: PrefixLengths = None,
    bins: Bins = 32,
    positions: Positions = 8,
    noise: Noise = None,
    reference: Reference = None,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    figure: Figure = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tokenizer: Tokenizer = None,
    trust_remote_code: TrustRemoteCode = False,
    remap_masks: RemapMasks = False,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    as_json: AsJson = False,
) -> None:
    """Measure which denoising steps matter: loss and KL over time on held-out text, path KL where sampling goes.

    Finished parts are kept in a file beside the output; stopped and given again, the analysis goes on.
    """
    given = dict(locals())
    check_files(output, figure)
    from understudy.denoisers.model_set import BUNDLED_TEXT
    from understudy.importance import AnalysisSettings

    settings = AnalysisSettings(
        prefix_lengths=(0, *(prefix_length or ())),
        num_times=times,
        **{name: given[name] for name in SETTINGS},
    )
    with ray_cluster(given) as cluster:
        models = load_given(given)
        text = _text(data, models, settings.length, blocks, is_own=bool(heavy or light or model))
        source = {"source": data or BUNDLED_TEXT, "blocks": len(text), "sha256": sha256(text.tobytes()).hexdigest()}
        with workers_for(cluster, given, models) as workforce:
            importance = _analyze(models, text, settings, source, given, workforce)
    _draw(importance, figure)
    if as_json:
        typer.echo(json.dumps(importance.to_dict()))
    else:
        _show(Console(), importance, output, figure)


def _analyze(
    models: "ModelSet",
    text: Any,
    settings: "AnalysisSettings",
    source: dict[str, Any],
    given: dict[str, Any],
    workforce: "RayWorkforce | None",
) -> "Importance":
    """Run to the end and save; what is finished is kept beside the output until then. source: of the text."""
    from understudy.importance import analyze
    from understudy.importance.record import FORMAT
    from understudy.record_journal import RecordJournal

    output, place = given["output"], place_of(given)
    path = output.with_name(output.name + ".partial.jsonl")
    numbers = number_facts(given["precision"], place)
    job = {"format": FORMAT, **vars(settings), **numbers, "text": source["sha256"]}
    job |= {"models": models.digests, "reference": given["reference"]}
    run = analyze(
        models.denoisers,
        blocks=text,
        settings=settings,
        reference=given["reference"],
        models={key: {"path": path, "sha256": models.digests[key]} for key, path in models.paths.items()},
        journal=RecordJournal(path, job),
        workforce=workforce,
        data=source,
        command=shlex.join(["understudy", *sys.argv[1:]]),
    )
    with keeping(lambda: journal_kept(path)):
        importance = _drive(run)
    importance = replace(importance, environment={**describe_environment(), **ray_facts(workforce)})
    importance.save(output)
    path.unlink(missing_ok=True)
    return importance


def _text(data: str | None, models: "ModelSet", length: int | None, count: int, *, is_own: bool) -> Any:
    """Held-out blocks (J, L): of the given text, or that of the bundled pair. SettingError where there is neither."""
    from understudy.data import held_out_blocks
    from understudy.denoisers.model_set import bundled_held_out
    from understudy.sampling.task import default_length

    if data is None and is_own:
        raise SettingError("give --data, held-out text for your models: a prepared folder or a text file")
    source = bundled_held_out() if data is None else data
    size = default_length(models.denoisers) if length is None else length
    first = next(iter(models.denoisers.values()))
    return held_out_blocks(
        source, models.tokenizer, length=size, count=count, begin_id=first.begin_id, end_id=first.end_id
    )


def _drive(run: Any) -> "Importance":
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("analysis", total=None)

        def show(progress: "AnalysisProgress") -> None:
            bars.update(bar, description=progress.stage, completed=progress.passes_done, total=progress.num_passes)

        found: Importance = run_to_end(run, show)
        return found


def _draw(importance: "Importance", figure: Path | None) -> None:
    if figure is not None:
        from understudy.report.canvas import write_picture
        from understudy.report.importance_figure import render_importance

        write_picture(figure, render_importance(importance))


def _show(console: Console, importance: "Importance", output: Path, figure: Path | None) -> None:
    if importance.held_out is not None:
        _show_held_out(console, importance)
    if importance.paths:
        _show_paths(console, importance)
    for name, path in (("importance file", output), ("figure", figure)):
        if path is not None:
            console.print(f"{name}: {path}", highlight=False, soft_wrap=True)


def _show_held_out(console: Console, importance: "Importance") -> None:
    from understudy.denoisers.model_set import BUNDLED_TEXT

    curves, reference = importance.held_out, importance.reference
    assert curves is not None
    is_bundled = (importance.data or {}).get("source") == BUNDLED_TEXT
    text = "Bundled texts written by the judge" if is_bundled else "Held-out text"
    table = _grid(f"{text}, {curves.num_blocks} blocks of {curves.length}: nats per masked token, ± 1 s.e.")
    table.add_column("t", justify="right")
    table.add_column(f"loss {reference}", justify="right")
    for key in curves.kl:
        for name in (
            f"loss {key} − {reference}",
            f"KL({reference}‖{key})",
            f"t·KL({reference}‖{key})",
            "same best token",
        ):
            table.add_column(name, justify="right")
    for index in _spread(len(curves.times), 12):
        cells = [f"{curves.times[index]:.2f}", f"{curves.cross_entropy[reference].mean[index]:.2f}"]
        for key, kl in curves.kl.items():
            gap, scaled = curves.gap[key], curves.kl_per_sequence(key)
            cells += [f"{curve.mean[index]:.3f} ± {curve.error[index]:.3f}" for curve in (gap, kl, scaled)]
            cells.append(f"{curves.agreement[key].mean[index]:.0%}")
        table.add_row(*cells)
    console.print(table)
    bounds = ", ".join(f"{key} {value:.3f} ± {error:.3f}" for key, (value, error) in curves.bound.items())
    console.print(f"Bound in nats per token: {bounds}", "", highlight=False, sep="\n")


def _show_paths(console: Console, importance: "Importance") -> None:
    from understudy.schedule import ModelSchedule

    for path in importance.paths:
        table = _grid(
            f"Path KL, {path.name}: nats per sequence of {path.free_positions} free tokens, {path.num_steps} steps, "
            f"{path.num_samples} trajectories of {importance.reference}, ± 1 s.e."
        )
        table.add_column("steps made by")
        parts = {"all": (0.0, 1.0), "first quarter": (0.0, 0.25), "second": (0.25, 0.5), "third": (0.5, 0.75)}
        parts |= {"last quarter": (0.75, 1.0)}
        for name in parts:
            table.add_column(name, justify="right")
        for key in path.keys:
            cells = []
            for start, end in parts.values():
                first, last = round(start * path.num_steps), round(end * path.num_steps)
                made_by = [key if first <= step < last else importance.reference for step in range(path.num_steps)]
                value, error = path.path_kl(ModelSchedule.from_keys(made_by))
                cells.append(f"{value:.1f} ± {error:.1f}" if value >= 10 else f"{value:.2f} ± {error:.2f}")
            table.add_row(key, *cells)
        console.print(table)


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `count`, evenly spaced, from late times down as sampling goes."""
    taken = min(count, wanted)
    return [(count - 1) - index * (count - 1) // max(1, taken - 1) for index in range(taken)]


def _grid(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title_style="bold"
    )
