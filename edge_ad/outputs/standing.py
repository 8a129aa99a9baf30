"""Whether an output takes what is brought out, told when that changes."""

from __future__ import annotations

import time
from collections.abc import Callable

SETTLE_S = 1.0


class Standing:
    """The state of one output: proven by the first success, at fault from a failure until it has been well for a second.

    ``tell`` is called with the fault (None: well) whenever that changes, and with the first success.
    """

    def __init__(self, tell: Callable[[str | None], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._failed_at = 0.0
        self.fault: str | None = None
        self.proven = False
        self.failures = 0

    def failed(self, why: str) -> None:
        """Count a failure; the first one is told, and one of another sort than before."""
        self.failures += 1
        self._failed_at = self._clock()
        if why != self.fault:
            self.fault = why
            self._tell(why)

    def well(self) -> None:
        """Take note of a success."""
        first, self.proven = not self.proven, True
        recovered = self.fault is not None and self._clock() - self._failed_at >= SETTLE_S
        if recovered or (first and self.fault is None):
            self.fault = None
            self._tell(None)
