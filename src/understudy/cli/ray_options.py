"""`--ray`: the same command with workers of a Ray cluster."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.interrupts import GO_ON
from understudy.cli.models import pick_device, pick_dtype
from understudy.errors import SettingError

if TYPE_CHECKING:
    from understudy.cluster import Cluster, FinishedParts, RayWorkforce
    from understudy.denoisers.model_set import ModelSet

LOCAL = "local"

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Share the work by Ray: alone, among processes of this machine; with auto or HOST:PORT, in a cluster that "
        "runs. Models must lie where all nodes can read them.",
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option("--ray-workers", metavar="N", help="Workers. Default: one for each GPU, or for every four CPUs."),
]


def complete_ray(arguments: Iterable[str]) -> list[str]:
    """Give `--ray` its value where it stands alone: Typer knows no options whose value may be left out."""
    found = []
    for word, following in pairwise([*arguments, "-"]):
        found.append(word)
        if word == "--ray" and following.startswith("-"):
            found.append(LOCAL)
    return found


@contextmanager
def ray_cluster(given: dict[str, Any]) -> "Iterator[Cluster | None]":
    """Connect where --ray says so; else None. Then `given` names the device that this process has its models on, the
    CPU, and under `place` that of the workers. Raises SettingError for options that do not fit, and the errors of
    `cluster.connect`.
    """
    given["place"] = None
    if given["ray"] is None:
        if given["ray_workers"] is not None:
            raise SettingError("--ray-workers goes with --ray; give both")
        yield None
        return
    if given["device"] not in ("auto", "cpu", "cuda"):
        raise SettingError(f"device is {given['device']!r}; Ray gives each worker its GPU: choose auto, cuda or cpu")
    from understudy.cluster import connect

    with connect(given["ray"]) as cluster:
        has_gpus = any(room.gpus for room in cluster.rooms())
        place = ("cuda" if has_gpus else "cpu") if given["device"] == "auto" else given["device"]
        precision = str(pick_dtype(given["precision"], place)).removeprefix("torch.")
        given |= {"device": "cpu", "place": place, "precision": precision}
        yield cluster


def place_of(given: Mapping[str, Any]) -> str:
    """The device that models run on, wherever that is."""
    return given["place"] or pick_device(given["device"])


@contextmanager
def workers_for(
    cluster: "Cluster | None", given: Mapping[str, Any], models: "ModelSet", judge: str | Path | None = None
) -> "Iterator[RayWorkforce | None]":
    """Workers with these models, and a judge where its folder is given; None where there is no cluster.

    Says on standard error at the end how many were lost.
    """
    if cluster is None:
        yield None
        return
    from understudy.cluster import WorkerModels, travelling, workers_of
    from understudy.denoisers.model_files import model_sha256

    paths = {key: travelling(path) for key, path in models.sources.items()}
    digests = {} if cluster.is_local else {paths[key]: digest for key, digest in models.digests.items()}
    if judge is not None and not cluster.is_local:
        digests[travelling(judge)] = model_sha256(judge)
    wanted = WorkerModels(
        paths,
        judge=None if judge is None else travelling(judge),
        device=given["place"],
        dtype=given["precision"],
        tokenizer=None if given["tokenizer"] is None else travelling(given["tokenizer"]),
        trust_remote_code=given["trust_remote_code"],
        remap_masks=given["remap_masks"],
        digests=digests,
    )
    with workers_of(cluster, wanted, workers=given["ray_workers"]) as workforce:
        yield workforce
        if workforce.losses:
            number, why = len(workforce.losses), workforce.losses[-1]
            typer.echo(f"{number} workers were lost, and others did their work again; the last one: {why}", err=True)


def parts_folder(output: Path) -> Path:
    """Where the finished parts of what will be written to `output` are kept."""
    return output.with_name(output.name + ".parts")


def finished_parts(given: Mapping[str, Any], models: "ModelSet", job: Mapping[str, Any]) -> "FinishedParts":
    """Parts beside the output, in memory where there is none. job: what they depend on beside the models' weights and
    what those run on; arrays in it are named by their digests.
    """
    from understudy.cluster import FinishedParts

    if given["output"] is None:
        return FinishedParts()
    place = {"device": given["place"], "dtype": given["precision"], "models": models.digests}
    return FinishedParts(parts_folder(given["output"]), {**_named(job), **place})


def parts_kept(output: Path | None) -> str:
    """What is kept of a job after an interrupt."""
    if output is None:
        return "nothing is kept without --output"
    folder = parts_folder(output)
    return f"what was finished is kept in {str(folder)!r}; {GO_ON}" if folder.exists() else "nothing is finished yet"


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _named(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_named(entry) for entry in value]
    return sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else value


def judge_path(judge: str | None) -> str | Path:
    """Where the judge lies: the bundled one unless given."""
    from understudy.denoisers.model_set import bundled_paths

    return bundled_paths()["judge"] if judge is None else judge


def ray_facts(workforce: "RayWorkforce | None") -> dict[str, Any]:
    """What the environment of a result says of the workers; nothing where there were none."""
    return {} if workforce is None else {"ray": workforce.facts()}
