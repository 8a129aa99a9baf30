"""Where judgements go: a file of events, a function, a line on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from edge_ad.camera.frames import Source
from edge_ad.inspection.events import Event, EventWriter
from edge_ad.inspection.judge import Judgement
from edge_ad.inspection.verdict import VERDICTS

REFRESH_S = 0.2


class EventSink:
    """Writes every event through an EventWriter."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer

    def take(self, judgement: Judgement, source: Source) -> None:
        """Write the event."""
        self._writer.write(judgement.event)

    def close(self) -> None:
        """Sync and close the file."""
        self._writer.close()


class CallSink:
    """Hands every event to a function."""

    def __init__(self, function: Callable[[Event], None]) -> None:
        self._function = function

    def take(self, judgement: Judgement, source: Source) -> None:
        """Call the function."""
        self._function(judgement.event)

    def close(self) -> None:
        """Nothing is pending."""


class StatusLine:
    """One line on a terminal, rewritten five times a second: the last verdict and the counts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._counts = dict.fromkeys(VERDICTS, 0)
        self._shown = 0.0
        self._started = time.monotonic()

    def take(self, judgement: Judgement, source: Source) -> None:
        """Count the event and refresh the line when it is time."""
        event = judgement.event
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
