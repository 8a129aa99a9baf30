"""The parts of one camera: what a station asks about each healthy frame."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from edge_ad.camera.frames import Frame
from edge_ad.inspection.parts import Call, CycleState, PartReady, PartRule, PartTracker, TriggerTracker
from edge_ad.inspection.presence import Eye
from edge_ad.inspection.view import View


@dataclass(frozen=True, eq=False)
class Judgeable:
    """A healthy frame; ``since`` is the monotonic time from which its age counts, ``part`` the part it belongs to.

    ``last``: with it the part is complete. Without parts every frame is its own. ``fault``: why a frame of a part must
    not be judged after all. ``called_at``: the monotonic second of the trigger that called for the part.
    """

    frame: Frame
    since: float
    part: str | None = None
    last: bool = True
    fault: str | None = None
    called_at: float | None = None


@dataclass(frozen=True)
class Missed:
    """A part that was called for, at monotonic second ``called_at``, and of which there is no frame."""

    part: str
    reason: str
    called_at: float | None = None


@dataclass(frozen=True)
class Looked:
    """What one frame came to: ``kept`` as a candidate or of no use, and what is now to be judged."""

    state: CycleState
    kept: bool
    ready: tuple[PartReady[Judgeable], ...] = ()


class Parting(Protocol):
    """Makes parts of frames."""

    def look(self, found: Judgeable) -> Looked:
        """Take in a healthy frame."""

    def time(self, now: float) -> tuple[list[PartReady[Judgeable]], list[Missed]]:
        """Return what the passing of time decides at monotonic second ``now``."""

    def interrupt(self) -> None:
        """Frames were missed or could not be seen."""

    def finish(self) -> PartReady[Judgeable] | None:
        """Return the part that waits for more frames: there will be none."""

    def keeps(self) -> int:
        """Return how many frames wait as candidates."""


class SeenParts:
    """Parts that an eye sees come to rest in the region of interest."""

    def __init__(self, eye: Eye, rule: PartRule, view: View, first: int = 1) -> None:
        self._eye = eye
        self._view = view
        self._tracker: PartTracker[Judgeable] = PartTracker(rule, first)

    def look(self, found: Judgeable) -> Looked:
        """Take in a healthy frame."""
        before = self._tracker.keeps()
        state, ready = self._tracker.see(found, self._eye.look(self._view.crop(found.frame.image)))
        after = self._tracker.keeps() + (len(ready.frames) + ready.passed_over if ready else 0)
        return Looked(state, after > before, (ready,) if ready else ())

    def time(self, now: float) -> tuple[list[PartReady[Judgeable]], list[Missed]]:
        """Nothing is decided by time alone."""
        return [], []

    def interrupt(self) -> None:
        """What is seen next may be another part: it must come to rest again."""
        self._eye.forget()

    def finish(self) -> PartReady[Judgeable] | None:
        """Return the part that waits for more frames."""
        return self._tracker.finish()

    def keeps(self) -> int:
        """Return how many frames wait as candidates."""
        return self._tracker.keeps()


class Calls:
    """Where a trigger puts its calls, from any thread; every camera of the run hears each of them.

    ``on_call`` is called with the monotonic second of each call before any camera hears of it.
    """

    def __init__(self, changed: threading.Condition | None = None) -> None:
        self._changed = changed or threading.Condition()
        self._queues: list[deque[Call]] = []
        self._count = 0
        self.on_call: Callable[[float], None] | None = None

    def subscribe(self) -> deque[Call]:
        """Return a queue that gets all further calls."""
        queue: deque[Call] = deque(maxlen=1000)
        self._queues.append(queue)
        return queue

    def put(self, part: str, at: float) -> None:
        """Call for a part; an empty id becomes the number of the call."""
        if self.on_call is not None:
            self.on_call(at)
        with self._changed:
            self._count += 1
            for queue in self._queues:
                queue.append(Call(part or str(self._count), at))
            self._changed.notify_all()


class CalledParts:
    """Parts that a trigger calls for."""

    def __init__(self, calls: Calls, rule: PartRule, deadline_s: float) -> None:
        self._queue = calls.subscribe()
        self._deadline_s = deadline_s
        self._tracker: TriggerTracker[Judgeable] = TriggerTracker(rule, deadline_s)

    def look(self, found: Judgeable) -> Looked:
        """Take in a healthy frame; sharpness is not compared, the first frames after the call count."""
        self._hear()
        kept, ready = self._tracker.see(found, found.frame.captured_at, 0.0)
        return Looked(self._tracker.state, kept, tuple(ready))

    def time(self, now: float) -> tuple[list[PartReady[Judgeable]], list[Missed]]:
        """Return parts whose time is over."""
        self._hear()
        ready, missed = self._tracker.late(now)
        reason = f"late: no frame within {self._deadline_s * 1000:g} ms after the trigger"
        return ready, [Missed(call.part, reason, call.at) for call in missed]

    def interrupt(self) -> None:
        """A call stays open: it gets a later frame, or is missed."""

    def finish(self) -> PartReady[Judgeable] | None:
        """Return the part that waits for more frames."""
        return self._tracker.finish()

    def keeps(self) -> int:
        """Return how many frames wait as candidates."""
        return self._tracker.keeps()

    def _hear(self) -> None:
        while self._queue:
            self._tracker.call(self._queue.popleft())


def frames_of(ready: PartReady[Judgeable]) -> list[Judgeable]:
    """Return the frames of a part to judge, marked with it; their age counts from the newest of them."""
    since = max(found.since for found in ready.frames)
    last = len(ready.frames) - 1
    return [
        replace(found, since=since, part=ready.part, last=place == last, called_at=ready.called_at)
        for place, found in enumerate(ready.frames)
    ]
