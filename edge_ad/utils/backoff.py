"""How long to wait before what failed is tried again.

How often a helper process may end before it stays away.
"""

from __future__ import annotations

import random
import time
from collections import deque


class Backoff:
    """Waiting times between attempts: doubling from ``first_s``, never above ``cap_s``, each shortened at random by up
    to a half so that many cameras, or many stations that lost one receiver, do not come back in step.

    ``seed`` None draws anew in every process.
    """

    def __init__(self, first_s: float = 0.2, cap_s: float = 1.5, seed: int | None = 0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._rng = random.Random(seed)
        self._tries = 0

    def next_s(self) -> float:
        """Return how long to wait before the next attempt, in seconds."""
        whole = min(self._first_s * 2.0 ** min(self._tries, 32), self._cap_s)
        self._tries += 1
        return whole * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start from the bottom again: an attempt has succeeded."""
        self._tries = 0


MAX_RESTARTS = 5
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
