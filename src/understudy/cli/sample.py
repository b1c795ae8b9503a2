"""`understudy sample`: text from models that share the steps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

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
from understudy.cli.sample_view import run_with_bar, show_result
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.denoisers.model_set import ModelSet
    from understudy.prompts import Prompt
    from understudy.sampling import ConfidenceTask, DecodingOptions, SampleResult, SamplingTask
    from understudy.schedule import ModelSchedule

DEFAULT_STEPS = 256

Schedule = Annotated[
    str | None,
    typer.Option("--schedule", help="Who makes which steps, such as L32,H192,L32. Default: the costliest model alone."),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        help=f"Denoising steps N. Default: the schedule's, or {DEFAULT_STEPS}; where decoding reveals at least one "
        "token a step, no more than there are tokens.",
        show_default=False,
    ),
]
Length = Annotated[int | None, typer.Option("--length", help="Tokens per sample. Default: the most the models take.")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n", help="How many samples.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Most sequences in one pass.")]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="Text that every sample begins with.")]
Suffix = Annotated[str | None, typer.Option("--suffix", metavar="TEXT", help="Text that every sample ends with.")]
Infill = Annotated[
    str | None,
    typer.Option("--infill", metavar="TEXT", help="Text with [MASK] for each token that is wanted, [MASK*5] for five."),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A prompt on every line: texts to begin with, or in a .jsonl objects with prefix, suffix, infill or "
        "messages (a chat).",
    ),
]
NewTokens = Annotated[
    int | None, typer.Option("--new-tokens", help="Tokens sampled beside what is given, instead of --length.")
]
Seed = Annotated[int, typer.Option("--seed", help="Samples are a function of it; schedules compared share it.")]
Temperature = Annotated[float, typer.Option("--temperature", help="Divides the logits; 0 takes the likeliest token.")]
TopP = Annotated[float, typer.Option("--top-p", help="Nucleus: likeliest tokens of this mass in all; 1 keeps all.")]
Noise = Annotated[
    str | None, typer.Option("--noise", help="Noise schedule: loglinear or cosine. Default: that of training.")
]
Decoding = Annotated[
    str,
    typer.Option(
        "--decoding",
        metavar="RULE",
        help="Who is revealed next: ancestral, first_hitting, random, low_confidence, margin or entropy.",
    ),
]
BlockLength = Annotated[
    int | None,
    typer.Option("--block-length", help="With the last four rules: finish so many tokens before the next block."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", help="With low_confidence or margin: a pass reveals all tokens whose score reaches it."
    ),
]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE.jsonl", help="Write one JSON object a sample.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


OPTIONS = (
    *("steps", "batch_size", "seed", "noise", "temperature", "top_p"),
    *("decoding", "block_length", "threshold"),
)
DRAWN = (
    *("seed", "temperature", "top_p", "decoding", "block_length", "threshold"),
    *("prefix", "suffix", "infill"),
)  # what the record says of how samples were drawn


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
    infill: Infill = None,
    prompts: Prompts = None,
    new_tokens: NewTokens = None,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    noise: Noise = None,
    decoding: Decoding = "ancestral",
    block_length: BlockLength = None,
    threshold: Threshold = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tokenizer: Tokenizer = None,
    trust_remote_code: TrustRemoteCode = False,
    remap_masks: RemapMasks = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Sample text, each step made by the model that the schedule names. Without models: the bundled pair."""
    given = dict(locals())
    from understudy.prompts import by_length
    from understudy.schedule import ModelSchedule
    from understudy.whole_files import check_writable

    if output is not None:
        check_writable(output)
    if num_samples < 1:
        raise SettingError(f"num_samples is {num_samples}; it must be at least 1")
    parsed = None if schedule is None else ModelSchedule.parse(schedule, steps)
    wanted = _prompts(given)
    models = load_given(given)
    groups = by_length([_template(prompt, models, given) for prompt in wanted], num_samples)
    tasks = [_task(models, parsed, _options(given, indices, rows)) for indices, rows in groups]
    results = [run_with_bar(task) for task in tasks]
    settings = {name: given[name] for name in DRAWN} | {"noise": tasks[0].noise.name}
    _deliver(results, [indices for indices, _ in groups], models, settings, given)


def _prompts(given: dict[str, Any]) -> "list[Prompt]":
    """What is given of the samples: those of a file, or one. SettingError where options do not go together."""
    from understudy.prompts import Prompt, read_prompts

    own = {name: given[name] for name in ("prefix", "suffix", "infill")}
    if given["prompts"] is not None:
        if named := [f"--{name}" for name, text in own.items() if text is not None]:
            raise SettingError(f"--prompts says what is given; leave out {', '.join(named)}")
        found = read_prompts(given["prompts"])
    else:
        found = [Prompt(**own)]
    if given["new_tokens"] is not None and given["length"] is not None:
        raise SettingError("--new-tokens and --length both say how long a sample is; give one of them")
    return found


def _template(prompt: "Prompt", models: "ModelSet", given: dict[str, Any]) -> Any:
    from understudy.sampling import default_length

    length, new_tokens = given["length"], given["new_tokens"]
    for name in ("length", "new_tokens"):
        if given[name] is not None and given[name] < 1:
            raise SettingError(f"{name} is {given[name]}; it must be at least 1")
    if length is None and new_tokens is None and prompt.infill is None:
        length = default_length(models.denoisers)
    return prompt.template(models, length=length, new_tokens=new_tokens)


def _options(given: dict[str, Any], indices: Sequence[int], rows: Any) -> "DecodingOptions":
    """What is asked for of the samples that have one length."""
    own: DecodingOptions = {"template": rows, "indices": indices, "num_samples": len(indices)}
    return own | cast("DecodingOptions", {name: given[name] for name in OPTIONS})


def _task(
    models: "ModelSet", schedule: "ModelSchedule | None", options: "DecodingOptions"
) -> "SamplingTask | ConfidenceTask":
    """Check the request; where nothing says the number of steps, take the usual one."""
    import numpy as np

    from understudy.sampling import decoding_task

    if schedule is None and options["steps"] is None:
        options["steps"] = DEFAULT_STEPS
        if options["decoding"] not in ("ancestral", "first_hitting") and options["threshold"] is None:
            # Every step reveals at least one token, so there are at most as many steps as tokens.
            mask_id = next(iter(models.denoisers.values())).mask_id
            fewest = int((np.array(options["template"]) == mask_id).sum(axis=1).min())
            options["steps"] = max(1, min(DEFAULT_STEPS, fewest))
    return decoding_task(models.denoisers, schedule, **options)


def _deliver(
    results: "list[SampleResult]",
    indices: list[Sequence[int]],
    models: "ModelSet",
    settings: dict[str, Any],
    given: dict[str, Any],
) -> None:
    """Write samples in the order of their prompts, and print them; lengths that differ are summed up one by one."""
    from understudy.saved_samples import written_by
    from understudy.whole_files import write_json_lines

    settings = {**settings, "models": models.paths}
    samples: dict[int, dict[str, Any]] = {}
    for result, places in zip(results, indices, strict=True):
        for index, row, keys in zip(places, result.tokens.tolist(), result.written_by().tolist(), strict=True):
            samples[index] = {"text": models.decode(row), "token_ids": row, "written_by": written_by(keys)}
    ordered = [samples[index] for index in sorted(samples)]
    if given["output"] is not None:
        shared = {"schedule": str(results[0].schedule), **settings}
        write_json_lines(given["output"], ({"index": i, **sample, **shared} for i, sample in enumerate(ordered)))
    if given["as_json"]:
        summaries = [_summary(result) for result in results]
        whole = summaries[0] if len(summaries) == 1 else {"by_length": summaries}
        bare = [{name: sample[name] for name in ("text", "token_ids")} for sample in ordered]
        typer.echo(json.dumps({**whole, **settings, "samples": bare}, ensure_ascii=False))
        return
    for result, places in zip(results, indices, strict=True):
        output = given["output"] if result is results[-1] else None
        show_result(Console(), result, models, places, settings, output=output)


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
