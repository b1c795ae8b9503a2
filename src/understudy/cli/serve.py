"""`understudy serve`: the service and the studio."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from understudy.errors import DataError, SettingError

if TYPE_CHECKING:
    from understudy.denoisers.model_set import ModelSet
    from understudy.importance import Importance
    from understudy.server.app import Room
    from understudy.server.limits import ServerLimits

NEEDED = ("fastapi", "uvicorn", "prometheus_client")

Host = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is everyone's.")]
Port = Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="Another name to answer to, such as that of a proxy or a published port; may be repeated.",
    ),
]
ApiKeys = Annotated[
    Path | None,
    typer.Option("--api-keys", metavar="FILE", help="Serve only those who send a key of this file, one on each line."),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        help="Of requests that name none, such as L12.5%,H75%,L12.5%. Default: the costliest model alone.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", help="Denoising steps of requests that do not say. Default: 256, within --max-steps."),
]
MaxSequences = Annotated[int, typer.Option("--max-sequences", help="Most sequences that are sampled at a time.")]
Queue = Annotated[int, typer.Option("--queue", help="Most sequences that wait; those beyond are answered by 429.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Most sequences in one pass.")]
MaxLength = Annotated[
    int | None,
    typer.Option("--max-length", help="Most tokens of a sequence, prompt included. Default: what the models take."),
]
MaxSamples = Annotated[int, typer.Option("--max-samples", help="Most samples of one request.")]
MaxSteps = Annotated[int, typer.Option("--max-steps", help="Most denoising steps of a request.")]
Timeout = Annotated[
    float,
    typer.Option("--timeout", help="Seconds that a request may take, waiting included; then it is answered by 504."),
]
Grace = Annotated[int, typer.Option("--grace", help="Seconds in which running requests are finished when told to end.")]
ImportanceFile = Annotated[
    Path | None,
    typer.Option(
        "--importance", metavar="FILE", help="What analyze found of these models, for the studio. Default: the bundled."
    ),
]
NoStudio = Annotated[bool, typer.Option("--no-studio", help="Serve the API alone, without a page.")]
OrphanSeconds = Annotated[
    float, typer.Option("--orphan-seconds", help="The studio cancels a run that nobody has watched for so long.")
]
Graphs = Annotated[
    bool, typer.Option("--cuda-graphs/--no-cuda-graphs", help="On a GPU, capture passes where the models allow it.")
]
AccessLog = Annotated[bool, typer.Option("--access-log/--no-access-log", help="Log every request.")]


def serve_command(
    heavy: Heavy = None,
    light: Light = None,
    model: Models = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_host: AllowHost = None,
    api_keys: ApiKeys = None,
    schedule: Schedule = None,
    steps: Steps = None,
    max_sequences: MaxSequences = 64,
    queue: Queue = 256,
    batch_size: BatchSize = 32,
    max_length: MaxLength = None,
    max_samples: MaxSamples = 16,
    max_steps: MaxSteps = 4096,
    timeout: Timeout = 300.0,
    grace: Grace = 60,
    importance: ImportanceFile = None,
    no_studio: NoStudio = False,
    orphan_seconds: OrphanSeconds = 30.0,
    device: Device = "auto",
    precision: Precision = "auto",
    tokenizer: Tokenizer = None,
    trust_remote_code: TrustRemoteCode = False,
    remap_masks: RemapMasks = False,
    cuda_graphs: Graphs = True,
    access_log: AccessLog = True,
) -> None:
    """Serve texts over HTTP, as OpenAI's completions, and the studio as a page. Without models: the bundled pair."""
    given = dict(locals())
    _check_packages()
    from understudy.server.app import create_app
    from understudy.server.hosts import Hosts, is_loopback
    from understudy.server.keys import read_keys
    from understudy.server.serving import address_of, open_socket, serve

    limits = _limits(given)
    keys = None if api_keys is None else read_keys(api_keys)
    if grace < 1:
        raise SettingError(f"grace is {grace}; it must be at least 1 second")
    with open_socket(host, port) as listening:  # first, because loading models takes its time
        models = load_given(given)
        rooms = [] if no_studio else [_studio(given)]
        is_local = is_loopback(listening.getsockname()[0])
        app = create_app(
            models,
            limits,
            schedule=schedule,
            steps=steps,
            keys=keys,
            hosts=Hosts([host, *(allow_host or ())]) if is_local or allow_host else None,
            cuda_graphs=cuda_graphs,
            drain_seconds=grace,
            rooms=rooms,
        )
        _announce(models, address_of(listening), has_studio=not no_studio)
        if not is_local and keys is None:
            typer.echo("everyone who reaches this address may use it; --api-keys FILE restricts that", err=True)
        serve(app, listening, grace_seconds=grace, access_log=access_log)


def _check_packages() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SettingError(f"serving needs {' and '.join(missing)}: pip install 'understudy[serve]'")


def _limits(given: dict[str, Any]) -> "ServerLimits":
    from understudy.server.limits import ServerLimits

    samples, sequences, queue = given["max_samples"], given["max_sequences"], given["queue"]
    if samples > sequences + queue >= 0 and sequences >= 1:
        raise SettingError(
            f"--max-samples is {samples}, but --max-sequences {sequences} and --queue {queue} have room for "
            f"{sequences + queue} at a time; lower --max-samples or raise --queue"
        )
    return ServerLimits(
        max_sequences=given["max_sequences"],
        queue=given["queue"],
        batch_size=given["batch_size"],
        length=given["max_length"],
        samples=given["max_samples"],
        steps=given["max_steps"],
        seconds=given["timeout"],
    )


def _studio(given: dict[str, Any]) -> "Room":
    from understudy.studio import studio_room

    return studio_room(_importance(given), orphan_seconds=given["orphan_seconds"])


def _importance(given: dict[str, Any]) -> "Importance | None":
    """What is known of the models: from a file, or of the bundled pair."""
    from understudy.demo import bundled_importance

    if given["importance"] is not None:
        return _load_importance(given["importance"])
    is_bundled = not (given["heavy"] or given["light"] or given["model"])
    return bundled_importance() if is_bundled else None


def _load_importance(path: Path) -> "Importance":
    """Read a file; whatever else it is, nobody is told to write over it."""
    from understudy.importance import Importance

    try:
        return Importance.load(path)
    except DataError as error:
        reason = "cannot be read" if not Path(path).is_file() else "is no importance file, or a damaged one"
        raise DataError(
            f"--importance: {str(path)!r} {reason}; give the importance.json that understudy analyze wrote of these "
            "models, or leave --importance out"
        ) from error


def _announce(models: "ModelSet", address: str, *, has_studio: bool) -> None:
    named = ", ".join(f"{key} ({path})" for key, path in models.paths.items())
    typer.echo(f"serving {named}", err=True)
    if has_studio:
        typer.echo(f"studio: {address}/", err=True)
    typer.echo(f"API:    {address}/v1 (stop with Ctrl-C)", err=True)
