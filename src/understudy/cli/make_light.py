"""`understudy make-light`: a light model from a heavy one, by keeping chosen blocks and healing what is left."""

import json
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from understudy.cli.interrupts import GO_ON, OrderlyStop, is_main_process, keeping, training_kept
from understudy.cli.models import Device, Precision, pick_device, pick_dtype
from understudy.driving import run_to_end
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.lightening import LightModel, LightProgress
    from understudy.training.settings import Intervals

Heavy = Annotated[
    str | None, typer.Argument(metavar="HEAVY", help="Folder or hub id of a DiT. Default: the bundled heavy model.")
]
Output = Annotated[Path, typer.Option("--output", help="Folder of the light model. Begun earlier, it goes on.")]
Blocks = Annotated[int | None, typer.Option("--blocks", help="Blocks to keep, chosen by measured importance.")]
Keep = Annotated[str | None, typer.Option("--keep", metavar="0,3,7,11", help="Blocks to keep instead, counted from 0.")]
Quantise = Annotated[
    Literal["int8"] | None,
    typer.Option("--quantise", help="Round the blocks' matrices to 8 bits, stored as floats: saves no time by itself."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR|FILE",
        help="Prepared folder; without healing, text will do. Default: bundled texts, written by the bundled judge.",
    ),
]
TimesFrom = Annotated[
    str | None,
    typer.Option(
        "--times-from",
        metavar="PLAN.json|SCHEDULE",
        help="Weigh and heal for the light steps of a plan or schedule only. Default: for all times.",
    ),
]
Key = Annotated[str, typer.Option("--key", help="Key of the light model in --times-from.")]
TextBlocks = Annotated[int, typer.Option("--text-blocks", help="Held-out blocks of text on which KL is measured.")]
Times = Annotated[int, typer.Option("--times", help="Times at which each of them is noised.")]
TextBatch = Annotated[int, typer.Option("--text-batch", help="Most sequences in a pass that measures.")]
Steps = Annotated[int, typer.Option("--steps", help="Optimizer steps of healing; 0 only leaves blocks out.")]
Share = Annotated[float, typer.Option("--lambda", help="Share of KL(heavy || light) in the loss; the rest is data.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Sequences of a step, over all processes.")]
MicroBatch = Annotated[int | None, typer.Option(help="Sequences a process takes at a time. Default: its whole share.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Peak learning rate.")]
Warmup = Annotated[int, typer.Option(help="Steps of linear warm-up.")]
Ema = Annotated[float, typer.Option(help="Decay of the averaged weights, which are the model; 0 is off.")]
Compile = Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile both networks in healing.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise, of data order and times.")]
LogEvery = Annotated[int, typer.Option(help="Steps between records in log.jsonl.")]
ValidateEvery = Annotated[int, typer.Option(help="Steps between validations; 0 is never.")]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes between checkpoints; 0 is at the end only.")]
WeightDtype = Annotated[Literal["float32", "bf16"], typer.Option(help="Weights of the healed model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

HEALING_OPTIONS = (
    *("steps", "batch_size", "micro_batch", "learning_rate", "warmup", "ema", "seed", "log_every", "validate_every"),
    *("checkpoint_minutes", "weight_dtype"),
)


def make_light_command(
    output: Output,
    heavy: Heavy = None,
    blocks: Blocks = None,
    keep: Keep = None,
    quantise: Quantise = None,
    data: Data = None,
    times_from: TimesFrom = None,
    key: Key = "L",
    text_blocks: TextBlocks = 32,
    times: Times = 8,
    text_batch: TextBatch = 16,
    steps: Steps = 2000,
    share: Share = 0.5,
    batch_size: BatchSize = 64,
    micro_batch: MicroBatch = None,
    learning_rate: LearningRate = 5e-4,
    warmup: Warmup = 100,
    ema: Ema = 0.999,
    compile_network: Compile = False,
    seed: Seed = 0,
    log_every: LogEvery = 50,
    validate_every: ValidateEvery = 500,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    weight_dtype: WeightDtype = "float32",
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Make a light model: keep the blocks of a heavy one that matter most, and heal it by distillation.

    Blocks are left out one by one, each time the one whose loss changes the predictions least (KL per masked token).
    Stopped at any moment and given again, the work goes on. While it heals, Ctrl-C or SIGTERM writes a checkpoint
    first, at the end of the step; a second one stops at once.
    """
    given = locals()
    healing = {name: given[name] for name in HEALING_OPTIONS}
    healing |= {"distillation_weight": share, "compile": compile_network}
    if steps < 0:
        raise SettingError(f"--steps is {steps}; give 0, which does not heal, or more")
    kept = None if keep is None else _read_blocks(keep)
    place = pick_device(device)
    dtype = pick_dtype(precision, place)
    from understudy.lightening import LightSettings, Weighing, make_light

    weighing = Weighing(text_blocks, times, _intervals(times_from, key), text_batch, seed)
    settings = LightSettings(blocks, kept, quantise, data, weighing)
    options: dict[str, Any] = {"healing": healing if steps else None, "device": place, "dtype": dtype}
    stop = OrderlyStop()
    command = shlex.join(["understudy", *sys.argv[1:]])
    with keeping(lambda: _kept(output)):
        model = _drive(make_light(heavy, output, settings, command=command, stop=stop, **options), stop)
    if not is_main_process():
        return
    if as_json:
        typer.echo(json.dumps(dict(model.record)))
    else:
        _show(Console(), model)


def _read_blocks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SettingError(f"--keep is {text!r}; write numbers of blocks with commas between, such as 0,3,7") from None


def _intervals(source: str | None, key: str) -> "Intervals":
    from understudy.lightening import light_intervals, read_schedule
    from understudy.lightening.light_times import ALWAYS

    return ALWAYS if source is None else light_intervals(read_schedule(source), key)


def _kept(output: Path) -> str:
    """What an interrupt leaves."""
    from understudy.checkpoint import checkpoint_folders
    from understudy.training.run_folder import CHECKPOINTS

    if checkpoint_folders(output / CHECKPOINTS):
        return training_kept(output)
    return f"what was finished is kept; {GO_ON}"


def _drive(run: Any, stop: OrderlyStop) -> "LightModel":
    """Run to the end; while the model heals, a signal is answered in good order."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    with ExitStack() as listening, bar as bars:
        tasks: dict[str, Any] = {}

        def show(progress: "LightProgress") -> None:
            record = progress.training
            if progress.stage not in tasks:
                _listen(listening, stop, is_healing=progress.stage == "healing")
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total)
            loss = "" if record is None or record.loss is None else f" loss {record.loss:.4f}"
            bars.update(tasks[progress.stage], completed=progress.done, description=progress.stage + loss)
            for note in () if record is None else record.notes:
                bars.print(note, markup=False)
            if record is not None and record.validation is not None:
                bars.print(f"step {record.step}: validation {record.validation['bound']:.4f} nats per token")

        model: LightModel | None = run_to_end(run, show)
    if model is None:
        stop.leave()
    return model


def _listen(listening: ExitStack, stop: OrderlyStop, *, is_healing: bool) -> None:
    listening.close()
    if stop():  # after the last step
        stop.leave()
    if is_healing:
        listening.enter_context(stop.listening())


def _show(console: Console, model: "LightModel") -> None:
    record = model.record
    if record["rounds"]:
        _show_importance(console, record["rounds"])
    kept = ", ".join(map(str, record["kept"]))
    console.print(f"kept {len(record['kept'])} of {record['heavy_blocks']} blocks: {kept}", highlight=False)
    healing = record["healing"] or {}
    for name, kl in (("KL(heavy || light)", record["kl"]), ("KL(heavy || light), healed", healing.get("kl"))):
        if kl is not None:
            console.print(f"{name}: {kl['mean']:.4f} ± {kl['se']:.4f} nats per masked token", highlight=False)
    console.print(f"light model: {model.path}", highlight=False, soft_wrap=True)


def _show_importance(console: Console, rounds: list[dict[str, Any]]) -> None:
    title = "KL(heavy || heavy without the block): nats per masked token, ± 1 s.e."
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("block", justify="right")
    table.add_column("alone", justify="right")
    table.add_column("left out as number", justify="right")
    table.add_column("KL then", justify="right")
    table.add_column("next best worse by", justify="right")
    left_out = {str(entry["removed"]): (number, entry) for number, entry in enumerate(rounds, 1)}
    for block, alone in rounds[0]["kl"].items():
        cells = ["", "", ""]
        if block in left_out:
            number, entry = left_out[block]
            margin = entry["margin"]
            cells = [str(number), _figure(entry["kl"][block]), "" if margin is None else _figure(margin)]
        table.add_row(block, _figure(alone), *cells)
    console.print(table)


def _figure(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.4f} ± {estimate['se']:.4f}"
