"""A source slowed to its nominal rate, so that a file behaves like a camera."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from edge_ad.camera.frames import BadFrame, Frame, Read, Source, SourceKind


class Paced:
    """Gives frame ``i`` of ``source`` not before ``start + i / fps``, and calls that moment its capture.

    A reader that comes late gets frames at once until it has caught up: the schedule does not shift.
    """

    def __init__(self, source: Source, fps: float) -> None:
        self._source = source
        self._period = 1.0 / fps
        self._start: float | None = None
        self._closed = threading.Event()
        self.fps: float | None = fps

    @property
    def name(self) -> str:
        """The name of the source inside."""
        return self._source.name

    @property
    def kind(self) -> SourceKind:
        """The kind of the source inside."""
        return self._source.kind

    def read(self, timeout_s: float) -> Read:
        """Return the next frame when it is due."""
        result = self._source.read(timeout_s)
        if not isinstance(result, (Frame, BadFrame)):
            return result
        if self._start is None:
            self._start = time.monotonic() - result.index * self._period
        due = self._start + result.index * self._period
        wait = due - time.monotonic()
        if wait > 0:
            self._closed.wait(wait)
        captured = max(result.captured_at, due)
        return replace(result, captured_at=captured, captured_wall=time.time() - (time.monotonic() - captured))

    def close(self) -> None:
        """Close the source inside and wake a waiting read."""
        self._closed.set()
        self._source.close()
