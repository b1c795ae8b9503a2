"""`understudy search`: sample every schedule of coarse segments, and rank them."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from understudy.cli.evaluate_options import JudgeBatchSize, ProtocolChoice
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
    pick_device,
)
from understudy.cli.ray_options import Ray, RayWorkers, judge_path, place_of, ray_cluster, ray_facts, workers_for
from understudy.cli.search_view import drive_search, show_search
from understudy.environment import describe_environment
from understudy.errors import SettingError
from understudy.schedule import NAMED, ModelSchedule

if TYPE_CHECKING:
    from understudy.cluster import Cluster
    from understudy.denoisers.model_set import ModelSet
    from understudy.evaluation import Judge
    from understudy.importance import Importance
    from understudy.search import SearchSettings, SearchSpace

SEGMENTS, LIGHT_SEGMENTS = 8, 2

Output = Annotated[
    Path,
    typer.Option("--output", metavar="FILE.json", help="Write the result there; FILE.jsonl beside it is the journal."),
]
JudgePath = Annotated[
    str | None,
    typer.Option("--judge", metavar="DIR|ID", help="Causal model that scores: folder or hub id. Default: bundled."),
]
Steps = Annotated[int, typer.Option("--steps", help="Denoising steps N.")]
Segments = Annotated[
    int | None,
    typer.Option("--segments", help="Equal parts that the steps are cut into. Default: 8.", show_default=False),
]
LightSegments = Annotated[
    int | None,
    typer.Option("--light-segments", help="How many segments L makes, H the others. Default: 2.", show_default=False),
]
Counts = Annotated[
    list[str] | None,
    typer.Option("--count", metavar="KEY=n", help="How many segments each model makes, for other keys; repeat."),
]
Length = Annotated[int | None, typer.Option("--length", help="Tokens per sample. Default: the most the models take.")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n", help="Samples of each schedule.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Most sequences in one pass of the models.")]
Chunk = Annotated[int, typer.Option("--chunk", help="Samples of a schedule between two entries in the journal.")]
Seed = Annotated[int, typer.Option("--seed", help="All schedules share it.")]
Noise = Annotated[str | None, typer.Option("--noise", help="loglinear or cosine. Default: that of the models.")]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="Text that every sample begins with.")]
ImportancePath = Annotated[
    Path | None,
    typer.Option("--importance", metavar="FILE", help="Analysis by `understudy analyze` that predicts path KL."),
]
Condition = Annotated[
    str | None, typer.Option("--condition", help="Which of the analysis's trajectories. Default: the first.")
]
PlanPath = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="Plan by `understudy plan`, to be ranked among the others."),
]
Also = Annotated[
    list[str] | None,
    typer.Option("--also", metavar="SCHEDULE", help="Measure this too, such as L100% or sandwich; may be repeated."),
]
Halving = Annotated[
    str | None,
    typer.Option("--halving", help="Stop sampling what falls behind: confident (beyond noise) or half (in any case)."),
]
FirstRound = Annotated[
    int | None,
    typer.Option("--first-round", help="With --halving: samples before the first drop. Default: 8 or more."),
]
FigurePath = Annotated[Path | None, typer.Option("--figure", metavar="FILE.png", help="Draw the result there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def search_command(
    output: Output,
    heavy: Heavy = None,
    light: Light = None,
    model: Models = None,
    judge: JudgePath = None,
    steps: Steps = 1000,
    segments: Segments = None,
    light_segments: LightSegments = None,
    count: Counts = None,
    length: Length = None,
    num_samples: NumSamples = 16,
    batch_size: BatchSize = 8,
    judge_batch_size: JudgeBatchSize = 8,
    protocol: ProtocolChoice = "ids",
    chunk: Chunk = 32,
    seed: Seed = 0,
    noise: Noise = None,
    prefix: Prefix = None,
    importance: ImportancePath = None,
    condition: Condition = None,
    plan: PlanPath = None,
    also: Also = None,
    halving: Halving = None,
    first_round: FirstRound = None,
    figure: FigurePath = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tokenizer: Tokenizer = None,
    trust_remote_code: TrustRemoteCode = False,
    remap_masks: RemapMasks = False,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    as_json: AsJson = False,
) -> None:
    """Sample every schedule of coarse segments under the same noise and rank them: the check on what a plan predicts.

    A search that was stopped goes on from its journal.
    """
    given = dict(locals())
    _check_files(given)
    with ray_cluster(given) as cluster:
        _run(given, cluster)


def _run(given: dict[str, Any], cluster: "Cluster | None") -> None:
    from understudy.search import search_schedules

    space, settings = read_space(given), _read_settings(given)
    plan = None if given["plan"] is None else read_plan(given["plan"], space.num_steps)
    also = [text if text in NAMED else ModelSchedule.parse(text, space.num_steps) for text in given["also"] or []]
    importance = _read_importance(given)
    models, judge = _load(given)
    if given["prefix"] is not None:
        settings = replace(settings, prefix=tuple(models.encode_prefix(given["prefix"])))
    with workers_for(cluster, given, models, judge_path(given["judge"])) as workforce:
        run = search_schedules(
            models.denoisers,
            space,
            judge,
            settings,
            plan=plan,
            also=also,
            importance=importance,
            condition=given["condition"],
            digests=models.digests,
            journal=_journal(given, models, settings, space),
            tokenizer=models.tokenizer,
            workforce=workforce,
        )
        with keeping(lambda: journal_kept(_journal_path(given))):
            found = drive_search(run)
        facts = {**describe_environment(), **ray_facts(workforce)}
    result = replace(found, command=shlex.join(["understudy", *sys.argv[1:]]), environment=facts)
    result.save(given["output"])
    if given["figure"] is not None:
        from understudy.report.search_figure import draw_search

        draw_search(result, given["figure"])
    if given["as_json"]:
        typer.echo(json.dumps(result.to_dict(), ensure_ascii=False))
    else:
        show_search(Console(), result)


def _check_files(given: dict[str, Any]) -> None:
    """Refuse what cannot be written or drawn, before anything is computed."""
    output = given["output"]
    if output.suffix != ".json":
        raise SettingError(
            f"--output is {str(output)!r}; name a file that ends in .json, its journal will end in .jsonl"
        )
    check_files(output, given["figure"])


def read_space(given: dict[str, Any]) -> "SearchSpace":
    """The space that --steps, --segments, --light-segments and --count describe; SettingError where they disagree."""
    from understudy.search import SearchSpace

    steps, segments, light = given["steps"], given["segments"], given["light_segments"]
    if not given["count"]:
        return SearchSpace.light_and_heavy(
            steps, SEGMENTS if segments is None else segments, LIGHT_SEGMENTS if light is None else light
        )
    if light is not None:
        raise SettingError("--light-segments counts the segments of L, and --count of any key; give one of them")
    counts: dict[str, int] = {}
    for text in given["count"]:
        match = re.fullmatch(r"([A-Za-z])=([1-9]\d{0,5})", text, re.ASCII)
        if match is None or match[1] in counts:
            raise SettingError(f"--count is {text!r}; write a key, = and a number from 1, each key once: --count L=2")
        counts[match[1]] = int(match[2])
    if segments not in (None, sum(counts.values())):
        raise SettingError(f"--count shares out {sum(counts.values())} segments, and --segments is {segments}")
    return SearchSpace(steps, counts)


def _read_settings(given: dict[str, Any]) -> "SearchSettings":
    from understudy.search import SearchSettings

    names = ("num_samples", "length", "seed", "noise", "batch_size", "judge_batch_size", "protocol", "chunk", "halving")
    return SearchSettings(**{name: given[name] for name in (*names, "first_round")})


def read_plan(path: Path, num_steps: int) -> ModelSchedule:
    """The schedule of a plan, resized to the steps of the search.

    DataError where the file is no plan, ScheduleError where its schedule cannot be resized.
    """
    from understudy.planning import Plan

    return Plan.load(path).schedule.resized(num_steps)


def _read_importance(given: dict[str, Any]) -> "Importance | None":
    if given["importance"] is None:
        if given["condition"] is not None:
            raise SettingError("--condition goes with --importance FILE; give both or neither")
        return None
    from understudy.importance import Importance

    return Importance.load(given["importance"])


def _load(given: dict[str, Any]) -> "tuple[ModelSet, Judge]":
    """Load models and judge. SettingError for a pair of one's own without a judge of its own."""
    judge = given["judge"]
    shares_ids = given["protocol"] == "ids"
    if judge is None and shares_ids and (given["heavy"] or given["light"] or given["model"]):
        raise SettingError("give --judge, a causal model that shares your models' tokenizer; the bundled one does not")
    models = load_given(given)
    from understudy.demo import bundled_judge
    from understudy.evaluation import Judge, check_vocabulary

    place = pick_device(given["device"])
    loaded = bundled_judge(place) if judge is None else Judge.load(judge, device=place)
    if shares_ids:
        check_vocabulary(models.tokenizer, loaded)
    return models, loaded


def _journal_path(given: dict[str, Any]) -> Path:
    path: Path = given["output"].with_suffix(".jsonl")
    return path


def _journal(given: dict[str, Any], models: "ModelSet", settings: "SearchSettings", space: "SearchSpace") -> Any:
    """Open the journal beside the output, told what its measurements depend on; where models lie is not among it."""
    from understudy.denoisers.model_files import model_sha256
    from understudy.record_journal import RecordJournal
    from understudy.tokenizer_files import tokenizer_sha256

    place, judge = place_of(given), given["judge"]
    facts = {
        "models": dict(models.digests),
        "judge": model_sha256(judge_path(judge)),
        **number_facts(given["precision"], place),
    }
    if given["tokenizer"] is not None:  # which the judge may read texts by
        facts["tokenizer"] = tokenizer_sha256(models.tokenizer)
    return RecordJournal(_journal_path(given), settings.journal_job(space.num_steps, facts))
