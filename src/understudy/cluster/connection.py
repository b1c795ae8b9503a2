"""A Ray cluster: one of this machine that lives as long as it is needed, or one that is there already.

Ray is imported here alone and in the functions that need it, so that nothing else waits for it.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import ClusterError, SettingError, one_line

LOCAL, RUNNING = "local", "auto"
STORE_BYTES = 256 * 2**20  # of a local cluster, for objects on their way: what travels here is small
ANSWER_SECONDS = 5.0  # a head that is there takes milliseconds


@dataclass(frozen=True)
class Room:
    """What one node offers: whole CPUs and GPUs."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A cluster this process is connected to. ray: the package. is_local: whether it was started for this process."""

    ray: Any
    is_local: bool

    def rooms(self) -> list[Room]:
        """The nodes that are alive."""
        resources = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [Room(int(found.get("CPU", 0)), int(found.get("GPU", 0))) for found in resources]


@contextmanager
def connect(address: str = LOCAL) -> Iterator[Cluster]:
    """Connect to a cluster; at the end the connection is closed, and with it everything that was started through it.

    address: "local" starts a cluster of this machine, all its CPUs and GPUs, without a dashboard; "auto" is the one
    that `ray start` has started on this machine; or HOST:PORT of a cluster's head. Where this process is connected
    already, that connection is used and left open. Ray's log lines go to its own files and not to the screen.
    SettingError where Ray, the extra `ray`, is not installed, or for an address of its client protocol; ClusterError
    where nothing answers at the address, or runs other versions of Ray or Python.
    """
    if "ray" in sys.modules and import_ray().is_initialized():
        yield Cluster(import_ray(), is_local=False)
        return
    _set_token(address)
    ray = import_ray()
    options = _options(address)
    with _silent():
        try:
            with _errors_unheard():
                ray.init(logging_level=logging.CRITICAL, log_to_driver=False, **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            ray.shutdown()
            raise ClusterError(
                f"no Ray cluster can be used at {address!r} ({one_line(error)}); where it asks for a token, that of "
                "its head must be in RAY_AUTH_TOKEN or ~/.ray/auth_token, and RAY_AUTH_MODE be token"
            ) from error
        try:
            yield Cluster(ray, is_local=address == LOCAL)
        finally:
            ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what nodes have to say, such as that one has died, off standard output.

    A thread of Ray's prints it there whatever `log_to_driver` says; the switch is that of Ray's own debugger.
    """
    from ray._private import worker

    was_on = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = was_on


@contextmanager
def _errors_unheard() -> Iterator[None]:
    """Lead standard error nowhere: Ray's core, which no logger reaches, tells there what its exception says, too."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_ray() -> Any:
    """The package ray, told not to report its use to its makers; SettingError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # workers without a GPU are not told so by warnings
    try:
        import ray
    except ImportError as error:
        raise SettingError("many machines need Ray: pip install 'understudy[ray]'") from error
    return ray


def _set_token(address: str) -> None:
    """Let Ray ask for a token, as its newer versions do: else whoever reaches its ports may run code here.

    Ray reads these variables when it is imported, and those that the user has set stay. A cluster of our own gets a
    token of its own, and no file in the user's home; for another, the user's token is shown, as `ray start` does.
    """
    if "ray" in sys.modules or "RAY_AUTH_MODE" in os.environ:
        return
    if address == LOCAL:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        return
    has_token = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if has_token or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


def _options(address: str) -> dict[str, Any]:
    """What `ray.init` is told."""
    if address == LOCAL:
        # Named, so that RAY_ADDRESS in the environment does not lead elsewhere.
        return {"address": LOCAL, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    place = _running() if address == RUNNING else address
    host, _, port = place.rpartition(":")
    if "://" in place or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise SettingError(
            f"the Ray address is {place!r}; give HOST:PORT as `ray start` says it, or auto on a machine of the "
            "cluster (ray:// is for programs outside of it)"
        )
    try:  # first, because Ray waits for a minute or more
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {place!r} ({error.strerror or one_line(error)}); start one with "
            "`ray start --head`, and give the address that it says"
        ) from error
    return {"address": place}


def _running() -> str:
    """Address of the cluster that `ray start` last made on this machine, or that RAY_ADDRESS names."""
    from ray._private.utils import read_ray_address

    found = os.environ.get("RAY_ADDRESS") or read_ray_address()
    if not found:
        raise ClusterError("no Ray cluster runs on this machine; start one with `ray start --head`")
    return str(found)
