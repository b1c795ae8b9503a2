"""Many machines: units of work done by the workers of a Ray cluster, with the results of one process.

    with ray_workforce(WorkerModels({"H": "runs/heavy", "L": "runs/light"}, judge="runs/judge"), "auto") as workforce:
        result = run_to_end(search_schedules(..., workforce=workforce))

`search_schedules` and `analyze` take a workforce as it is; `compare_on_cluster` and `sample_on_cluster` are
`run_comparison` and `sample_steps` by one. `serve_app` is the service in several replicas. Needs the extra `ray`.
"""

from understudy.cluster.comparing import compare_on_cluster
from understudy.cluster.connection import Cluster, connect
from understudy.cluster.models import WorkerModels, travelling
from understudy.cluster.parts import FinishedParts
from understudy.cluster.sampling import SamplingProgress, sample_on_cluster
from understudy.cluster.serving import serve_app
from understudy.cluster.workforce import RayWorkforce, ray_workforce, workers_of

__all__ = [
    "Cluster",
    "FinishedParts",
    "RayWorkforce",
    "SamplingProgress",
    "WorkerModels",
    "compare_on_cluster",
    "connect",
    "ray_workforce",
    "sample_on_cluster",
    "serve_app",
    "travelling",
    "workers_of",
]
