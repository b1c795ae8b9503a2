"""The service: many requests at once through one engine, over HTTP or from Python.

`Engine` needs nothing beyond the library itself; everything about HTTP needs the extra `serve` and is imported where it
is used.
"""

from understudy.server.engine import Engine
from understudy.server.limits import ServerLimits
from understudy.server.sequences import Run, RunEvent, RunRequest

__all__ = ["Engine", "Run", "RunEvent", "RunRequest", "ServerLimits"]
