"""How often a lost camera was tried again, and what hangs."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ABANDONED = 3


@dataclass
class Restarts:
    """Counts of one camera: ``attempts`` to open it, ``reconnects`` after a loss, ``stalls`` (reads given up because
    they took too long), ``lags`` (opened again because pictures came too late) and ``abandoned`` reads that still hang now.
    """

    attempts: int = 0
    reconnects: int = 0
    stalls: int = 0
    abandoned: int = 0
    lags: int = 0

    @property
    def stuck(self) -> bool:
        """Whether so many calls hang that no further one is begun: only a new process frees them."""
        return self.abandoned >= MOST_ABANDONED
