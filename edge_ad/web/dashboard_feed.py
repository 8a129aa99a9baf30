"""What the loop leaves for the dashboard: a few assignments a part, and one image a camera now and then."""

from __future__ import annotations

import bisect
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Source
from edge_ad.events import Event
from edge_ad.inspection.judge import InspectionResult, worst_result
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.part_tracking import CycleState
from edge_ad.inspection.products import Product
from edge_ad.inspection.view import View

IMAGES_PER_SECOND = 5.0
MAX_WAITING = 5000
MAX_WAIT_S = 1.0
BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Histogram:
    """Counts of durations in the buckets of BOUNDS_S (and one for what is longer), with their sum in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Take in one duration."""
        self.counts[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        self.total += seconds

    def to_json(self) -> dict[str, Any]:
        """Return counts and sum."""
        return {"counts": list(self.counts), "sum": self.total}


@dataclass
class Seen:
    """What was last seen of a camera: its newest event that is on the disk, the newest bad one, and where its parts
    stand.
    """

    event: Event | None = None  # of several parts in one frame the worst
    bad: Event | None = None
    reported_at: float = 0.0
    state: CycleState | None = None


@dataclass(frozen=True, eq=False)
class PendingImage:
    """The judgements on the parts of one image that is to be shown, of the camera at ``index``."""

    index: int
    results: Sequence[InspectionResult]


@dataclass
class _Slot:
    shown_at: float = -math.inf
    pending: tuple[int, Sequence[InspectionResult]] | None = None


@dataclass(frozen=True)
class _Waiting:
    """An event, the number of events up to it, and whether it is the worst of its frame."""

    number: int
    since: float
    index: int
    event: Event
    worst: bool


@dataclass
class Released:
    """What may be shown now: events in order, and at most one image a camera."""

    events: list[tuple[int, Event]] = field(default_factory=list)
    shots: list[PendingImage] = field(default_factory=list)


class DashboardFeed(Observer):
    """A sink and listener of the loop; ``release`` gives what may be shown, in the thread of the link.

    An event is shown only when it is on the disk: ``settled`` counts the events that are, or are lost for good. Where
    the disk does not answer for a second they are shown without it. Without a store they are shown at once.
    ``watching`` says whether a page is open: only then images are held, one for each camera, at most IMAGES_PER_SECOND
    of all. ``shown`` has of each camera the piece of them that is judged, and the reference of its HeatScale.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        settled: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.watching = False
        self.shown: list[tuple[View, NDArray[np.float32] | None]] = [(View(), None) for _ in cameras]
        self.cameras = tuple(cameras)
        self.seen = [Seen() for _ in cameras]
        self.stages: dict[str, Histogram] = {"total": Histogram()}
        self._indices = {name: index for index, name in enumerate(cameras)}
        self._settled = settled
        self._clock = clock
        self._every_s = len(self.cameras) / IMAGES_PER_SECOND
        self._lock = threading.Lock()
        self._taken = 0
        self._waiting: deque[_Waiting] = deque(maxlen=MAX_WAITING)
        self._slots = [_Slot() for _ in cameras]

    def on_results(self, results: Sequence[InspectionResult], source: Source) -> None:
        """Keep the events of one frame, and its image when it is time for one."""
        now, index, worst = self._clock(), self._indices[source.name], worst_result(results)
        with self._lock:
            for result in results:
                self._taken += 1
                self._waiting.append(_Waiting(self._taken, now, index, result.event, result is worst))
            for camera, shown in self._seen_by(index, results):
                slot = self._slots[camera]
                has_frame = any(one.frame is not None for one in shown) or bool(worst.views)
                if self.watching and has_frame and now - slot.shown_at >= self._every_s:
                    slot.shown_at, slot.pending = now, (self._taken, shown)
                self.seen[camera].state = None
        for result in results:
            event = result.event
            if event.latency_ms is not None and event.verdict != "NONE":
                self._time("total", event.latency_ms)
            for name, spent in result.inference.stages_ms.items() if result.inference else ():
                self._time(name, spent)

    def _seen_by(self, index: int, results: Sequence[InspectionResult]) -> list[tuple[int, Sequence[InspectionResult]]]:
        """Return what each camera shows with a verdict: of a part that several see its own view, below the verdict on all."""
        views = [view for result in results for view in result.views]
        if not views:
            return [(index, results)]
        (result,) = results
        return [
            (self._indices[view.source.name], [replace(view.result, event=replace(result.event, pose=view.result.event.pose))])
            for view in views
        ]

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Keep one event."""
        self.on_results([result], source)

    def on_product(self, product: Product) -> None:
        """Show the region that is judged of another product."""
        judged = list(product.views.values()) or [product] * len(self.cameras)
        self.shown = [(one.view, one.reference) for one in judged]

    def on_cycle(self, camera: str, state: CycleState) -> None:
        """Keep where the parts of a camera stand."""
        self.seen[self._indices[camera]].state = state

    def release(self) -> Released:
        """Return what may be shown now and was not returned before."""
        now = self._clock()
        result = Released()
        with self._lock:
            last = self._last(now)
            while self._waiting and self._waiting[0].number <= last:
                one = self._waiting.popleft()
                result.events.append((one.index, one.event))
                for seen in self._shown_by(one):
                    seen.event, seen.reported_at = one.event, now
                    seen.bad = one.event if one.event.verdict != "OK" else seen.bad
            for index, slot in enumerate(self._slots):
                if slot.pending is not None and slot.pending[0] <= last:
                    result.shots.append(PendingImage(index, slot.pending[1]))
                    slot.pending = None
        return result

    def _shown_by(self, one: _Waiting) -> list[Seen]:
        """Return the cameras that show an event: all, where it is on a part that all see."""
        if one.event.views is not None:
            return self.seen
        return [self.seen[one.index]] if one.worst else []

    def _last(self, now: float) -> int:
        """Return the number of the newest event that may be shown."""
        if self._settled is None:
            return self._taken
        overdue = [one.number for one in self._waiting if now - one.since > MAX_WAIT_S]
        return max(self._settled(), overdue[-1] if overdue else 0)

    def _time(self, name: str, spent_ms: float) -> None:
        histogram = self.stages.get(name)
        if histogram is None:
            histogram = self.stages[name] = Histogram()
        histogram.add(spent_ms / 1000.0)
