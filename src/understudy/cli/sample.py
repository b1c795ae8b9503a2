"""`understudy sample`: text from models that share the steps."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from understudy.cli.decoding_options import RULE, BlockLength, Decoding, Threshold
from understudy.cli.interrupts import keeping
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
from understudy.cli.ray_options import Ray, RayWorkers, finished_parts, parts_kept, ray_cluster, workers_for
from understudy.cli.sample_view import run_on_cluster_with_bar, run_with_bar, show_result
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.cluster import Cluster, FinishedParts
    from understudy.denoisers.model_set import ModelSet
    from understudy.prompts import Prompt
    from understudy.sampling import DecodingOptions, DecodingTask, SampleResult
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
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE.jsonl", help="Write one JSON object a sample; the screen then shows eight."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


OPTIONS = ("steps", "batch_size", "seed", "noise", "temperature", "top_p", *RULE)
SHOWN_BESIDE_A_FILE = 8  # samples on the screen where a file holds them all
NOTHING_KEPT = "nothing is kept, since samples are written when all are there; --ray keeps finished parts"
DRAWN = (
    *("seed", "temperature", "top_p", *RULE),
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
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Sample text, each step made by the model that the schedule names. Without models: the bundled pair.

    With --ray and --output, finished samples are kept beside the output; stopped and given again, sampling goes on.
    Without --ray, an interrupt keeps nothing.
    """
    given = dict(locals())
    from understudy.schedule import ModelSchedule
    from understudy.whole_files import check_writable

    if output is not None:
        check_writable(output)
    if num_samples < 1:
        raise SettingError(f"num_samples is {num_samples}; it must be at least 1")
    parsed = None if schedule is None else ModelSchedule.parse(schedule, steps)
    wanted = _prompts(given)
    with ray_cluster(given) as cluster:
        _run(given, parsed, wanted, cluster)


def _run(
    given: dict[str, Any], parsed: "ModelSchedule | None", wanted: "list[Prompt]", cluster: "Cluster | None"
) -> None:
    """Load, sample, here or by workers, and deliver."""
    from understudy.prompts import by_length

    models = load_given(given)
    groups = by_length([_template(prompt, models, given) for prompt in wanted], given["num_samples"])
    tasks = [_task(models, parsed, _options(given, indices, rows)) for indices, rows in groups]
    settings = {name: given[name] for name in DRAWN} | {"noise": tasks[0].noise.name}
    parts = None if cluster is None else _parts(tasks, models, settings, given)
    with workers_for(cluster, given, models) as workforce:
        if workforce is None or parts is None:
            with keeping(lambda: NOTHING_KEPT if given["output"] is not None else ""):
                results = [run_with_bar(task) for task in tasks]
        else:
            with keeping(lambda: parts_kept(given["output"])):
                results = run_on_cluster_with_bar(tasks, workforce, parts)
    _deliver(results, [indices for indices, _ in groups], models, settings, given)
    if parts is not None:
        parts.discard()


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


def _task(models: "ModelSet", schedule: "ModelSchedule | None", options: "DecodingOptions") -> "DecodingTask":
    """Check the request; where nothing says the number of steps, take the usual one."""
    import numpy as np

    from understudy.sampling import decoding_task

    if schedule is None and options["steps"] is None:
        options["steps"] = DEFAULT_STEPS
        if options["decoding"] not in ("ancestral", "first_hitting"):
            # Every pass reveals at least one token, so there are at most as many as tokens. With a threshold more steps
            # would only make the dense run longer that the saving is told against.
            mask_id = next(iter(models.denoisers.values())).mask_id
            fewest = int((np.array(options["template"]) == mask_id).sum(axis=1).min())
            options["steps"] = max(1, min(DEFAULT_STEPS, fewest))
    return decoding_task(models.denoisers, schedule, **options)


def _parts(
    tasks: "list[DecodingTask]", models: "ModelSet", settings: dict[str, Any], given: dict[str, Any]
) -> "FinishedParts":
    """Where finished samples are kept, told what they depend on."""
    from understudy.sampling import request_of

    templates = [request_of(task).template for task in tasks]
    job = {**settings, "schedule": str(tasks[0].schedule), "templates": templates}
    return finished_parts(given, models, job)


def _deliver(
    results: "list[SampleResult]",
    indices: list[Sequence[int]],
    models: "ModelSet",
    settings: dict[str, Any],
    given: dict[str, Any],
) -> None:
    """Write samples in the order of their prompts, and print them; lengths that differ are summed up one by one."""
    from understudy.whole_files import write_json_lines

    settings = {**settings, "models": models.paths}
    if given["output"] is not None:
        shared = {"schedule": str(results[0].schedule), **settings}
        ordered = enumerate(_samples(results, indices, models))
        write_json_lines(given["output"], ({"index": i, **sample, **shared} for i, sample in ordered))
    if given["as_json"]:
        summaries = [_summary(result) for result in results]
        whole = summaries[0] if len(summaries) == 1 else {"by_length": summaries}
        found = _samples(results, indices, models)
        bare = [{name: sample[name] for name in ("text", "token_ids")} for sample in found]
        typer.echo(json.dumps({**whole, **settings, "samples": bare}, ensure_ascii=False))
        return
    most = None if given["output"] is None else SHOWN_BESIDE_A_FILE
    for result, places in zip(results, indices, strict=True):
        output = given["output"] if result is results[-1] else None
        show_result(Console(), result, models, places, settings, output=output, most=most)


def _samples(
    results: "list[SampleResult]", indices: list[Sequence[int]], models: "ModelSet"
) -> Iterator[dict[str, Any]]:
    """Samples in the order of their indices, one at a time: there may be very many."""
    from understudy.saved_samples import sample_text, written_by

    writers = [result.written_by() for result in results]
    places = sorted((index, number, row) for number, own in enumerate(indices) for row, index in enumerate(own))
    for _, number, row in places:
        tokens, keys = results[number].tokens[row].tolist(), writers[number][row].tolist()
        yield {"text": sample_text(models.tokenizer, tokens), "token_ids": tokens, "written_by": written_by(keys)}


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
