"""The service in several replicas: Ray Serve in front, an engine with models of its own in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from understudy.cluster.connection import import_ray
from understudy.cluster.models import WorkerModels
from understudy.errors import SettingError
from understudy.server import ServerLimits

SPARE_REQUESTS = (
    64  # beyond what the engine takes, so that it is the engine that says no: with 429 and when to come again
)


def serve_app(
    models: WorkerModels,
    limits: ServerLimits | None = None,
    *,
    replicas: int = 1,
    gpus_per_replica: float | None = None,
    cpus_per_replica: float = 1.0,
    schedule: str | None = None,
    steps: int | None = None,
    api_keys: str | Path | None = None,
    hosts: Sequence[str] | None = None,
    cuda_graphs: bool = True,
    drain_seconds: float = 60.0,
) -> Any:
    """Make the application that `ray.serve.run` deploys: `server.create_app` over these models in every replica.

        with connect("auto"):
            serve.run(serve_app(WorkerModels({"H": "/shared/heavy", "L": "/shared/light"}, device="cuda"), replicas=4))

    limits: of each replica. gpus_per_replica: one where the models are on GPUs, unless given; a fraction lets replicas
    share one. api_keys: file of keys, which every node must be able to read. hosts: where Ray Serve listens on loopback
    alone, names beside those of loopback that it may be called by; any unless given. drain_seconds: in which a replica
    that is taken away finishes what it has accepted. A request stays with the replica that took it, and so do streams;
    metrics are those of the replica that answers. The studio is left out: its runs live in one process.
    SettingError for numbers out of range, and where Ray Serve (the extra `ray`) or the service (`serve`) is missing.
    """
    if replicas < 1:
        raise SettingError(f"{replicas} replicas are wanted; give at least 1")
    import_ray()
    try:
        from ray import serve

        import understudy.server.app  # noqa: F401  # that it is there is said here, and not by a replica
    except ImportError as error:
        raise SettingError(f"replicas of the service need {error.name}: pip install 'understudy[serve,ray]'") from error
    bounds = limits or ServerLimits()
    options = {"schedule": schedule, "steps": steps, "cuda_graphs": cuda_graphs, "drain_seconds": drain_seconds}
    build = _builder(models, bounds, api_keys, hosts, options)
    on_gpu = 0.0 if models.device == "cpu" else 1.0
    deployment = serve.deployment(serve.ingress(build)()).options(
        name="understudy",
        num_replicas=replicas,
        max_ongoing_requests=bounds.max_sequences + bounds.queue + SPARE_REQUESTS,
        graceful_shutdown_timeout_s=drain_seconds,
        ray_actor_options={
            "num_cpus": cpus_per_replica,
            "num_gpus": on_gpu if gpus_per_replica is None else gpus_per_replica,
        },
    )
    return deployment.bind()


def _builder(
    models: WorkerModels,
    limits: ServerLimits,
    api_keys: str | Path | None,
    hosts: Sequence[str] | None,
    options: dict[str, Any],
) -> Callable[[], Any]:
    """What makes the application of one replica, there. A plain function, as Ray Serve asks for."""

    def build() -> Any:
        from understudy.server.app import create_app
        from understudy.server.hosts import Hosts
        from understudy.server.keys import read_keys

        keys = None if api_keys is None else read_keys(Path(api_keys))
        names = None if hosts is None else Hosts(hosts)
        return create_app(models.load_set(), limits, keys=keys, hosts=names, **options)

    return build
