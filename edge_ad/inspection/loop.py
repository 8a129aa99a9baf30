"""The loop: cameras in turn, one frame each, one event for each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from edge_ad.camera.frames import Source
from edge_ad.camera.opencv import one_thread
from edge_ad.config import Config
from edge_ad.errors import DeviceFault, is_out_of_memory
from edge_ad.inspection.camera_worker import CameraWorker, Counters, Faulted, Latencies, Outage, Outcome, Passed
from edge_ad.inspection.judge import NOT_LOCATED, InspectionResult, Judge, results_of_parts
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.part_tracking import Judgeable, PartDetector
from edge_ad.inspection.pause import Pause
from edge_ad.inspection.settings import CaptureConditions

TICK_S = 0.02


class Loop:
    """Judges what the sources give until all have ended, ``max_frames`` are done or ``stop`` is called.

    Sources share the pipeline fairly: each gives at most one frame a round. Every frame ends as judged, dropped,
    faulted or idle. ``detectors`` (one for each source, or None) gather frames to parts: a part gives one judgement, or
    one for each of several parts that are located in its frames.
    ``conditions`` and ``patient`` as for CameraWorker. In a ``pause`` no frame is inferred and every verdict is NONE. The
    loop closes the sources; the caller closes the observers.
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
    ) -> None:
        self._judge = judge
        self._pause = pause or Pause(None)
        self._observers = observers
        self._give_up_s = settings.run.give_up_s
        self._changed = changed or threading.Condition()
        self._stopping = threading.Event()
        gathered: Sequence[PartDetector | None] = detectors or [None] * len(sources)
        self.workers = [
            CameraWorker(
                source,
                settings,
                self._changed,
                conditions=conditions,
                patient=patient,
                detector=detector,
                prepare=judge.prepare,
            )
            for source, detector in zip(sources, gathered, strict=True)
        ]
        self._under_way: dict[CameraWorker, Judgeable] = {}
        self._open_parts: dict[str, list[list[InspectionResult]]] = {}
        self.latencies = Latencies()
        self.none_reasons: Counter[str] = Counter()  # verdicts NONE by the word that their reason begins with
        self.elapsed_s = 0.0

    def stop(self) -> None:
        """Ask the loop to end after the frames it already has; safe in a signal handler."""
        self._stopping.set()

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
            served = self._finish(worker) or served
            outcomes = worker.poll()
            served = served or bool(outcomes) or worker.ready
            for outcome in outcomes:
                self._take(worker, outcome)
            self._close_if_done(worker)
        return served

    def _take(self, worker: CameraWorker, outcome: Outcome) -> None:
        """Handle an outcome, or let its frame be inferred beside those of other stations until its next turn."""
        reason = self._pause.reason()
        if reason is not None and isinstance(outcome, Judgeable):
            outcome = replace(outcome, fault=reason)
        if not isinstance(outcome, Judgeable) or not self._judge.begin(outcome, worker.checks_age):
            self._handle(worker, outcome)
            return
        self._under_way[worker] = outcome
        if len(self._under_way) > self._judge.at_once:
            self._finish(next(iter(self._under_way)))

    def _finish(self, worker: CameraWorker) -> bool:
        """Handle the frame of a station that is under way; False without one."""
        outcome = self._under_way.pop(worker, None)
        if outcome is None:
            return False
        self._handle(worker, outcome)
        self._close_if_done(worker)
        return True

    def _close_if_done(self, worker: CameraWorker) -> None:
        if not worker.ended and worker not in self._under_way and worker.limit_reached():
            worker.close()

    def _wait(self) -> None:
        with self._changed:
            if not any(worker.ready for worker in self.workers):
                self._changed.wait(TICK_S)

    def _drain(self) -> None:
        """Judge what has already arrived, then nothing more."""
        for worker in self.workers:
            self._finish(worker)
            if worker.ended:
                continue
            worker.stop_reading()
            for outcome in worker.drain():
                self._handle(worker, outcome)

    def _handle(self, worker: CameraWorker, outcome: Outcome) -> None:
        if isinstance(outcome, Passed):
            for observer in self._observers:
                observer.on_cycle(worker.name, outcome.state)
            return
        results = self._pause.withhold(self._results(worker, outcome))
        counters = worker.counters
        if isinstance(outcome, Outage):
            counters.outages += 1
        elif all(result.event.verdict == "NONE" for result in results):
            counters.faulted += 1
        else:
            counters.judged += 1
        broken = next((result for result in results if result.broken is not None), None)
        verdicts = results if broken is not None else self._of_part(worker, outcome, results)
        if verdicts:
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
        return results_of_parts(self._open_parts.pop(worker.name)) if outcome.last else []

    def _report(self, worker: CameraWorker, results: list[InspectionResult]) -> None:
        counters = worker.counters
        counters.parts += any(result.frame is not None and result.event.part is not None for result in results)
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

    def _results(self, worker: CameraWorker, outcome: Judgeable | Faulted | Outage) -> list[InspectionResult]:
        if isinstance(outcome, Outage):
            return [self._judge.outage(worker.name, outcome)]
        if isinstance(outcome, Faulted):
            return [self._judge.faulted(worker.name, outcome)]
        return self._judge.judge(worker.name, outcome, worker.checks_age)

    def _raise_if_broken(self) -> None:
        broken = [f"{worker.name}: {worker.broken}" for worker in self.workers if worker.broken]
        if broken:
            advice = "give smaller images, or close other programs" if "out of memory" in str(broken) else "check the camera"
            raise DeviceFault("; ".join(broken) + f"; {advice}")


def _raise_engine_fault(camera: str, result: InspectionResult) -> None:
    error, where = result.broken, f"the engine failed on frame {result.event.frame} of {camera}"
    if error is not None and is_out_of_memory(error):
        raise DeviceFault(
            f"{where}: out of memory ({error}): close other programs, or choose a smaller preset"
        ) from error
    raise DeviceFault(f"{where}: {error}; rebuild it with `edge-ad build-engine` or start again") from error
