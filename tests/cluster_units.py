"""Units of work that show what a workforce does with them; here, so that workers can import them."""

import os
import signal
import time
from dataclasses import dataclass
from typing import Any


class Counts:
    """A unit that does no harm."""

    def run(self, tools):
        yield 1
        return sorted(tools.denoisers)


class Dies:
    """A unit that ends the process it is done in."""

    def run(self, tools):
        yield 1
        time.sleep(0.4)
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Slowly:
    """A unit that takes its time."""

    work: Any

    def run(self, tools):
        time.sleep(0.2)
        return (yield from self.work.run(tools))


@dataclass(frozen=True)
class Slow:
    """A workforce whose units take so long that one can be lost."""

    inner: Any

    def __len__(self):
        return len(self.inner)

    def do(self, units):
        return self.inner.do((name, Slowly(work)) for name, work in units)
