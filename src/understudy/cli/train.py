"""`understudy train`: a heavy or light masked denoiser, or a left-to-right judge, from token blocks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from understudy.cli.interrupts import OrderlyStop, is_main_process, keeping, training_kept
from understudy.cli.progress import print_plainly

if TYPE_CHECKING:
    from understudy.training import TrainingConfig, TrainingRecord

Data = Annotated[Path, typer.Option(help="Folder that `understudy prepare` wrote.")]
Output = Annotated[
    Path, typer.Option(help="Folder of the run, in the end of the model. Begun earlier, the run goes on.")
]
ObjectiveChoice = Annotated[
    Literal["mdlm", "ar"], typer.Option(help="Masked diffusion (DiT), or left to right (a Llama, e.g. as judge).")
]
HiddenSize = Annotated[int, typer.Option(help="Width of the network.")]
NumBlocks = Annotated[int, typer.Option(help="Transformer blocks: 12 heavy, 4 light in the paper.")]
Heads = Annotated[int, typer.Option(help="Attention heads.")]
IntermediateSize = Annotated[int | None, typer.Option(help="Width of the Llama's MLP. Default: 8/3 of the width.")]
TieEmbeddings = Annotated[
    bool | None, typer.Option(help="One matrix for embedding and head. Default: not for mdlm, for ar yes.")
]
Noise = Annotated[Literal["loglinear", "cosine"], typer.Option(help="Noise schedule.")]
TimeConditioning = Annotated[bool, typer.Option(help="Show the network its noise level.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps.")]
BatchSize = Annotated[int, typer.Option(help="Sequences of a step, over all processes.")]
MicroBatch = Annotated[int | None, typer.Option(help="Sequences a process takes at a time. Default: its whole share.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Peak learning rate.")]
Warmup = Annotated[int, typer.Option(help="Steps of linear warm-up.")]
DecayChoice = Annotated[Literal["constant", "linear", "cosine"], typer.Option(help="Learning rate after the warm-up.")]
MinLrFraction = Annotated[float, typer.Option(help="Where the decay ends, relative to --lr.")]
WeightDecay = Annotated[float, typer.Option(help="AdamW's weight decay.")]
Beta2 = Annotated[float, typer.Option(help="AdamW's second beta.")]
GradClip = Annotated[float, typer.Option(help="Largest gradient norm; 0 is off.")]
Ema = Annotated[float, typer.Option(help="Decay of the averaged weights, which are the model; 0 is off.")]
Dropout = Annotated[float, typer.Option(help="Residual dropout (mdlm).")]
PrecisionChoice = Annotated[
    Literal["auto", "bf16", "fp32"], typer.Option(help="Of matrix products; auto is bf16 on CUDA, fp32 elsewhere.")
]
Compile = Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile the network.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, data order, noise and dropout.")]
LogEvery = Annotated[int, typer.Option(help="Steps between records in log.jsonl.")]
ValidateEvery = Annotated[int, typer.Option(help="Steps between validations; 0 is never.")]
ValidationBlocks = Annotated[int, typer.Option(help="Held-out blocks of a validation.")]
ValidationTimes = Annotated[int, typer.Option(help="Times at which each of them is noised.")]
SampleEvery = Annotated[int, typer.Option(help="Steps between sample texts; 0 is never.")]
NumSamples = Annotated[int, typer.Option(help="Texts per sampling.")]
CheckpointEvery = Annotated[int, typer.Option(help="Steps between checkpoints; 0 is by time only.")]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes between checkpoints; 0 is by steps only.")]
Keep = Annotated[int, typer.Option(help="Checkpoints kept.")]
WeightDtype = Annotated[Literal["float32", "bf16"], typer.Option(help="Weights of the model written in the end.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def train_command(
    data: Data,
    output: Output,
    objective: ObjectiveChoice = "mdlm",
    hidden_size: HiddenSize = 768,
    blocks: NumBlocks = 12,
    heads: Heads = 12,
    intermediate_size: IntermediateSize = None,
    tie_embeddings: TieEmbeddings = None,
    noise: Noise = "loglinear",
    time_conditioning: TimeConditioning = False,
    steps: Steps = 1_000_000,
    batch_size: BatchSize = 512,
    micro_batch: MicroBatch = None,
    learning_rate: LearningRate = 3e-4,
    warmup: Warmup = 2500,
    decay: DecayChoice = "constant",
    min_lr_fraction: MinLrFraction = 0.0,
    weight_decay: WeightDecay = 0.0,
    beta2: Beta2 = 0.999,
    grad_clip: GradClip = 1.0,
    ema: Ema = 0.9999,
    dropout: Dropout = 0.1,
    precision: PrecisionChoice = "auto",
    compile_network: Compile = False,
    seed: Seed = 1,
    log_every: LogEvery = 50,
    validate_every: ValidateEvery = 5000,
    validation_blocks: ValidationBlocks = 256,
    validation_times: ValidationTimes = 16,
    sample_every: SampleEvery = 0,
    num_samples: NumSamples = 4,
    checkpoint_every: CheckpointEvery = 0,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    keep: Keep = 2,
    weight_dtype: WeightDtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Train a model on token blocks, by the published MDLM recipe unless told otherwise.

    Stopped at any moment and given again, the run goes on from its last checkpoint. Ctrl-C or SIGTERM writes one first,
    at the end of the step; a second one stops at once.

    For several GPUs or machines: `accelerate launch -m understudy train …`.
    """
    settings = {name: value for name, value in locals().items() if name not in ("as_json", "compile_network")}
    settings |= {"data": str(data), "output": str(output), "compile": compile_network}
    from understudy.training import TrainingConfig

    _run(TrainingConfig(**settings), as_json=as_json)


def _run(config: TrainingConfig, *, as_json: bool) -> None:
    """Train to the end and say so, or until a signal and say what is kept."""
    import torch

    from understudy.training import train

    began, stop = time.perf_counter(), OrderlyStop()
    with keeping(lambda: training_kept(config.output)):
        records = _drive(train(config, stop=stop), config, stop)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if records["record"].step < config.steps:
            stop.leave()
    if is_main_process():
        _report(records, config, time.perf_counter() - began, as_json=as_json)


def _drive(run: Iterator[TrainingRecord], config: TrainingConfig, stop: OrderlyStop) -> dict[str, TrainingRecord]:
    """Run under a progress bar on standard error, to the end or until a signal; gives the last record of each kind.

    Where standard error is no terminal, a line tells of each record. Of several processes only the main one speaks.
    """
    console = Console(stderr=True)
    latest: dict[str, TrainingRecord] = {}
    first = next(run)
    columns = (
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.description}"),
        TimeRemainingColumn(),
    )
    is_shown = console.is_terminal and is_main_process()
    with stop.listening(), Progress(*columns, console=console, disable=not is_shown) as bar:
        task = bar.add_task("", total=config.steps, completed=first.step)
        for record in chain([first], run):
            latest["record"] = record
            if record.validation is not None:
                latest["validation"] = record
            if is_main_process():
                _show(bar, task, record, config.steps)
    return latest


def _show(bar: Progress, task: TaskID, record: TrainingRecord, steps: int) -> None:
    for note in record.notes:
        bar.print(note, markup=False, soft_wrap=True)
    if record.loss is not None:
        speed = f", {record.tokens_per_second:,.0f} tokens/s" if record.tokens_per_second else ""
        told = f"loss {record.loss:.4f}{speed}"
        bar.update(task, completed=record.step, description=told)
        if not bar.console.is_terminal:
            print_plainly(bar.console, f"step {record.step:,}/{steps:,}: {told}")
    if record.validation is not None:
        bound, perplexity = record.validation["bound"], record.validation["perplexity"]
        bar.print(f"step {record.step}: validation {bound:.4f} nats per token, perplexity {perplexity:.2f}")
    for text in record.samples or ():
        bar.print(f"— {text}", markup=False)


def _report(latest: dict[str, TrainingRecord], config: TrainingConfig, seconds: float, *, as_json: bool) -> None:
    record = latest["record"]
    validation = latest["validation"].validation if "validation" in latest else None
    document: dict[str, Any] = {
        "output": config.output,
        "step": record.step,
        "loss": record.loss,
        "validation": validation,
        "tokens": record.tokens,
        "tokens_per_second": record.tokens_per_second,
        "seconds": round(seconds, 3),
    }
    if as_json:
        typer.echo(json.dumps(document))
        return
    score = f", validation {validation['bound']:.4f} nats per token" if validation else ""
    typer.echo(f"{config.output}: model after {record.step:,} steps, {record.tokens:,} tokens{score}")
