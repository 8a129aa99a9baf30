"""One call from a bundle and cameras to verdicts: what `edge-ad run` does, for programs too."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.frames import Source
from edge_ad.camera.sources import open_source
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.selection import open_pipeline
from edge_ad.errors import BadInput
from edge_ad.inspection.events import Event, EventWriter
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop, Sink
from edge_ad.inspection.settings import LoopSettings
from edge_ad.inspection.sinks import CallSink, EventSink, StatusLine
from edge_ad.inspection.summary import Summary, summarise

WARM_UP = 4


def inspect(
    bundle: Bundle | Path | str,
    cameras: str | Sequence[str],
    *,
    settings: LoopSettings | None = None,
    backend: str | None = None,
    precision: str | None = None,
    events: str | None = None,
    save: Path | None = None,
    on_event: Callable[[Event], None] | None = None,
    status: TextIO | None = None,
    signals: bool = False,
) -> Summary:
    """Judge all frames of one camera URI, or of several in turn, and return the counts.

    ``events`` names a file for JSON lines (``-``: standard output), ``save`` a folder for annotated pictures;
    ``on_event`` is called with every event in order; ``status`` is a terminal for a live line. With ``signals`` (main
    thread only) SIGTERM and Ctrl-C end the run in good order. Raises BadInput and DeviceFault as the parts do.
    """
    chosen = settings or LoopSettings()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    uris = [cameras] if isinstance(cameras, str) else list(cameras)
    stop = Stop()
    with contextlib.ExitStack() as stack:
        if signals:
            stack.enter_context(stop.listening())
        unused = stack.enter_context(contextlib.ExitStack())
        sources = _open_sources(uris, chosen.realtime, unused)
        pipeline = stack.enter_context(open_pipeline(opened, backend, precision))
        reference = _warm_up(pipeline, opened)
        sinks = _open_sinks(stack, events, save, reference, on_event, status)
        judge = Judge(pipeline, opened.thresholds, opened.statistics.weight, chosen.max_age_ms)
        loop = Loop(judge, sources, sinks, chosen)
        stop.attach(loop)
        unused.pop_all()  # from here on the loop closes the sources
        loop.run()
        return summarise(loop, pipeline.backend.name, pipeline.precision, stop.interrupted)


class Stop:
    """Turns the first SIGTERM or Ctrl-C into an orderly end; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._asked = False
        self._loop: Loop | None = None

    def attach(self, loop: Loop) -> None:
        """Name the loop to stop; one that is asked for already stops before its first frame."""
        self._loop = loop
        if self._asked:
            loop.stop()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the two signals inside this context; elsewhere than in the main thread do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kept = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = self.interrupted or number == signal.SIGINT
        self._asked = True
        if self._loop is not None:
            self._loop.stop()


def _open_sources(uris: Sequence[str], realtime: bool, stack: contextlib.ExitStack) -> list[Source]:
    if not uris:
        raise BadInput("no camera is named: give --camera URI, or `camera` under [run] in edge-ad.toml")
    repeated = next((uri for uri in uris if uris.count(uri) > 1), None)
    if repeated is not None:
        raise BadInput(f"--camera {repeated} is given twice: name every camera once")
    sources = []
    for uri in uris:
        source = open_source(uri, realtime)
        stack.callback(source.close)
        sources.append(source)
    return sources


def _warm_up(pipeline: Pipeline, bundle: Bundle) -> NDArray[np.float32]:
    """Run golden images, so that the first frame is not late; return the heat map f32[256,256] of the best of them."""
    found = [pipeline.infer(image) for image in bundle.golden.images[:WARM_UP]]
    return min(found, key=lambda inference: inference.score).map


def _open_sinks(
    stack: contextlib.ExitStack,
    events: str | None,
    save: Path | None,
    reference: NDArray[np.float32],
    on_event: Callable[[Event], None] | None,
    status: TextIO | None,
) -> list[Sink]:
    """Open the sinks in the order of effects: the record first, pictures and the terminal after it."""
    sinks: list[Sink] = []
    if events is not None:
        sinks.append(EventSink(EventWriter(events)))
    if on_event is not None:
        sinks.append(CallSink(on_event))
    if save is not None:
        from edge_ad.inspection.recorder import Recorder

        sinks.append(Recorder(save, reference))
    if status is not None:
        sinks.append(StatusLine(status))
    for sink in reversed(sinks):
        stack.callback(sink.close)
    return sinks
