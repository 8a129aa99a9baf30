"""The loop: cameras in turn, one frame each, one event for each; and the signals that end it in good order."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Frame, Source
from edge_ad.camera.opencv import one_thread
from edge_ad.config import Config
from edge_ad.errors import DeviceFault, is_out_of_memory
from edge_ad.inspection.camera_worker import CameraWorker, Counters, Faulted, Latencies, Outage, Outcome, Passed
from edge_ad.inspection.judge import (
    NOT_LOCATED,
    PREFIX,
    THERE,
    InspectionResult,
    Judge,
    is_of_change,
    results_of_parts,
    without_verdict,
    worst_result,
)
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.part_tracking import Judgeable, PartDetector
from edge_ad.inspection.part_views import JoinedPart, ViewJoiner, ViewPlace, verdict_on
from edge_ad.inspection.pause import PAUSED, Pause
from edge_ad.inspection.settings import CaptureConditions
from edge_ad.inspection.view import View
from edge_ad.scoring import Thresholds
from edge_ad.scoring.fused_views import FusedViews

_log = logging.getLogger(__name__)

TICK_S = 0.02
DRAIN_S = 2.0


class Gate(Protocol):
    """Says which product is judged, and when nothing may be; holds requests off while a verdict is brought out."""

    @property
    def reporting(self) -> AbstractContextManager[object]:
        """What is held while a verdict is brought out."""

    def choose(self, part: str | None) -> str | None:
        """Have the product judged that a part id names; return why that cannot be."""

    def withheld(self, candidate: Judgeable) -> str | None:
        """Return why a frame may not be judged."""

    def reason(self) -> str | None:
        """Return why nothing may be judged now."""

    def tick(self) -> None:
        """Let a change come into force that waits for a moment between two frames."""


@dataclass(frozen=True, eq=False)
class JudgedView:
    """What judges the frames of one camera; ``name`` of its view of the part, ``region`` and ``reference`` as for PartView."""

    name: str
    judge: Judge
    settings: Config
    conditions: CaptureConditions
    region: View = View()
    reference: NDArray[np.float32] | None = None

    def place(self, source: Source) -> ViewPlace:
        """Return the view as that of a camera."""
        return ViewPlace(self.name, source, self.region, self.reference)


class Loop:
    """Judges what the sources give until all have ended, ``max_frames`` are done or ``stop`` is called.

    Sources share the pipeline fairly: each gives at most one frame a round. Every frame ends as judged, dropped,
    faulted or idle. ``detectors`` (one for each source, or None) gather frames to parts: a part gives one judgement, or
    one for each of several parts that are located in its frames.
    ``conditions`` and ``patient`` as for CameraWorker. ``views``: what judges each camera, where they see one part together
    and its verdict is brought out when all are in (``joiner``, ``fused``). In a ``pause`` no frame is inferred and every verdict
    is NONE. With a ``gate`` nothing is judged while it gives a reason, and ``adopt`` has another product judged from then
    on. The loop closes the sources; the caller closes the observers.
    """

    def __init__(
        self,
        judge: Judge,
        sources: Sequence[Source],
        observers: Sequence[Observer],
        settings: Config,
        *,
        conditions: CaptureConditions = CaptureConditions(),
        patient: bool = False,
        detectors: Sequence[PartDetector] | None = None,
        changed: threading.Condition | None = None,
        pause: Pause | None = None,
        gate: Gate | None = None,
        views: Sequence[JudgedView] = (),
        joiner: ViewJoiner | None = None,
        fused: FusedViews | None = None,
    ) -> None:
        self.judge = judge
        self.joiner, self._fused = joiner, fused
        judged = views or [JudgedView("", judge, settings, conditions)] * len(sources)
        self._gate = gate
        self._pause = pause or Pause(None)
        self._observers = observers
        self._give_up_s = settings.run.give_up_s
        self._changed = changed or threading.Condition()
        self._stopping = threading.Event()
        gathered: Sequence[PartDetector | None] = detectors or [None] * len(sources)
        self.workers = [
            CameraWorker(
                source,
                one.settings,
                self._changed,
                conditions=one.conditions,
                patient=patient,
                detector=detector,
                prepare=partial(self._prepare, number),
                choose=None if gate is None else gate.choose,
            )
            for number, (source, detector, one) in enumerate(zip(sources, gathered, judged, strict=True))
        ]
        self._views = dict(zip(self.workers, judged, strict=True))
        self._under_way: deque[tuple[CameraWorker, Judge, Judgeable]] = deque()  # the oldest first
        self._open_parts: dict[str, list[list[InspectionResult]]] = {}
        self.latencies = Latencies()
        self.none_reasons: Counter[str] = Counter()  # verdicts NONE by the word that their reason begins with
        self.elapsed_s = 0.0

    @property
    def thresholds(self) -> Thresholds:
        """What is judged by now: of several views the fused thresholds, or those of the first view."""
        return self.judge.thresholds if self._fused is None else self._fused.thresholds

    def view_of(self, worker: CameraWorker) -> tuple[str, Thresholds | None] | None:
        """Return the name of the view that a camera gives of a part that several see, None where it sees parts alone, and what
        its own scores are compared with, None where fused ones decide.
        """
        view = self._views[worker]
        return (view.name, view.judge.thresholds if self._fused is None else None) if view.name else None

    def stop(self) -> None:
        """Ask the loop to end after the frames it already has; safe in a signal handler."""
        self._stopping.set()

    def adopt(
        self,
        judge: Judge,
        settings: Config,
        conditions: CaptureConditions,
        detectors: Callable[[Sequence[int]], Sequence[PartDetector] | None],
        *,
        views: Sequence[JudgedView] = (),
        fused: FusedViews | None = None,
    ) -> None:
        """Judge by these from now on; ``detectors`` as for the loop, of the number of each camera's next part.

        What waits was seen before, and comes out of the same workers.
        """
        while self._under_way:
            self._finish(self._under_way[0][0])
        self.judge, self._fused = judge, fused
        judged = views or [JudgedView("", judge, settings, conditions)] * len(self.workers)
        self._views = dict(zip(self.workers, judged, strict=True))
        if self.joiner is not None:
            self.joiner.spoil(f"{THERE}: not all of its views were in")
        made: Sequence[PartDetector | None] | None = detectors([worker.next_part for worker in self.workers])
        for worker, detector in zip(self.workers, made or [None] * len(self.workers), strict=True):
            one = self._views[worker]
            worker.adopt(one.settings, one.conditions, detector, THERE)

    def account(self, camera: str) -> Counters:
        """Return the counters of a camera as they stand."""
        return next(worker for worker in self.workers if worker.name == camera).account()

    def run(self) -> None:
        """Run to the end; DeviceFault when the engine breaks or every camera is lost, after a NONE event."""
        with one_thread():
            self._run()
        self._raise_if_broken()

    def _run(self) -> None:
        started = time.monotonic()
        try:
            for worker in self.workers:
                worker.start()
            while not self._stopping.is_set() and self._alive():
                if not self._round():
                    self._wait()
                if self._gate is not None:
                    self._gate.tick()
                self._expire_views()
                for observer in self._observers:
                    observer.on_tick()
            self._drain()
        finally:
            self.elapsed_s = time.monotonic() - started
            for worker in self.workers:
                worker.close()

    def _alive(self) -> bool:
        running = [worker for worker in self.workers if not worker.ended or worker.ready]
        if running and all(worker.lost for worker in running):
            names = ", ".join(worker.name for worker in running)
            limit = self._give_up_s
            raise DeviceFault(f"no frame from {names} for {limit:g} s: check the camera and its cable")
        return bool(running)

    def _round(self) -> bool:
        """Give every station its turn; False when none had anything."""
        served = False
        for worker in self.workers:
            served = (not self._has_room(worker) and self._finish(worker)) or served
            outcomes = worker.poll() if self._has_room(worker) else []
            served = served or bool(outcomes) or worker.ready
            for outcome in outcomes:
                self._take(worker, outcome)
            served = (not outcomes and self._finish(worker, waits=False)) or served
            self._close_if_done(worker)
        return served

    def _count(self, worker: CameraWorker) -> int:
        return sum(one[0] is worker for one in self._under_way)

    def _has_room(self, worker: CameraWorker) -> bool:
        return worker.has_room(self._count(worker), self._views[worker].judge.at_once)

    def _take(self, worker: CameraWorker, outcome: Outcome) -> None:
        """Handle an outcome, or let its frame be inferred beside those of other stations until its next turn."""
        if isinstance(outcome, Judgeable):
            live = worker.source.kind == "live"  # what was recorded shows nothing of the pause
            reason = self._pause.reason(outcome.seen_at) if live else self._pause.reason()
            outcome = outcome if reason is None else replace(outcome, fault=reason)
        judge = self._views[worker].judge
        if not isinstance(outcome, Judgeable) or self._withheld(outcome) or not judge.begin(outcome, worker.checks_age):
            self._finish_all(worker)
            self._handle(worker, outcome)
            return
        self._under_way.append((worker, judge, outcome))
        if len(self._under_way) > judge.at_once:
            self._finish(self._under_way[0][0])

    def _finish(self, worker: CameraWorker, waits: bool = True) -> bool:
        """Handle the oldest frame of a station that is under way; False without one, or unless it ``waits`` if none is inferred."""
        oldest = next((one for one in self._under_way if one[0] is worker), None)
        if oldest is None or not (waits or oldest[1].inferred(oldest[2])):
            return False
        self._under_way.remove(oldest)
        self._handle(worker, oldest[2], oldest[1])
        self._close_if_done(worker)
        return True

    def _finish_all(self, worker: CameraWorker) -> None:
        while self._finish(worker):
            pass

    def _close_if_done(self, worker: CameraWorker) -> None:
        if not worker.ended and not self._count(worker) and worker.limit_reached():
            worker.close()

    def _wait(self) -> None:
        with self._changed:
            if not any(worker.ready for worker in self.workers):
                self._changed.wait(TICK_S)

    def _drain(self) -> None:
        """Judge what has already arrived, then nothing more."""
        for worker in self.workers:
            self._finish_all(worker)
            if worker.ended:
                continue
            worker.stop_reading()
            for outcome in worker.drain():
                self._handle(worker, outcome)
        if self.joiner is not None:
            for part in self.joiner.finish(time.monotonic()):
                self._report_part(part)

    def _prepare(self, number: int, frame: Frame) -> None:
        self._views[self.workers[number]].judge.prepare(frame)

    def _withheld(self, outcome: Judgeable) -> str | None:
        return None if self._gate is None else self._gate.withheld(outcome)

    def _handle(self, worker: CameraWorker, outcome: Outcome, judge: Judge | None = None) -> None:
        if isinstance(outcome, Passed):
            for observer in self._observers:
                observer.on_cycle(worker.name, outcome.state)
            return
        results = self._pause.withhold(self._results(worker, outcome, judge or self._views[worker].judge))
        counters = worker.counters
        if isinstance(outcome, Outage):
            counters.outages += 1
        elif all(result.event.verdict == "NONE" for result in results):
            counters.faulted += 1
        else:
            counters.judged += 1
        broken = next((result for result in results if result.broken is not None), None)
        verdicts = results if broken is not None else self._of_part(worker, outcome, results)
        if verdicts and self.joiner is not None and broken is None and _is_of_part(worker, outcome):
            view = self._views[worker].name
            for part in self.joiner.take(view, worst_result(verdicts), time.monotonic()):
                self._report_part(part)
        elif verdicts:
            self._report(worker, self._pause.withhold(verdicts))
        if broken is not None:
            _raise_engine_fault(worker.name, broken)

    def _of_part(
        self, worker: CameraWorker, outcome: Outcome, results: list[InspectionResult]
    ) -> list[InspectionResult]:
        """Return the verdicts to tell; none while frames of the part are missing."""
        if not isinstance(outcome, Judgeable) or outcome.part is None:
            return results
        gathered = self._open_parts.setdefault(worker.name, [])
        gathered.append(results)
        if not outcome.last:
            return []
        frames = self._open_parts.pop(worker.name)
        # A part that was seen in part while nothing could be judged is not judged by the rest.
        spoilt = [one for one in frames if (one[0].event.reason or "").startswith((PREFIX, PAUSED))]
        if spoilt:
            return spoilt[-1]
        # Nor is one whose frames were judged by two bundles: the first may have been replaced between them.
        mixed = len({result.event.bundle for results in frames for result in results}) > 1
        return [without_verdict(result, THERE) for result in frames[-1]] if mixed else results_of_parts(frames)

    def _report(self, worker: CameraWorker, results: list[InspectionResult]) -> None:
        if self._gate is None:
            self._bring_out(worker, results)
            return
        with self._gate.reporting:  # a request comes before the verdict or after it
            reason = self._gate.reason()
            if reason is not None:  # asked for while this was judged
                results = [without_verdict(result, reason) for result in results]
            self._bring_out(worker, results)

    def _expire_views(self) -> None:
        """Bring out parts whose missing views are not waited for any more."""
        if self.joiner is None:
            return
        for worker in self.workers:
            if worker.ended and not self._count(worker) and not worker.ready:
                self.joiner.end(self._views[worker].name)
        for part in self.joiner.expire(time.monotonic()):
            self._report_part(part)

    def _report_part(self, part: JoinedPart) -> None:
        """Bring out the verdict on a part of several views."""
        with contextlib.nullcontext() if self._gate is None else self._gate.reporting:
            reason = None if self._gate is None else self._gate.reason()

            def withhold(result: InspectionResult) -> InspectionResult:
                (withheld,) = self._pause.withhold([result])
                return withheld if reason is None else without_verdict(withheld, reason)

            workers = {view.name: worker for worker, view in self._views.items()}
            places = [view.place(workers[view.name].source) for view in self._views.values()]
            result, source = verdict_on(part, places, self._fused, withhold=withhold, missing=self._missing)
            worker = next(worker for worker in self.workers if worker.source is source)
            self._bring_out(worker, [result])

    def _missing(self, place: ViewPlace, reason: str) -> InspectionResult:
        judge = next(view.judge for view in self._views.values() if view.name == place.name)
        return judge.outage(place.source.name, Outage(reason))

    def _bring_out(self, worker: CameraWorker, results: list[InspectionResult]) -> None:
        counters = worker.counters
        counters.parts += any((result.frame or result.views) and result.event.part is not None for result in results)
        for result in results:
            event = result.event
            counters.verdicts[event.verdict] += 1
            counters.unlocated += (event.reason or "").startswith(NOT_LOCATED)
            counters.outside += result.place is not None and result.place.outside is not None
            if event.verdict != "NONE":
                self.latencies.add(event.latency_ms or 0.0)
            else:
                self.none_reasons[(event.reason or "unknown").split(":")[0]] += 1
        for observer in self._observers:
            observer.on_results(results, worker.source)

    def _results(
        self, worker: CameraWorker, outcome: Judgeable | Faulted | Outage, judge: Judge
    ) -> list[InspectionResult]:
        if isinstance(outcome, Outage):
            return [judge.outage(worker.name, outcome)]
        if isinstance(outcome, Faulted):
            under_way = None if self._gate is None else self._gate.reason()
            if under_way is not None and is_of_change(under_way):  # such as a camera that takes over other settings
                outcome = replace(outcome, reason=under_way)
            return [judge.faulted(worker.name, outcome)]
        reason = self._withheld(outcome)
        if reason is not None:
            judge.abandon(outcome)
            outcome = replace(outcome, fault=reason)
        results = judge.judge(worker.name, outcome, worker.checks_age)
        if any((result.event.reason or "").startswith(PREFIX) for result in results):
            return [without_verdict(result, reason or "") for result in results]
        return results

    def _raise_if_broken(self) -> None:
        broken = [f"{worker.name}: {worker.broken}" for worker in self.workers if worker.broken]
        if broken:
            advice = "give smaller images, or close other programs" if "out of memory" in str(broken) else "check the camera"
            raise DeviceFault("; ".join(broken) + f"; {advice}")


def _is_of_part(worker: CameraWorker, outcome: Outcome) -> bool:
    """Whether a verdict is on a view of a part, and not on a camera that sees none."""
    if isinstance(outcome, Outage):
        return outcome.part is not None
    return isinstance(outcome, Judgeable) or worker.every_frame


def _raise_engine_fault(camera: str, result: InspectionResult) -> None:
    error, where = result.broken, f"the engine failed on frame {result.event.frame} of {camera}"
    if error is not None and is_out_of_memory(error):
        raise DeviceFault(f"{where}: out of memory ({error}): close other programs, or choose a smaller preset") from error
    raise DeviceFault(f"{where}: {error}; rebuild it with `edge-ad build-engine` or start again") from error


class Stop:
    """Turns the first SIGTERM or Ctrl-C into an orderly end; a second Ctrl-C ends at once.

    A run that is not over 2 s after SIGTERM, because an engine or a disk hangs, is ended the hard way (exit 3); its
    outputs reject by themselves. SIGHUP calls ``on_reload``.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.on_reload: Callable[[], None] | None = None
        self._asked = False
        self._loop: Loop | None = None
        self._timer: threading.Timer | None = None

    @property
    def asked(self) -> bool:
        """Whether anybody asked for the end."""
        return self._asked

    def attach(self, loop: Loop) -> None:
        """Name the loop to stop; one that is asked for already stops before its first frame."""
        self._loop = loop
        if self._asked:
            loop.stop()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside this context; elsewhere than in the main thread do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal.SIGTERM: self._handle, signal.SIGINT: self._handle, signal.SIGHUP: self._reload}
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = self.interrupted or number == signal.SIGINT
        self._asked = True
        if number == signal.SIGTERM and self._timer is None:
            self._timer = threading.Timer(DRAIN_S, _end)
            self._timer.daemon = True
            self._timer.start()
        if self._loop is not None:
            self._loop.stop()

    def _reload(self, number: int, frame: FrameType | None) -> None:
        if self.on_reload is not None:
            self.on_reload()


def _end() -> None:
    _log.critical("the run did not end within %g s of SIGTERM and was cut off", DRAIN_S)
    os._exit(3)
