"""Serve a pair of models in several replicas, by Ray Serve in front of the service of `understudy serve`.

    ray start --head  # on one machine; `ray start --address=…` on the others
    python recipes/serve_replicas.py --heavy /shared/heavy --light /shared/light --replicas 4 --address auto

Without an address it starts a cluster of this machine. Ctrl-C ends the service, after what was accepted is finished.
"""

import argparse
import signal

import torch

from understudy.cluster import WorkerModels, connect, serve_app, travelling
from understudy.denoisers.model_set import bundled_paths
from understudy.server.hosts import is_loopback


def main():
    """Deploy and wait."""
    settings = parse_arguments()
    paths = {"H": travelling(settings.heavy), "L": travelling(settings.light)}
    dtype = "float32" if settings.device == "cpu" else "bfloat16"
    models = WorkerModels(paths, device=settings.device, dtype=dtype)
    with connect(settings.address):
        from ray import serve

        serve.start(http_options={"host": settings.host, "port": settings.port})
        options = {"replicas": settings.replicas, "schedule": settings.schedule, "api_keys": settings.api_keys}
        app = serve_app(models, hosts=[settings.host] if is_loopback(settings.host) else None, **options)
        serve.run(app)
        try:
            signal.pause()
        except KeyboardInterrupt:
            serve.shutdown()


def parse_arguments():
    """The bundled pair on this machine unless told otherwise."""
    bundled = bundled_paths()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heavy", default=bundled["heavy"])
    parser.add_argument("--light", default=bundled["light"])
    parser.add_argument("--schedule", default=None, help="of requests that name none, such as L12.5%%,H75%%,L12.5%%")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--address", default="local", help="local, auto or HOST:PORT")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-keys", default=None, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
