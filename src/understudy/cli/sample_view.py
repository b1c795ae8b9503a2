"""Samples as a person reads them: a bar while they are made, the texts, and what they cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from understudy.cli.decoding_options import told_decoding
from understudy.cli.written_text import legend, written_text
from understudy.driving import run_to_end

if TYPE_CHECKING:
    from understudy.cluster import FinishedParts, RayWorkforce, SamplingProgress
    from understudy.denoisers.model_set import ModelSet
    from understudy.sampling import DecodingTask, SampleResult, StepRecord


def run_with_bar(task: "DecodingTask") -> "SampleResult":
    """Execute a task under a progress bar on standard error, whose total is exact if given; no terminal, no bar."""
    from understudy.sampling import task_steps

    console = Console(stderr=True)
    columns = (
        TextColumn("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("passes, model {task.fields[key]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("sampling", total=task.num_passes, key="–")

        def show(record: "StepRecord") -> None:
            progress.update(bar, advance=len(record.samples), key=record.key)

        return run_to_end(task_steps(task), show)


def run_on_cluster_with_bar(
    tasks: "Sequence[DecodingTask]", workforce: "RayWorkforce", parts: "FinishedParts"
) -> "list[SampleResult]":
    """Execute tasks by the workers of a cluster under one bar on standard error; no terminal, no bar."""
    from understudy.cluster import sample_on_cluster

    console = Console(stderr=True)
    columns = (
        TextColumn("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("passes, {task.fields[samples]} samples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("sampling", total=None, samples="–")

        def show(record: "SamplingProgress") -> None:
            samples = f"{record.samples_done}/{record.num_samples}"
            progress.update(bar, completed=record.passes_done, total=record.num_passes, samples=samples)

        return run_to_end(sample_on_cluster(tasks, workforce, parts), show)


def show_result(
    console: Console,
    result: "SampleResult",
    models: "ModelSet",
    indices: Sequence[int],
    settings: Mapping[str, Any],
    *,
    output: Path | None,
    most: int | None = None,
) -> None:
    """Print every sample under its index, an empty line between its documents, then schedule, passes and FLOPs.

    settings: `seed`, `decoding` and `threshold`. most: samples that are printed; the rest are only counted.
    """
    from understudy.report.authorship import model_colours
    from understudy.saved_samples import documents

    colours = model_colours(_costliest_first(result, models))
    written_by = result.written_by()
    if console.is_terminal and len(colours) > 1:
        console.print(legend(colours, with_given=bool((written_by == "").any())))
    for index, tokens, keys in zip(
        indices[:most], result.tokens[:most].tolist(), written_by[:most].tolist(), strict=True
    ):
        texts = [
            written_text(models.tokenizer, [tokens[i] for i in places], [keys[i] for i in places], colours)
            for places in documents(models.tokenizer, tokens)
        ]
        console.rule(f"sample {index}", style="dim")
        # Lines are broken for the eye only: what goes to a file or another program stays as it was sampled.
        console.print(Text("\n\n").join(texts), soft_wrap=not console.is_terminal)
    if most is not None and len(indices) > most:
        console.rule(f"and {len(indices) - most:,} more", style="dim")
    console.rule(style="dim")
    console.print(_summary(result, settings, output))


def _costliest_first(result: "SampleResult", models: "ModelSet") -> list[str]:
    """Keys of the models that wrote something."""
    length = result.tokens.shape[1]
    costs = {key: models.denoisers[key].pass_flops(length).total for key, passes in result.nfe.items() if passes}
    return sorted(costs, key=lambda key: -costs[key])


def _summary(result: "SampleResult", settings: Mapping[str, Any], output: Path | None) -> Table:
    num_samples, length = result.tokens.shape
    counts = ", ".join(f"{count} by {key}" for key, count in result.nfe.items())
    flops, schedule = result.flops, result.schedule
    lines = {
        "schedule": f"{schedule} ({schedule.num_steps} steps, length {length}, seed {settings['seed']})",
        "passes": f"{counts}, for {num_samples} sample{'s' if num_samples > 1 else ''} in {result.seconds:.1f} s",
        "FLOPs": f"{flops.executed:.3g} executed, {flops.executed_saved:z.1%} saved against {schedule.num_steps} dense "
        "heavy steps",
        "schedule alone": f"{flops.schedule_saved:z.1%} saved against heavy in the same passes",
        "nominal": f"{flops.nominal_blocks_saved:z.1%} saved in the blocks, {flops.nominal_saved:z.1%} with the head",
    }
    lines |= told_decoding(settings)
    if output is not None:
        lines["written to"] = str(output)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for name, line in lines.items():
        table.add_row(Text(name, style="dim"), Text(line))
    return table
