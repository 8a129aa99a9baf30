"""One slot between a camera's reader thread and the loop."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from edge_ad.camera.frames import Delivered, End, SourceError


@dataclass(frozen=True, eq=False)
class Delivery:
    """A frame, the monotonic time at which it reached the mailbox, and how many frames went missing just before it."""

    frame: Delivered
    arrived_at: float
    missing: int


class Mailbox:
    """A slot for one frame. ``freshest``: a new frame replaces one nobody took (counted); else the writer waits.

    Errors and the end have places of their own: they never replace a frame, and all come out in the order they
    happened; of several errors in a row the first stays. Several mailboxes may share one condition, so that a reader
    can wait for all of them. ``lost`` counts the gaps in the index of what was put in: frames that never arrived.
    """

    def __init__(self, freshest: bool, changed: threading.Condition | None = None) -> None:
        self.freshest = freshest
        self.changed = changed or threading.Condition()
        self.captured = 0
        self.overwritten = 0
        self.errors = 0
        self.lost = 0
        self._slot: Delivery | None = None
        self._error: tuple[SourceError, float] | None = None
        self._end: End | None = None
        self._closed = False
        self._next_index = 0

    def put(self, frame: Delivered) -> bool:
        """Put a frame in; False when the mailbox is closed and the frame was not taken over."""
        arrived_at = time.monotonic()
        with self.changed:
            while self._slot is not None and not self.freshest and not self._closed:
                self.changed.wait()
            if self._closed:
                return False
            missing = max(frame.index - self._next_index, 0)
            self._next_index = frame.index + 1
            self.captured += 1
            self.lost += missing
            if self._slot is not None:
                self.overwritten += 1
                missing += self._slot.missing
            self._slot = Delivery(frame, arrived_at, missing)
            self.changed.notify_all()
            return True

    def fail(self, error: SourceError) -> None:
        """Tell an error; it stays until it is taken, and more of them are only counted."""
        with self.changed:
            self._error = self._error or (error, time.monotonic())
            self.errors += 1
            self.changed.notify_all()

    def finish(self, end: End) -> None:
        """Tell that nothing more will come."""
        with self.changed:
            self._end = end
            self.changed.notify_all()

    @property
    def ready(self) -> bool:
        """Whether ``take`` would give something."""
        return self._slot is not None or self._error is not None or self._end is not None

    def take(self) -> Delivery | SourceError | End | None:
        """Take the oldest of what is there, without waiting: a frame, an error (once), the end, or None."""
        with self.changed:
            if self._error is not None and (self._slot is None or self._error[1] < self._slot.arrived_at):
                error, self._error = self._error[0], None
                return error
            if self._slot is not None:
                delivery, self._slot = self._slot, None
                self.changed.notify_all()
                return delivery
            return self._end

    def close(self) -> None:
        """Take no more frames; a waiting writer goes on. A frame already here can still be taken."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def discard(self) -> None:
        """Throw an untaken frame away: dropped where frames may be dropped, else as if it had never been read."""
        with self.changed:
            if self._slot is not None:
                self._slot = None
                self.overwritten += self.freshest
                self.captured -= not self.freshest
                self.changed.notify_all()
