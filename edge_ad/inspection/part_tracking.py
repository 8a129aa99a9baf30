"""From frames to parts: when one begins, which of its frames are judged, and that no part is judged twice.

The parts of one camera: what a station asks about each healthy frame.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Generic, Literal, Protocol, TypeVar

from edge_ad.camera.frames import Frame
from edge_ad.config import RunTable
from edge_ad.inspection.presence import Observation, PresenceDetector, Thumb, difference
from edge_ad.inspection.view import view_of

_log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_CALLS = 1000

# idle: nothing to judge. busy: a part comes, moves or is being looked at. held: the part here has its verdict.
CycleState = Literal["idle", "busy", "held"]


# A part that comes to rest again and differs from the one judged before by more than so many grey levels (mean over the
# thumbnail) is another part.
SWAP_LIMIT = 3.0


def candidates_of(run: RunTable) -> int:
    """Return among how many first frames at rest the sharpest ``part_frames`` are chosen."""
    return run.part_frames if run.part_candidates is None else run.part_candidates


@dataclass(frozen=True, eq=False)
class PartReady(Generic[T]):
    """A part to judge: its id, the chosen frames in order of capture (at least one), and how many were passed over.

    ``called_at``: the monotonic second of the trigger that called for it, None for a part that was seen.
    """

    part: str
    frames: tuple[T, ...]
    passed_over: int
    called_at: float | None = None


class Chooser(Generic[T]):
    """Keeps the candidates of one part and gives the best of them."""

    def __init__(self, run: RunTable) -> None:
        self.adopt(run)
        self._best: list[tuple[float, T]] = []

    def adopt(self, run: RunTable) -> None:
        """Choose as these settings say from now on."""
        self._frames, self._candidates = run.part_frames, candidates_of(run)

    def __len__(self) -> int:
        return len(self._best)

    def add(self, frame: T, sharpness: float) -> bool:
        """Keep a frame; True when there are enough."""
        self._best.append((sharpness, frame))
        return len(self._best) >= self._candidates

    def take(self, part: str) -> PartReady[T]:
        """Return the sharpest frames and begin anew."""
        order = sorted(range(len(self._best)), key=lambda index: -self._best[index][0])[: self._frames]
        chosen = tuple(self._best[index][1] for index in sorted(order))
        passed_over = len(self._best) - len(chosen)
        self._best.clear()
        return PartReady(part, chosen, passed_over)


class PartTracker(Generic[T]):
    """Follows what an eye sees and tells parts, numbered from ``first``.

    A part begins when something present comes to rest, and ends when the station is seen without it. It is judged as
    soon as its candidates are complete, or when it moves away before that. One that rests again unchanged is the same.
    """

    def __init__(self, run: RunTable, first: int = 1) -> None:
        self._number = first - 1
        self._chooser: Chooser[T] = Chooser(run)
        self._last: Thumb | None = None
        self._judged: Thumb | None = None
        self.state: CycleState = "idle"

    def see(self, frame: T, observation: Observation) -> tuple[CycleState, PartReady[T] | None]:
        """Take in one frame and return what it is: part of nothing, of a part on its way, or of one already judged.

        A frame that was kept as a candidate is ``busy`` and comes back in a PartReady, now or later.
        """
        ready: PartReady[T] | None = None
        if not observation.present:
            ready, self._judged = self._finish(), None
            self.state = "idle"
        elif not observation.still:
            ready = self._finish()
            self.state = "busy" if self._judged is None else "held"
        elif self._judged is not None and difference(observation.thumb, self._judged) <= SWAP_LIMIT:
            self.state = "held"
        else:
            self.state = "busy"
            if not self._chooser:
                self._number += 1
                self._judged = None
            self._last = observation.thumb
            if self._chooser.add(frame, observation.sharpness):
                ready = self._finish()
        return self.state, ready

    @property
    def next_part(self) -> int:
        """The number of the next part."""
        return self._number + 1

    def keeps(self) -> int:
        """Return how many frames wait as candidates."""
        return len(self._chooser)

    def finish(self) -> PartReady[T] | None:
        """End: give out what waits."""
        return self._finish()

    def _finish(self) -> PartReady[T] | None:
        if not self._chooser:
            return None
        self._judged = self._last
        return self._chooser.take(str(self._number))


@dataclass(frozen=True)
class Call:
    """A trigger's call for one part: its id and the monotonic second of the call."""

    part: str
    at: float


class TriggerTracker(Generic[T]):
    """Gives each call the frames captured after it and before the next one.

    A call that has no frame ``trigger_deadline_ms`` after it, or when the first one after the next call is there, is missed.
    Calls are served first in, first out.
    """

    def __init__(self, run: RunTable) -> None:
        self._deadline = run.trigger_deadline_ms / 1000.0
        self._calls: deque[Call] = deque()
        self._missed: list[Call] = []
        self._chooser: Chooser[T] = Chooser(run)
        self.state: CycleState = "idle"

    def adopt(self, run: RunTable) -> None:
        """Choose frames as these settings say from now on."""
        self._deadline = run.trigger_deadline_ms / 1000.0
        self._chooser.adopt(run)

    def call(self, call: Call) -> None:
        """Take in a call."""
        self._calls.append(call)

    def see(self, frame: T, captured_at: float, sharpness: float) -> tuple[bool, list[PartReady[T]]]:
        """Take in one frame; return whether it was kept, and the parts that are complete."""
        ready = []
        while len(self._calls) > 1 and captured_at >= self._calls[1].at:  # it shows the next part
            if self._chooser:
                ready.append(self._finish())
            else:
                self._missed.append(self._calls.popleft())
        if not self._calls or captured_at < self._calls[0].at:
            self.state = "idle" if not self._calls else "busy"
            return False, ready
        self.state = "busy"
        if self._chooser.add(frame, sharpness):
            ready.append(self._finish())
        return True, ready

    def late(self, now: float) -> tuple[list[PartReady[T]], list[Call]]:
        """Return parts that must do with the frames they have, and calls that got none, at ``now``."""
        ready, missed = [], self._missed
        self._missed = []
        while self._calls and now - self._calls[0].at > self._deadline:
            if self._chooser:
                ready.append(self._finish())
            else:
                missed.append(self._calls.popleft())
        if not self._calls:
            self.state = "idle"
        return ready, missed

    def keeps(self) -> int:
        """Return how many frames wait as candidates."""
        return len(self._chooser)

    def finish(self) -> PartReady[T] | None:
        """End: give out what waits."""
        return self._finish() if self._chooser else None

    def _finish(self) -> PartReady[T]:
        call = self._calls.popleft()
        return replace(self._chooser.take(call.part), called_at=call.at)


@dataclass(frozen=True, eq=False)
class Judgeable:
    """A healthy frame; ``since`` is the monotonic time from which its age counts, ``part`` the part it belongs to.

    ``last``: with it the part is complete. Without parts every frame is its own. ``fault``: why a frame of a part must
    not be judged after all. ``called_at``: the monotonic second of the trigger that called for the part.
    """

    frame: Frame
    since: float
    _: KW_ONLY
    part: str | None = None
    last: bool = True
    fault: str | None = None
    called_at: float | None = None

    @property
    def seen_at(self) -> float:
        """The monotonic second from which on it shows what it is judged for: that of the frame, or of an earlier call."""
        captured_at = self.frame.captured_at
        return captured_at if self.called_at is None else min(self.called_at, captured_at)


@dataclass(frozen=True)
class Missed:
    """A part that was called for, at monotonic second ``called_at``, and of which there is no frame."""

    part: str
    reason: str
    called_at: float | None = None


@dataclass(frozen=True)
class FrameOutcome:
    """What one frame came to: ``kept`` as a candidate or of no use, and what is now to be judged."""

    state: CycleState
    useful: bool
    ready: tuple[PartReady[Judgeable], ...] = ()


class PartDetector(Protocol):
    """Makes parts of frames."""

    def look(self, candidate: Judgeable) -> FrameOutcome:
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

    def __init__(self, detector: PresenceDetector, run: RunTable, first: int = 1) -> None:
        self._detector = detector
        self._view = view_of(run)
        self._tracker: PartTracker[Judgeable] = PartTracker(run, first)

    @property
    def next_part(self) -> int:
        """The number of the next part."""
        return self._tracker.next_part

    def look(self, candidate: Judgeable) -> FrameOutcome:
        """Take in a healthy frame."""
        before = self._tracker.keeps()
        state, ready = self._tracker.see(candidate, self._detector.look(self._view.crop(candidate.frame.image)))
        after = self._tracker.keeps() + (len(ready.frames) + ready.passed_over if ready else 0)
        return FrameOutcome(state, after > before, (ready,) if ready else ())

    def time(self, now: float) -> tuple[list[PartReady[Judgeable]], list[Missed]]:
        """Nothing is decided by time alone."""
        return [], []

    def interrupt(self) -> None:
        """What is seen next may be another part: it must come to rest again."""
        self._detector.forget()

    def finish(self) -> PartReady[Judgeable] | None:
        """Return the part that waits for more frames."""
        return self._tracker.finish()

    def keeps(self) -> int:
        """Return how many frames wait as candidates."""
        return self._tracker.keeps()


class Calls:
    """Where a trigger puts its calls, from any thread; every camera of the run hears each of them.

    ``on_call`` is called with the monotonic second of each call before any camera hears of it. At most ``MAX_CALLS``
    wait; a further one costs the oldest, which is logged.
    """

    def __init__(self, changed: threading.Condition | None = None) -> None:
        self._changed = changed or threading.Condition()
        self._queues: list[weakref.ref[deque[Call]]] = []  # weak: who lets go of one hears nothing more
        self._recent: deque[Call] = deque(maxlen=MAX_CALLS)
        self._count = 0
        self.numbered = True
        self.on_call: Callable[[float], None] | None = None

    def subscribe(self) -> deque[Call]:
        """Return a queue of the calls that came already and of all further ones."""
        with self._changed:  # the trigger is open while the cameras are still prepared
            queue = deque(self._recent, maxlen=MAX_CALLS)
            self._queues.append(weakref.ref(queue))
        return queue

    def put(self, part: str, at: float) -> None:
        """Call for a part; an empty id becomes the number of the call, unless ids mean more than a name (``numbered``)."""
        if self.on_call is not None:
            self.on_call(at)
        with self._changed:
            self._count += 1
            call = Call(part or (str(self._count) if self.numbered else ""), at)
            self._queues = [one for one in self._queues if one() is not None]
            heard = [queue for one in self._queues if (queue := one()) is not None]
            for queue in heard or [self._recent]:
                if len(queue) == MAX_CALLS:
                    _log.error("trigger: %d calls wait; the oldest, for part %s, gets no verdict", MAX_CALLS, queue[0].part)
                queue.append(call)
            if heard:  # another camera may not be ready yet
                self._recent.append(call)
            self._changed.notify_all()


class CalledParts:
    """Parts that a trigger calls for."""

    def __init__(self, calls: Calls, run: RunTable) -> None:
        self._queue = calls.subscribe()
        self._deadline_ms = run.trigger_deadline_ms
        self._tracker: TriggerTracker[Judgeable] = TriggerTracker(run)

    def adopt(self, run: RunTable) -> None:
        """Look at parts as another product asks for."""
        self._tracker.adopt(run)

    def look(self, candidate: Judgeable) -> FrameOutcome:
        """Take in a healthy frame; sharpness is not compared, the first frames after the call count."""
        self._hear()
        state, ready = self._tracker.see(candidate, candidate.frame.captured_at, 0.0)
        return FrameOutcome(self._tracker.state, state, tuple(ready))

    def time(self, now: float) -> tuple[list[PartReady[Judgeable]], list[Missed]]:
        """Return parts whose time is over."""
        self._hear()
        ready, missed = self._tracker.late(now)
        reason = f"late: no frame within {self._deadline_ms:g} ms after the trigger, or before the next one"
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
    since = max(candidate.since for candidate in ready.frames)
    last = len(ready.frames) - 1
    return [
        replace(candidate, since=since, part=ready.part, last=index == last, called_at=ready.called_at)
        for index, candidate in enumerate(ready.frames)
    ]
