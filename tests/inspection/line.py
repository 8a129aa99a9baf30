"""A line in miniature for the tests: a pipeline that is only arithmetic, sources given as lists."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import BadFrame, End, Frame, Read, Source, SourceKind
from edge_ad.config import Config, EngineTable, RunTable
from edge_ad.engines.pipeline import Inference
from edge_ad.events import Event
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import EventCallback
from edge_ad.scoring import Thresholds
from tests.camera.pictures import noise

THRESHOLDS = Thresholds(
    warn=2.0,
    ng=4.0,
    goods=100,
    goods_warn=5,
    goods_ng=1,
    target_warn=0.05,
    target_ng=0.01,
    supported_warn=0.05,
    supported_ng=0.01,
)
WEIGHT = np.array([0.0, 0.5, 0.5, 0.0, 0.0], np.float32)


ENGINE = EngineTable(precision="fp32", backend="onnxruntime")


def settings_of(**run: Any) -> Config:
    """Return the settings of a run on ONNX Runtime with these keys of [run]."""
    return Config(run=RunTable(**run), engine=ENGINE)


class Arithmetic:
    """A pipeline whose score is given by a function of the number of the call."""

    image_size = (16, 16)
    branches = ("logic", "local")

    def __init__(self, score: Callable[[int], float] = lambda call: 0.0) -> None:
        self.calls = 0
        self._score = score

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        assert image.shape == (16, 16, 3)
        score = self._score(self.calls)
        self.calls += 1
        z = np.full(5, score, np.float32)
        return Inference(z, z, score, np.zeros((256, 256), np.float32), {})


class Script:
    """A source that plays a list of results; a number in it is a frame with that index, None waits for ``release``."""

    def __init__(
        self,
        steps: Iterable[Read | int | None],
        kind: SourceKind = "video",
        name: str = "cam",
        fps: float | None = None,
    ) -> None:
        self.name = name
        self.kind: SourceKind = kind
        self.fps = fps
        self.closed = False
        self.release = threading.Event()
        self._steps = iter(steps)

    def read(self, timeout_s: float) -> Read:
        step = next(self._steps, End())
        if step is None:
            self.release.wait(10.0)
            return End()
        if isinstance(step, int):
            return Frame(noise(step), step, time.monotonic(), time.time(), self.name, str(step))
        return step

    def close(self) -> None:
        self.closed = True


class Lockstep(Script):
    """Waits until the frame before has been looked at, so that none is overwritten; ``loop`` is the one that reads it."""

    loop: Loop | None = None

    def read(self, timeout_s: float) -> Read:
        deadline = time.monotonic() + 5.0
        while self.loop is not None and self.loop.workers[0].mailbox.ready and time.monotonic() < deadline:
            time.sleep(0.0005)
        return super().read(timeout_s)


def run_lockstep(frames: Iterable[Read], settings: Config) -> tuple[Loop, list[Event]]:
    """Run a loop that finds everything OK over all frames of one live camera."""
    source = Lockstep(frames, kind="live")
    loop, events = make_loop(Arithmetic(), [source], settings)
    source.loop = loop
    loop.run()
    return loop, events


def bad(index: int) -> BadFrame:
    return BadFrame("corrupt: test", index, time.monotonic(), time.time(), "cam", str(index))


def make_loop(
    pipeline: Arithmetic, sources: Sequence[Source], settings: Config | None = None, **more: Any
) -> tuple[Loop, list[Event]]:
    """Return a loop over the sources and the list that its events go to."""
    chosen = settings or Config()
    events: list[Event] = []
    judge = Judge(pipeline, THRESHOLDS, WEIGHT, chosen.run.max_age_ms)
    return Loop(judge, sources, [EventCallback(events.append)], chosen, **more), events


def run_loop(
    pipeline: Arithmetic, sources: Sequence[Source], settings: Config | None = None
) -> tuple[Loop, list[Event]]:
    """Run such a loop to its end."""
    loop, events = make_loop(pipeline, sources, settings)
    loop.run()
    return loop, events


def check_account(loop: Loop) -> None:
    """captured = judged + dropped + faulted for every camera, and one verdict for each event."""
    for station in loop.workers:
        counters = station.counters
        assert counters.captured == counters.judged + counters.dropped + counters.faulted
        assert counters.verdicts["NONE"] == counters.faulted + counters.outages
        assert sum(counters.verdicts.values()) == counters.judged + counters.faulted + counters.outages
