"""Who follows a run: the base of all observers, and those that write a file, call a function, watch drift, show a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from edge_ad.camera.frames import Source
from edge_ad.events import VERDICTS, Event
from edge_ad.inspection.drift import Drift
from edge_ad.inspection.events import EventWriter
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.part_tracking import CycleState

REFRESH_S = 0.2


class Observer:
    """Follows a run; what it does not override does nothing.

    Results come in the order of the observers, one after the other, in the thread of the loop.
    """

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Take one result made on ``source``."""

    def on_cycle(self, camera: str, state: CycleState) -> None:
        """A frame was looked at and needs no verdict by itself."""

    def on_tick(self) -> None:
        """A round is over; comes at least every 0.02 s while the loop is alive."""

    def close(self) -> None:
        """Write out what is pending."""


class EventFile(Observer):
    """Writes every event through an EventWriter."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Write the event."""
        self._writer.write(result.event)

    def close(self) -> None:
        """Sync and close the file."""
        self._writer.close()


class EventCallback(Observer):
    """Hands every event to a function."""

    def __init__(self, function: Callable[[Event], None]) -> None:
        self._function = function

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Call the function."""
        self._function(result.event)



class DriftObserver(Observer):
    """Watches all parts for drift; tells on stderr when it begins and when it is over. None watches nothing."""

    def __init__(self, drift: Drift | None) -> None:
        self.drift = drift
        self._drifted = False
        self.warnings: list[str] = []

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Look at the part; every window has its test."""
        event = result.event
        if self.drift is None or not self.drift.add(event.verdict, event.score, event.z):
            return
        warning = self.drift.report().warning
        if warning and not self._drifted:
            self.warnings.append(warning)
            print(f"warning: {warning}", file=sys.stderr)
        elif self._drifted and not warning:
            print("drift: the parts are like the goods again", file=sys.stderr)
        self._drifted = warning is not None



class StatusLine(Observer):
    """One line on a terminal, rewritten five times a second: the last verdict and the counts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._counts = dict.fromkeys(VERDICTS, 0)
        self._shown = 0.0
        self._started = time.monotonic()

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Count the event and refresh the line when it is time."""
        event = result.event
        self._counts[event.verdict] += 1
        now = time.monotonic()
        if now - self._shown >= REFRESH_S:
            self._shown = now
            self._show(event, now)

    def close(self) -> None:
        """Clear the line."""
        self._stream.write("\r\x1b[K")
        self._stream.flush()

    def _show(self, event: Event, now: float) -> None:
        counts = "  ".join(f"{name} {count}" for name, count in self._counts.items())
        rate = sum(self._counts.values()) / max(now - self._started, 1e-3)
        latency = "" if event.latency_ms is None else f"  {event.latency_ms:.0f} ms"
        frame = "-" if event.frame is None else event.frame
        text = f"frame {frame}  {event.verdict:4}  {counts}  {rate:.1f}/s{latency}  {event.reason or ''}"
        self._stream.write(f"\r\x1b[K{text[:118]}")
        self._stream.flush()
