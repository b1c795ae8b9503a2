"""How fast a service works at present, and so when it will have room again."""

import math

MEMORY = 0.95  # share of what was known that stays when a pass is added


class Throughput:
    """Passes of single sequences per second, over the last twenty passes or so."""

    def __init__(self) -> None:
        self._sequences = self._seconds = 0.0

    def add(self, sequences: int, seconds: float) -> None:
        """Take note of a pass."""
        self._sequences = MEMORY * self._sequences + sequences
        self._seconds = MEMORY * self._seconds + seconds

    def seconds_for(self, passes: float) -> int:
        """Whole seconds, at least 1, in which so many passes of single sequences are made."""
        return max(1, math.ceil(passes * self._seconds / self._sequences)) if self._sequences else 1
