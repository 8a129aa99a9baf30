"""One call from a bundle and cameras to verdicts: what `edge-ad run` does, for programs too.

Signals: how a run ends in good order, and how it is told to read its thresholds again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.frames import Source
from edge_ad.camera.sources import open_source
from edge_ad.engines.selection import Streams, open_pipelines
from edge_ad.errors import BadInput
from edge_ad.inspection.assembly import (
    LineSettings,
    Wiring,
    lock_line,
    make_cascade,
    make_drift,
    make_partings,
    reload_thresholds,
    thresholds_of,
    tile_combiner,
    warm_up,
    with_record,
    with_trigger,
)
from edge_ad.inspection.canary import make_canary
from edge_ad.inspection.events import Event, EventWriter
from edge_ad.inspection.evidence import Evidence, StoreSink
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Listener, Loop, Sink
from edge_ad.inspection.plausibility import Plausibility, floors_of
from edge_ad.inspection.reload import Reloader
from edge_ad.inspection.settings import LoopSettings
from edge_ad.inspection.sinks import CallSink, DriftSink, EventSink, StatusLine
from edge_ad.inspection.summary import Summary, summarise
from edge_ad.inspection.view import View
from edge_ad.inspection.watchdog import Notifier, ThreadWatch, Watchdog
from edge_ad.utils.redaction import redact
from edge_ad.utils.supervision import ThreadFaults

DRAIN_S = 2.0


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
        kept = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for number, handler in kept.items():
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
    print(f"error: the run did not end within {DRAIN_S:g} s of SIGTERM and was cut off", file=sys.stderr, flush=True)
    os._exit(3)


PROOF_S = 10.0  # a dashboard asks for a completed cycle within so many seconds where no service manager does

__all__ = ["LineSettings", "Stop", "inspect"]


def inspect(
    bundle: Bundle | Path | str,
    cameras: str | Sequence[str],
    *,
    settings: LoopSettings | None = None,
    line: LineSettings | None = None,
    backend: str | None = None,
    precision: str | None = None,
    events: str | None = None,
    save: Path | None = None,
    on_event: Callable[[Event], None] | None = None,
    status: TextIO | None = None,
    signals: bool = False,
) -> Summary:
    """Judge what one camera URI shows, or several in turn, and return the counts.

    ``line`` adds outputs, a trigger and a store. ``events`` names a file for JSON lines (``-``: standard output),
    ``save`` a folder for annotated pictures; ``on_event`` is called with every event in order; ``status`` is a terminal
    for a live line. With ``signals`` (main thread only) SIGTERM and Ctrl-C end the run in good order and SIGHUP reads
    the thresholds again. Raises BadInput and DeviceFault as the parts do.
    """
    outputs = line or LineSettings()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    chosen = with_record(with_trigger(settings or LoopSettings(), outputs), opened)
    notifier = Notifier()
    chosen = replace(chosen, patient=chosen.patient or notifier.managed)
    uris = [cameras] if isinstance(cameras, str) else list(cameras)
    stop, changed, faults = Stop(), threading.Condition(), ThreadFaults()
    with contextlib.ExitStack() as stack:
        lock_line(outputs, stack)
        if signals:
            stack.enter_context(stop.listening())
        unused = stack.enter_context(contextlib.ExitStack())
        sources = _open_sources(uris, chosen, unused, opened.image_bits)
        names = [source.name for source in sources]
        pipelines = open_pipelines(opened, backend, precision, outputs.streams)
        pipeline, *more = [stack.enter_context(one) for one in pipelines]
        streams = stack.enter_context(contextlib.closing(Streams([pipeline, *more]))) if more else None
        reference, self_test = warm_up(streams or pipeline, opened)
        tiles, combine = tile_combiner(pipeline, opened, chosen.view, outputs.tile_goods)
        wiring = Wiring(names, chosen, outputs, changed, faults)
        stack.callback(wiring.close)
        thresholds = thresholds_of(opened, outputs, tiles)
        cascade = make_cascade(pipeline, opened, outputs, tiles is not None, thresholds, lambda: judge.thresholds)
        weight = opened.statistics.weight
        plausibility = Plausibility(None if tiles else floors_of(opened), pipeline.branches)
        judge = Judge(streams or cascade, thresholds, weight, chosen.max_age_ms, chosen.view, combine, plausibility)
        reloader = Reloader(judge, lambda path: reload_thresholds(opened, outputs, tiles, path), opened.path, faults)
        stop.on_reload = reloader.ask
        watchdog = Watchdog(notifier, self_test, limit_s=PROOF_S if outputs.web else None)
        drift = DriftSink(None if tiles else make_drift(opened, outputs.cascade is not None))
        sinks: list[Sink] = [wiring.desk]
        if wiring.store is not None:
            evidence = Evidence(wiring.store, outputs.record, chosen.view, reference, wiring.keeper.wake, faults)
            kept = StoreSink(wiring.store, lambda name: loop.account(name), evidence)
            sinks.append(kept)
        sinks += _open_sinks(stack, events, save, reference, chosen.view, on_event, status, len(names) > 1)
        web = None
        if outputs.web is not None:
            from edge_ad.web.link import open_web

            web = open_web(outputs, opened, pipeline, names, chosen, wiring, tiles is not None, thresholds, reloader)
            stack.callback(web.close)
            sinks.append(web.panel)
        canary = make_canary(streams or pipeline, opened, lambda: any(station.ready for station in loop.stations))
        sinks += [drift, watchdog, canary]
        partings = make_partings(opened, chosen, len(sources), wiring.calls, wiring.first_parts(names))
        listeners: list[Listener] = [wiring.desk, watchdog, canary, reloader, ThreadWatch(faults)]
        listeners += [web.panel] if web is not None else []
        loop = Loop(judge, sources, sinks, chosen, listeners, partings, changed)
        stack.callback(watchdog.close)
        if wiring.store is not None:
            stack.callback(kept.close)
        stack.callback(wiring.reject)  # whatever ends the run, the outputs come first
        stop.attach(loop)
        unused.pop_all()  # from here on the loop closes the sources
        watchdog.ready()
        if web is not None:
            web.begin(loop, judge, wiring.desk, watchdog, drift, wiring.store, reference)
        loop.run()
        summary = summarise(loop, pipeline.backend.name, pipeline.precision, stop.interrupted, drift.warnings)
    # With what came at the end: the record was still being written, and outputs still delivered.
    return replace(summary, faults=faults.summary(), outputs=tuple(wiring.outputs()))


def _open_sources(
    uris: Sequence[str], settings: LoopSettings, stack: contextlib.ExitStack, image_bits: int
) -> list[Source]:
    if not uris:
        raise BadInput("no camera is named: give --camera URI, or `camera` under [run] in edge-ad.toml")
    repeated = next((uri for uri in uris if uris.count(uri) > 1), None)
    if repeated is not None:
        raise BadInput(f"--camera {redact(repeated)} is given twice: name every camera once")
    sources = []
    for uri in uris:
        source = open_source(
            uri, settings.realtime, patient=settings.patient, lag_s=settings.lag_s, image_bits=image_bits
        )
        stack.callback(source.close)
        sources.append(source)
    return sources


def _open_sinks(
    stack: contextlib.ExitStack,
    events: str | None,
    save: Path | None,
    reference: NDArray[np.float32],
    view: View,
    on_event: Callable[[Event], None] | None,
    status: TextIO | None,
    several: bool,
) -> list[Sink]:
    """Open the sinks that follow outputs and store: the record first, pictures and the terminal after it."""
    sinks: list[Sink] = []
    if events is not None:
        sinks.append(EventSink(EventWriter(events)))
    if on_event is not None:
        sinks.append(CallSink(on_event))
    if save is not None:
        from edge_ad.inspection.recorder import Recorder

        sinks.append(Recorder(save, reference, view, several))
    if status is not None:
        sinks.append(StatusLine(status))
    for sink in reversed(sinks):
        stack.callback(sink.close)
    return sinks
