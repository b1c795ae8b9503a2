"""`understudy evaluate`: score samples in a file, or sample schedules and compare them."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from understudy.cli import evaluate_options as opt
from understudy.cli.comparison_view import drive, show_tables
from understudy.cli.decoding_options import RULE, BlockLength, Decoding, Threshold
from understudy.cli.interrupts import keeping
from understudy.cli.models import (
    Device,
    Heavy,
    Light,
    Models,
    Precision,
    RemapMasks,
    TrustRemoteCode,
    load_given,
    pick_device,
)
from understudy.cli.ray_options import (
    Ray,
    RayWorkers,
    finished_parts,
    judge_path,
    parts_kept,
    ray_cluster,
    ray_facts,
    workers_for,
)
from understudy.environment import describe_environment
from understudy.errors import DataError, SettingError
from understudy.schedule import ModelSchedule

if TYPE_CHECKING:
    from understudy.cluster import FinishedParts, RayWorkforce
    from understudy.denoisers.model_set import ModelSet
    from understudy.evaluation import Comparison, ComparisonTask, Judge, Processes, SampleScores, Scoring
    from understudy.sampling import DecodingOptions
    from understudy.saved_samples import SavedSamples


def evaluate_command(
    samples: opt.Samples = None,
    schedule: opt.Schedules = None,
    fewer_steps: opt.FewerSteps = False,
    judge: opt.JudgePath = None,
    protocol: opt.ProtocolChoice = "ids",
    retokenize: opt.Retokenize = False,
    tokenizer: opt.TokenizerPath = None,
    heavy: Heavy = None,
    light: Light = None,
    model: Models = None,
    steps: opt.Steps = None,
    length: opt.Length = None,
    num_samples: opt.NumSamples = 16,
    batch_size: opt.BatchSize = 32,
    judge_batch_size: opt.JudgeBatchSize = 8,
    seed: opt.Seeds = None,
    temperature: opt.Temperatures = None,
    top_p: opt.TopP = 1.0,
    noise: opt.Noise = None,
    decoding: Decoding = "ancestral",
    block_length: BlockLength = None,
    threshold: Threshold = None,
    prefix: opt.Prefix = None,
    prefixes: opt.Prefixes = None,
    prefix_length: opt.PrefixLength = None,
    data: opt.Data = None,
    self_bleu: opt.SelfBleu = False,
    mauve: opt.Mauve = False,
    device: Device = "auto",
    precision: Precision = "auto",
    trust_remote_code: TrustRemoteCode = False,
    remap_masks: RemapMasks = False,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    output: opt.Output = None,
    per_sample: opt.PerSample = False,
    as_json: opt.AsJson = False,
) -> None:
    """Score samples with a judge, or compare schedules sampled under the same noise.

    Generative perplexity comes with its interval, token entropy, distinct-n and repetition, and never alone. Several
    temperatures show quality against entropy.

    For several GPUs: `accelerate launch -m understudy evaluate --schedule …`, or --ray. With --ray and --output,
    finished samples are kept beside the output; stopped and given again, the evaluation goes on.
    """
    given = dict(locals())
    _check(given)
    if retokenize:
        given["protocol"] = "retokenized"
    if samples is not None:
        _score_file(given)
    else:
        _compare(given)


SAMPLED = ("steps", "length", "num_samples", "batch_size", "top_p", "noise", *RULE)
COSTED = ("length", "num_samples", "noise", "prefix", "template")  # what the cost of a sample depends on
FOR_SCHEDULES = (
    *("heavy", "light", "model", "steps", "length", "seed", "temperature", "noise"),
    *("fewer_steps", *RULE),
    *("prefix", "prefixes", "prefix_length", "ray", "ray_workers"),
)


def _check(given: dict[str, Any]) -> None:
    """Refuse what makes no sense, before anything is loaded."""
    if (given["samples"] is None) == (not given["schedule"]):
        raise SettingError("give either --samples FILE or one --schedule or more")
    sampling = {**given, "decoding": given["decoding"] != "ancestral"}
    if given["samples"] is not None and (unused := _named(sampling, FOR_SCHEDULES)):
        raise SettingError(f"{unused} samples anew and --samples reads a file; leave one of them out")
    if given["retokenize"] and given["protocol"] == "published":
        raise SettingError("--retokenize and --protocol published are two ways to score; give one of them")
    if given["mauve"] and given["data"] is None:
        raise SettingError("--mauve compares with held-out text; give --data DIR, a folder of `understudy prepare`")
    if given["prefix"] is not None and given["prefixes"] is not None:
        raise SettingError("give either --prefix TEXT or --prefixes, not both")
    if given["prefix_length"] is not None and given["prefixes"] is None:
        raise SettingError("--prefix-length goes with --prefixes")
    if given["output"] is not None:
        from understudy.whole_files import check_writable

        check_writable(given["output"])


def _named(given: dict[str, Any], names: tuple[str, ...]) -> str:
    """Those of the options that were given, as they are written."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if given[name])


def _load_judge(path: str | None, place: str) -> "Judge":
    from understudy.demo import bundled_judge
    from understudy.evaluation import Judge

    return bundled_judge(place) if path is None else Judge.load(path, device=place)


def _scoring(given: dict[str, Any]) -> "Scoring":
    from understudy.evaluation import ReferenceText, Scoring

    return Scoring(
        protocol=given["protocol"],
        judge_batch_size=given["judge_batch_size"],
        self_bleu=given["self_bleu"],
        references=None if given["data"] is None else ReferenceText.open(given["data"]),
        mauve=given["mauve"],
    )


def _score_file(given: dict[str, Any]) -> None:
    from understudy.saved_samples import read_samples

    if _num_processes() > 1:
        raise SettingError("a file of samples is scored by one process; start it without a launcher")
    saved = read_samples(given["samples"])
    scoring = _scoring(given)
    scores = _score_saved(saved, _load_judge(given["judge"], pick_device(given["device"])), scoring, given["tokenizer"])
    settings = {name: _text(given[name]) for name in ("judge_batch_size", "tokenizer", "data", "device")}
    document = {
        "command": _command(),
        "samples": str(given["samples"]),
        **scores.to_dict(per_sample=given["per_sample"]),
        "settings": settings,
        "environment": describe_environment(),
    }
    _deliver(document, given)
    if not given["as_json"]:
        _show_scores(scores)


def _score_saved(
    saved: "SavedSamples", judge: "Judge", scoring: "Scoring", tokenizer_path: str | None
) -> "SampleScores":
    from understudy.evaluation import Reading, check_vocabulary, score_tokens
    from understudy.metrics import sample_rows
    from understudy.saved_samples import check_texts, retokenize
    from understudy.tokenizer_files import load_tokenizer

    reading = texts = None
    tokenizer = judge.tokenizer if tokenizer_path is None else load_tokenizer(tokenizer_path)
    if tokenizer_path is None and scoring.protocol == "retokenized":  # by the texts of the file, whoever reads its ids
        if saved.has_given:
            raise DataError(
                "some tokens were given, and texts alone do not say which words; name what reads the ids (--tokenizer)"
            )
        rows, texts = sample_rows(retokenize(saved.texts, judge.tokenizer)), saved.texts
        reading = Reading(rows, [row >= 0 for row in rows])
    else:
        check_texts(saved, tokenizer, whose="the judge's tokenizer" if tokenizer_path is None else tokenizer_path)
        if scoring.protocol == "ids":
            check_vocabulary(tokenizer, judge)
    return score_tokens(
        judge, saved.tokens, free=saved.free, tokenizer=tokenizer, scoring=scoring, reading=reading, texts=texts
    )


def _show_scores(scores: "SampleScores") -> None:
    table = Table(show_header=False)
    for name, value in scores.to_dict().items():
        parts = value if isinstance(value, list) else [value]
        if value is not None:
            table.add_row(name, " to ".join(f"{part:.4g}" if isinstance(part, float) else str(part) for part in parts))
    Console().print(table)


def _compare(given: dict[str, Any]) -> None:
    schedules = [ModelSchedule.parse(text, given["steps"]) for text in given["schedule"]]
    has_models = any(given[name] for name in ("heavy", "light", "model"))
    if given["judge"] is None and has_models and given["protocol"] == "ids":
        raise SettingError("give --judge, a causal model that shares your models' tokenizer; the bundled one does not")
    scoring = _scoring(given)
    if _num_processes() > 1 and given["ray"] is not None:
        raise SettingError("--ray starts workers of its own; start the command without a launcher")
    settings = {name: _text(given[name]) for name in ("prefixes", "prefix_length", "data", "precision")}
    processes = _join(given["device"]) if _num_processes() > 1 else None
    is_spread = processes is not None and given["device"] == "auto"
    with ray_cluster(given) as cluster:
        place = processes.device if processes is not None and is_spread else pick_device(given["device"])
        models = load_given(given, place)
        task = _task(given, schedules, models, _load_judge(given["judge"], place), scoring)
        parts = None if cluster is None else _parts(given, models, task)
        with workers_for(cluster, given, models, judge_path(given["judge"])) as workforce:
            comparison = _run(task, processes, workforce, parts, given["output"])
            facts = {"processes": 1 if processes is None else processes.count, **ray_facts(workforce)}
    if comparison is None:
        return
    document = {
        "command": _command(),
        **comparison.to_dict(per_sample=given["per_sample"]),
        "paths": models.paths,
        "environment": {**describe_environment(), **facts},
    }
    document["settings"] |= settings
    _deliver(document, given)
    if parts is not None:
        parts.discard()
    if not given["as_json"]:
        show_tables(Console(), comparison)


def _task(
    given: dict[str, Any],
    schedules: list[ModelSchedule],
    models: "ModelSet",
    judge: "Judge",
    scoring: "Scoring",
) -> "ComparisonTask":
    """Check the request."""
    from understudy.evaluation import ComparisonTask, check_vocabulary

    if scoring.protocol == "ids":
        check_vocabulary(models.tokenizer, judge)
    options = cast("DecodingOptions", {name: given[name] for name in SAMPLED} | _given_tokens(given, models))
    if given["fewer_steps"]:
        schedules = _with_rivals(models, schedules, given, options)
    return ComparisonTask.create(
        models.denoisers,
        schedules,
        judge,
        temperatures=given["temperature"],
        seeds=given["seed"],
        scoring=scoring,
        tokenizer=models.tokenizer,
        **options,
    )


def _with_rivals(
    models: "ModelSet", schedules: list[ModelSchedule], given: dict[str, Any], options: "DecodingOptions"
) -> list[ModelSchedule]:
    """The schedules, and for those that mix models or use a light one, fewer steps of the costliest at their cost."""
    from understudy.evaluation import fewer_steps

    if given["decoding"] != "ancestral":
        raise SettingError("--fewer-steps goes with ancestral decoding; name rivals yourself, such as --schedule H24")
    own: dict[str, Any] = {name: value for name, value in options.items() if name in COSTED}
    own["seed"] = (given["seed"] or [0])[0]
    if "template" in own:
        own["template"] = own["template"][: own["num_samples"]]
    rivals = [fewer_steps(models.denoisers, schedule, **own) for schedule in schedules]
    return list(dict.fromkeys([*schedules, *rivals]))


def _run(
    task: "ComparisonTask",
    processes: "Processes | None",
    workforce: "RayWorkforce | None",
    parts: "FinishedParts | None",
    output: Path | None,
) -> "Comparison | None":
    """Sample and score; nothing comes back in all processes but the first."""
    from understudy.evaluation import compare_on_all, run_comparison

    if workforce is not None:
        from understudy.cluster import compare_on_cluster

        with keeping(lambda: parts_kept(output)):
            return drive(compare_on_cluster(task, workforce, parts))
    if processes is None:
        return drive(run_comparison(task))
    comparison = drive(compare_on_all(processes, task), is_shown=processes.is_first)
    processes.leave()
    return comparison


def _parts(given: dict[str, Any], models: "ModelSet", task: "ComparisonTask") -> "FinishedParts":
    """Where finished samples are kept, told what they and the judge's figures depend on."""
    from understudy.denoisers.model_files import model_sha256
    from understudy.tokenizer_files import tokenizer_sha256

    cells = [[cell.label, str(cell.task.schedule), cell.temperature] for cell in task.cells]
    settings = {name: value for name, value in task.settings.items() if name != "batch_size"}
    job = {
        "cells": cells,
        **settings,
        "template": task.cells[0].template,
        "judge_batch": given["judge_batch_size"],
        "tokenizer": tokenizer_sha256(models.tokenizer),  # which the judge may read texts by
    }
    return finished_parts(given, models, {**job, "judge": model_sha256(judge_path(given["judge"]))})


def _given_tokens(given: dict[str, Any], models: "ModelSet") -> dict[str, Any]:
    """What samples begin with, as an option of sampling: each of every seed with a prefix of its own."""
    from understudy.evaluation import prefix_template, text_prefixes, validation_prefixes
    from understudy.sampling import default_length

    path, size = given["prefixes"], given["prefix_length"]
    count = given["num_samples"] * len(given["seed"] or [0])
    if path is None:
        return {} if given["prefix"] is None else {"prefix": models.encode_prefix(given["prefix"])}
    if not path.is_dir():
        rows = text_prefixes(path, models.encode_prefix, count=count, length=size)
    elif size is None:
        raise SettingError("blocks hold no prefix of their own; say with --prefix-length how many tokens to take")
    else:
        rows = validation_prefixes(path, models.tokenizer, count=count, length=size)
    first = next(iter(models.denoisers.values()))
    return {"template": prefix_template(rows, given["length"] or default_length(models.denoisers), first.mask_id)}


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))  # the launcher's variable


def _join(device: str) -> "Processes":
    from understudy.evaluation import Processes

    return Processes.join(cpu=device == "cpu")


def _command() -> str:
    return shlex.join(["understudy", *sys.argv[1:]])


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _deliver(document: dict[str, Any], given: dict[str, Any]) -> None:
    from understudy.evaluation import FORMAT, write_evaluation

    if given["output"] is not None:
        write_evaluation(given["output"], document)
    if given["as_json"]:
        typer.echo(json.dumps({"format": FORMAT, **document}, ensure_ascii=False))
