"""`understudy evaluate`: score samples in a file, or sample schedules and compare them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from understudy.cli.comparison_view import drive, show_tables
from understudy.cli.models import Device, Heavy, Light, Models, Precision, load_models, pick_device
from understudy.environment import describe_environment
from understudy.errors import SettingError
from understudy.saved_samples import SavedSamples, check_texts, read_samples
from understudy.saved_samples import retokenize as encode_anew
from understudy.schedule import ModelSchedule

if TYPE_CHECKING:
    from understudy.evaluation import Judge, SampleScores

Samples = Annotated[
    Path | None, typer.Option("--samples", metavar="FILE", help="Score this file of `understudy sample --output`.")
]
Schedules = Annotated[
    list[str] | None,
    typer.Option("--schedule", help="Sample and compare such as L32,H192,L32; repeat, the first is the reference."),
]
JudgePath = Annotated[
    str | None,
    typer.Option("--judge", metavar="DIR|ID", help="Causal model that scores: folder or hub id. Default: bundled."),
]
Retokenize = Annotated[
    bool, typer.Option("--retokenize", help="With --samples: have the judge's tokenizer encode the texts anew.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps N; needed where a schedule is in percent.")]
Length = Annotated[int | None, typer.Option("--length", help="Tokens per sample. Default: the most the models take.")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n", help="Samples of each schedule.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Most sequences in one pass, of models and judge.")]
Seed = Annotated[int, typer.Option("--seed", help="All schedules share it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def evaluate_command(
    samples: Samples = None,
    schedule: Schedules = None,
    judge: JudgePath = None,
    retokenize: Retokenize = False,
    heavy: Heavy = None,
    light: Light = None,
    model: Models = None,
    steps: Steps = None,
    length: Length = None,
    num_samples: NumSamples = 16,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Score samples with a judge, or compare schedules sampled under the same noise.

    Generative perplexity comes with its interval, token entropy and distinct-n, and never alone.
    """
    if (samples is None) == (not schedule):
        raise SettingError("give either --samples FILE or one --schedule or more")
    if samples is not None:
        _check_unused(heavy=heavy, light=light, model=model, steps=steps, length=length)
        saved = read_samples(samples)
        _score_saved(saved, _load_judge(judge, device), retokenize, batch_size, as_json)
        return
    if retokenize:
        raise SettingError("--retokenize goes with --samples; schedules are scored on the ids they drew")
    if judge is None and (heavy or light or model):
        raise SettingError("give --judge, a causal model that shares your models' tokenizer; the bundled one does not")
    options: dict[str, Any] = {"steps": steps, "length": length, "num_samples": num_samples, "seed": seed}
    schedules = [ModelSchedule.parse(text, steps) for text in schedule or []]
    models = load_models(heavy, light, model, device, precision)
    _compare(schedules, models, _load_judge(judge, device), batch_size, options, as_json)


def _check_unused(**options: object) -> None:
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise SettingError(f"{', '.join(given)} samples anew and --samples reads a file; leave one of them out")


def _load_judge(path: str | None, device: str) -> "Judge":
    from understudy.demo import bundled_judge
    from understudy.evaluation import Judge

    place = pick_device(device)
    return bundled_judge(place) if path is None else Judge.load(path, device=place)


def _score_saved(saved: SavedSamples, judge: "Judge", retokenize: bool, batch_size: int, as_json: bool) -> None:
    from understudy.evaluation import score_tokens

    if retokenize:
        scores = score_tokens(judge, encode_anew(saved.texts, judge.tokenizer), batch_size=batch_size)
    else:
        check_texts(saved, judge.tokenizer)
        scores = score_tokens(judge, saved.tokens, batch_size=batch_size)
    if as_json:
        typer.echo(json.dumps({**scores.to_dict(), "environment": describe_environment()}, ensure_ascii=False))
    else:
        _show_scores(scores)


def _show_scores(scores: "SampleScores") -> None:
    table = Table(show_header=False)
    for name, value in scores.to_dict().items():
        parts = value if isinstance(value, list) else [value]
        table.add_row(name, " to ".join(f"{part:.4g}" if isinstance(part, float) else str(part) for part in parts))
    Console().print(table)


def _compare(
    schedules: list[ModelSchedule], models: Any, judge: "Judge", batch_size: int, options: dict[str, Any], as_json: bool
) -> None:
    from understudy.evaluation import check_vocabulary, compare_schedules

    check_vocabulary(models.tokenizer, judge)
    run = compare_schedules(
        models.denoisers, schedules, judge, judge_batch_size=batch_size, batch_size=batch_size, **options
    )
    comparison = drive(run)
    if as_json:
        facts = {"paths": models.paths, "environment": describe_environment()}
        typer.echo(json.dumps({**comparison.to_dict(), **facts}, ensure_ascii=False))
    else:
        show_tables(Console(), comparison)
