"""`understudy sample`: text from models that share the steps."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from understudy.cli.models import Device, Heavy, Light, Models, Precision, load_models
from understudy.cli.sample_view import run_with_bar, show_result

if TYPE_CHECKING:
    from understudy.denoisers.model_set import ModelSet
    from understudy.sampling import SampleResult

DEFAULT_STEPS = 256

Schedule = Annotated[
    str | None,
    typer.Option("--schedule", help="Who makes which steps, such as L32,H192,L32. Default: the costliest model alone."),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", help=f"Denoising steps N. Default: the schedule's, or {DEFAULT_STEPS}.", show_default=False
    ),
]
Length = Annotated[int | None, typer.Option("--length", help="Tokens per sample. Default: the most the models take.")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n", help="How many samples.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Most sequences in one pass.")]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="Text that every sample begins with.")]
Suffix = Annotated[str | None, typer.Option("--suffix", metavar="TEXT", help="Text that every sample ends with.")]
Seed = Annotated[int, typer.Option("--seed", help="Samples are a function of it; schedules compared share it.")]
Temperature = Annotated[float, typer.Option("--temperature", help="Divides the logits; 0 takes the likeliest token.")]
TopP = Annotated[float, typer.Option("--top-p", help="Nucleus: likeliest tokens of this mass in all; 1 keeps all.")]
Noise = Annotated[
    str | None, typer.Option("--noise", help="Noise schedule: loglinear or cosine. Default: that of training.")
]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE.jsonl", help="Write one JSON object a sample.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def sample_command(
    heavy: Heavy = None,
    light: Light = None,
    model: Models = None,
    schedule: Schedule = None,
    steps: Steps = None,
    length: Length = None,
    num_samples: NumSamples = 1,
    batch_size: BatchSize = 32,
    prefix: Prefix = None,
    suffix: Suffix = None,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    noise: Noise = None,
    device: Device = "auto",
    precision: Precision = "auto",
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Sample text, each step made by the model that the schedule names. Without models: the bundled pair."""
    from understudy.sampling import SamplingTask
    from understudy.schedule import ModelSchedule
    from understudy.whole_files import check_writable

    if output is not None:
        check_writable(output)
    parsed = None if schedule is None else ModelSchedule.parse(schedule, steps)
    models = load_models(heavy, light, model, device, precision)
    task = SamplingTask.create(
        models.denoisers,
        parsed,
        steps=steps if steps is not None or parsed is not None else DEFAULT_STEPS,
        length=length,
        num_samples=num_samples,
        batch_size=batch_size,
        prefix=None if prefix is None else models.encode_prefix(prefix),
        suffix=None if suffix is None else models.encode_suffix(suffix),
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        noise=noise,
    )
    result = run_with_bar(task)
    drawn = {"noise": task.noise.name, "temperature": temperature, "top_p": top_p, "prefix": prefix, "suffix": suffix}
    _deliver(result, models, {"seed": seed, **drawn, "models": models.paths}, output, as_json)


def _deliver(
    result: "SampleResult", models: "ModelSet", settings: dict[str, Any], output: Path | None, as_json: bool
) -> None:
    from understudy.saved_samples import written_by
    from understudy.whole_files import write_json_lines

    rows = result.tokens.tolist()
    samples = [{"text": models.decode(row), "token_ids": row} for row in rows]
    if output is not None:
        shared = {"schedule": str(result.schedule), **settings}
        writers = [{"written_by": written_by(keys)} for keys in result.written_by().tolist()]
        lines = ({"index": i, **samples[i], **writers[i], **shared} for i in range(len(samples)))
        write_json_lines(output, lines)
    if as_json:
        typer.echo(json.dumps({**_summary(result), **settings, "samples": samples}, ensure_ascii=False))
    else:
        show_result(Console(), result, models, seed=settings["seed"], output=output)


def _summary(result: "SampleResult") -> dict[str, Any]:
    num_samples, length = result.tokens.shape
    return {
        "schedule": str(result.schedule),
        "steps": result.schedule.num_steps,
        "length": length,
        "num_samples": num_samples,
        "nfe": result.nfe,
        "nfe_per_sample": {key: passes / num_samples for key, passes in result.nfe.items()},
        "flops": result.flops.to_dict(),
        "seconds": round(result.seconds, 3),
    }
