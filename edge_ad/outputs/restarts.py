"""How often a helper process may end before it stays away."""

from __future__ import annotations

import time
from collections import deque

MOST_RESTARTS = 5
RESTART_WINDOW_S = 60.0


class Ends:
    """Counts the ends of a process within the last RESTART_WINDOW_S seconds."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()

    def count(self) -> int:
        """Count one more, now, and return how many there were."""
        now = time.monotonic()
        while self._at and now - self._at[0] > RESTART_WINDOW_S:
            self._at.popleft()
        self._at.append(now)
        return len(self._at)
