"""One line of progress with an ETA: rewritten on a terminal, every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from edge_ad.utils.logs import CLEAR_LINE, write_to


@dataclass
class Progress:
    """Tells the stage, the step, the loss and the time left on stderr."""

    shown: bool = True
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _last: float = 0.0

    def log(self, text: str) -> None:
        """Print a line of its own."""
        if self.shown:
            write_to(self.stream, f"{text}\n")

    def step(self, stage: str, done: int, total: int, began: float, *, first: int = 0, note: str = "") -> None:
        """Report step ``done`` of ``total``; ``began`` is the monotonic time at step ``first``."""
        live = self.stream.isatty()
        now = time.monotonic()
        if not self.shown or (done < total and now - self._last < (0.5 if live else 10.0)):
            return
        self._last = now
        rate = (now - began) / max(done - first, 1)
        line = f"{stage}: {done} of {total}{', ' + note if note else ''}, {clock(rate * (total - done))} left"
        if done == total:
            line = f"{stage}: {total} of {total}{', ' + note if note else ''}, took {clock(now - began)}"
        end = "\n" if done == total or not live else ""
        write_to(self.stream, f"{CLEAR_LINE if live else ''}{line}{end}")


def count_on_terminal(stage: str) -> Callable[[int, int], None] | None:
    """Return what shows how many of how many are done, and the time left; None where stderr is no terminal."""
    progress = Progress()
    if not progress.stream.isatty():
        return None
    start: list[tuple[int, float]] = []

    def show(done: int, total: int) -> None:
        start.append((done, time.monotonic()))
        first, began = start[0]
        del start[1:]
        progress.step(stage, done, total, began, first=first)

    return show


def clock(seconds: float) -> str:
    """Return ``m:ss``."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
