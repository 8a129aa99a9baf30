"""The loop: cameras in turn, one frame each, one event for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from edge_ad.camera.frames import Source
from edge_ad.errors import DeviceFault
from edge_ad.inspection.counters import Latencies
from edge_ad.inspection.judge import Judge, Judgement
from edge_ad.inspection.settings import LoopSettings
from edge_ad.inspection.station import Faulted, Outage, Outcome, Station

TICK_S = 0.1


class Sink(Protocol):
    """Takes every judgement of a run, in order."""

    def take(self, judgement: Judgement, source: Source) -> None:
        """Take one judgement made on ``source``."""

    def close(self) -> None:
        """Write out what is pending."""


class Loop:
    """Judges what the sources give until all have ended, ``max_frames`` are done or ``stop`` is called.

    Sources share the pipeline fairly: each gives at most one frame a round. Every frame ends as judged, dropped or
    faulted. The loop closes the sources; the caller closes the sinks.
    """

    def __init__(self, judge: Judge, sources: Sequence[Source], sinks: Sequence[Sink], settings: LoopSettings) -> None:
        self._judge = judge
        self._sinks = sinks
        self._settings = settings
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self.stations = [Station(source, settings, self._changed) for source in sources]
        self.latencies = Latencies()
        self.elapsed_s = 0.0

    def stop(self) -> None:
        """Ask the loop to end after the frames it already has; safe in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Run to the end; DeviceFault when the engine breaks or every camera is lost, after a NONE event."""
        started = time.monotonic()
        try:
            for station in self.stations:
                station.start()
            while not self._stopping.is_set() and self._alive():
                if not self._round():
                    self._wait()
            self._drain()
        finally:
            self.elapsed_s = time.monotonic() - started
            for station in self.stations:
                station.close()
        self._raise_if_broken()

    def _alive(self) -> bool:
        running = [station for station in self.stations if not station.ended]
        if running and all(station.silent_s > self._settings.give_up_s for station in running):
            names = ", ".join(station.name for station in running)
            limit = self._settings.give_up_s
            raise DeviceFault(f"no frame from {names} for {limit:g} s: check the camera and its cable")
        return bool(running)

    def _round(self) -> bool:
        """Give every station its turn; False when none had anything."""
        served = False
        for station in self.stations:
            outcomes = station.poll()
            served = served or bool(outcomes) or station.mailbox.ready
            for outcome in outcomes:
                self._handle(station, outcome)
            if not station.ended and station.limit_reached():
                station.close()
        return served

    def _wait(self) -> None:
        with self._changed:
            if not any(station.mailbox.ready for station in self.stations if not station.ended):
                self._changed.wait(TICK_S)

    def _drain(self) -> None:
        """Judge what has already arrived, then nothing more."""
        for station in self.stations:
            if station.ended:
                continue
            station.stop_reading()
            for outcome in station.poll():
                self._handle(station, outcome)

    def _handle(self, station: Station, outcome: Outcome) -> None:
        judgement = self._judgement(station, outcome)
        counters = station.counters
        counters.verdicts[judgement.event.verdict] += 1
        if isinstance(outcome, Outage):
            counters.outages += 1
        elif judgement.event.verdict == "NONE":
            counters.faulted += 1
        else:
            counters.judged += 1
            self.latencies.add(judgement.event.latency_ms or 0.0)
        for sink in self._sinks:
            sink.take(judgement, station.source)
        if judgement.broken is not None:
            raise DeviceFault(
                f"the engine failed on frame {judgement.event.frame} of {station.name}: {judgement.broken}; "
                "rebuild it with `edge-ad build-engine` or start again"
            ) from judgement.broken

    def _judgement(self, station: Station, outcome: Outcome) -> Judgement:
        if isinstance(outcome, Outage):
            return self._judge.outage(station.name, outcome)
        if isinstance(outcome, Faulted):
            return self._judge.faulted(station.name, outcome)
        return self._judge.judge(station.name, outcome, station.checks_age)

    def _raise_if_broken(self) -> None:
        broken = [f"{station.name}: {station.broken}" for station in self.stations if station.broken]
        if broken:
            raise DeviceFault("; ".join(broken) + "; check the camera")
