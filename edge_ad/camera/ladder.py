"""How often a lost camera is tried again, and the count of it."""

from __future__ import annotations

import random
from dataclasses import dataclass

MOST_ABANDONED = 3


@dataclass
class Restarts:
    """Counts of one camera: ``attempts`` to open it, ``reconnects`` after a loss, ``stalls`` (reads given up because
    they took too long) and ``abandoned`` reads that still hang now.
    """

    attempts: int = 0
    reconnects: int = 0
    stalls: int = 0
    abandoned: int = 0

    @property
    def stuck(self) -> bool:
        """Whether so many calls hang that no further one is begun: only a new process frees them."""
        return self.abandoned >= MOST_ABANDONED


class Backoff:
    """Waiting times between attempts: doubling from ``first_s``, never above ``cap_s``, each shortened at random by up
    to a half so that many cameras do not come back in step.
    """

    def __init__(self, first_s: float = 0.2, cap_s: float = 1.5, seed: int = 0) -> None:
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
        """Start from the bottom again: the camera has proved itself."""
        self._tries = 0
