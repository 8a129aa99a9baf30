"""The loop: cameras in turn, one frame each, one event for each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from edge_ad.camera.frames import Source
from edge_ad.camera.opencv import one_thread
from edge_ad.errors import DeviceFault, is_out_of_memory
from edge_ad.inspection.camera_worker import CameraWorker, Faulted, Outage, Outcome, Passed
from edge_ad.inspection.counters import Counters, Latencies
from edge_ad.inspection.judge import InspectionResult, Judge, median_result
from edge_ad.inspection.part_tracking import CycleState, Judgeable, PartDetector
from edge_ad.inspection.settings import LoopSettings

TICK_S = 0.02


class Sink(Protocol):
    """Takes every judgement of a run, in order."""

    def take(self, judgement: InspectionResult, source: Source) -> None:
        """Take one judgement made on ``source``."""

    def close(self) -> None:
        """Write out what is pending."""


class Listener(Protocol):
    """Follows the cycles of a run that bring no verdict."""

    def cycle(self, camera: str, state: CycleState) -> None:
        """A frame was looked at and needs no verdict by itself."""

    def tick(self) -> None:
        """A round is over; comes at least every 0.02 s while the loop is alive."""


class Loop:
    """Judges what the sources give until all have ended, ``max_frames`` are done or ``stop`` is called.

    Sources share the pipeline fairly: each gives at most one frame a round. Every frame ends as judged, dropped,
    faulted or idle. ``partings`` (one for each source, or None) gather frames to parts: a part gives one judgement.
    The loop closes the sources; the caller closes the sinks.
    """

    def __init__(
        self,
        judge: Judge,
        sources: Sequence[Source],
        sinks: Sequence[Sink],
        settings: LoopSettings,
        listeners: Sequence[Listener] = (),
        partings: Sequence[PartDetector] | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        self._judge = judge
        self._sinks = sinks
        self._listeners = listeners
        self._settings = settings
        self._changed = changed or threading.Condition()
        self._stopping = threading.Event()
        gathered: Sequence[PartDetector | None] = partings or [None] * len(sources)
        self.stations = [
            CameraWorker(source, settings, self._changed, parting, judge.prepare)
            for source, parting in zip(sources, gathered, strict=True)
        ]
        self._under_way: dict[CameraWorker, Judgeable] = {}
        self._open_parts: dict[str, list[InspectionResult]] = {}
        self.latencies = Latencies()
        self.none_reasons: Counter[str] = Counter()  # verdicts NONE by the word that their reason begins with
        self.elapsed_s = 0.0

    def stop(self) -> None:
        """Ask the loop to end after the frames it already has; safe in a signal handler."""
        self._stopping.set()

    def account(self, camera: str) -> Counters:
        """Return the counters of a camera as they stand."""
        return next(station for station in self.stations if station.name == camera).account()

    def run(self) -> None:
        """Run to the end; DeviceFault when the engine breaks or every camera is lost, after a NONE event."""
        with one_thread():
            self._run()
        self._raise_if_broken()

    def _run(self) -> None:
        started = time.monotonic()
        try:
            for station in self.stations:
                station.start()
            while not self._stopping.is_set() and self._alive():
                if not self._round():
                    self._wait()
                for listener in self._listeners:
                    listener.tick()
            self._drain()
        finally:
            self.elapsed_s = time.monotonic() - started
            for station in self.stations:
                station.close()

    def _alive(self) -> bool:
        running = [station for station in self.stations if not station.ended or station.ready]
        if running and all(station.lost for station in running):
            names = ", ".join(station.name for station in running)
            limit = self._settings.give_up_s
            raise DeviceFault(f"no frame from {names} for {limit:g} s: check the camera and its cable")
        return bool(running)

    def _round(self) -> bool:
        """Give every station its turn; False when none had anything."""
        served = False
        for station in self.stations:
            served = self._finish(station) or served
            outcomes = station.poll()
            served = served or bool(outcomes) or station.ready
            for outcome in outcomes:
                self._take(station, outcome)
            self._close_if_done(station)
        return served

    def _take(self, station: CameraWorker, outcome: Outcome) -> None:
        """Handle an outcome, or let its frame be inferred beside those of other stations until its next turn."""
        if not isinstance(outcome, Judgeable) or not self._judge.begin(outcome, station.checks_age):
            self._handle(station, outcome)
            return
        self._under_way[station] = outcome
        if len(self._under_way) > self._judge.at_once:
            self._finish(next(iter(self._under_way)))

    def _finish(self, station: CameraWorker) -> bool:
        """Handle the frame of a station that is under way; False without one."""
        outcome = self._under_way.pop(station, None)
        if outcome is None:
            return False
        self._handle(station, outcome)
        self._close_if_done(station)
        return True

    def _close_if_done(self, station: CameraWorker) -> None:
        if not station.ended and station not in self._under_way and station.limit_reached():
            station.close()

    def _wait(self) -> None:
        with self._changed:
            if not any(station.ready for station in self.stations):
                self._changed.wait(TICK_S)

    def _drain(self) -> None:
        """Judge what has already arrived, then nothing more."""
        for station in self.stations:
            self._finish(station)
            if station.ended:
                continue
            station.stop_reading()
            for outcome in station.drain():
                self._handle(station, outcome)

    def _handle(self, station: CameraWorker, outcome: Outcome) -> None:
        if isinstance(outcome, Passed):
            for listener in self._listeners:
                listener.cycle(station.name, outcome.state)
            return
        judgement = self._judgement(station, outcome)
        counters = station.counters
        if isinstance(outcome, Outage):
            counters.outages += 1
        elif judgement.event.verdict == "NONE":
            counters.faulted += 1
        else:
            counters.judged += 1
        verdict = self._of_part(station, outcome, judgement)
        if verdict is not None:
            self._tell(station, verdict)
        if judgement.broken is not None and is_out_of_memory(judgement.broken):
            raise DeviceFault(
                f"the engine failed on frame {judgement.event.frame} of {station.name}: out of memory "
                f"({judgement.broken}): close other programs, or choose a smaller preset"
            ) from judgement.broken
        if judgement.broken is not None:
            raise DeviceFault(
                f"the engine failed on frame {judgement.event.frame} of {station.name}: {judgement.broken}; "
                "rebuild it with `edge-ad build-engine` or start again"
            ) from judgement.broken

    def _of_part(self, station: CameraWorker, outcome: Outcome, judgement: InspectionResult) -> InspectionResult | None:
        """Return the verdict to tell; None while frames of the part are missing."""
        if not isinstance(outcome, Judgeable) or outcome.part is None or judgement.broken is not None:
            return judgement
        gathered = self._open_parts.setdefault(station.name, [])
        gathered.append(judgement)
        return median_result(self._open_parts.pop(station.name)) if outcome.last else None

    def _tell(self, station: CameraWorker, judgement: InspectionResult) -> None:
        event = judgement.event
        station.counters.verdicts[event.verdict] += 1
        station.counters.parts += judgement.frame is not None and event.part is not None
        if event.verdict != "NONE":
            self.latencies.add(event.latency_ms or 0.0)
        else:
            self.none_reasons[(event.reason or "unknown").split(":")[0]] += 1
        for sink in self._sinks:
            sink.take(judgement, station.source)

    def _judgement(self, station: CameraWorker, outcome: Judgeable | Faulted | Outage) -> InspectionResult:
        if isinstance(outcome, Outage):
            return self._judge.outage(station.name, outcome)
        if isinstance(outcome, Faulted):
            return self._judge.faulted(station.name, outcome)
        return self._judge.judge(station.name, outcome, station.checks_age)

    def _raise_if_broken(self) -> None:
        broken = [f"{station.name}: {station.broken}" for station in self.stations if station.broken]
        if broken:
            advice = "give smaller pictures, or close other programs" if "out of memory" in str(broken) else "check the camera"
            raise DeviceFault("; ".join(broken) + f"; {advice}")
