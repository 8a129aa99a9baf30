"""How many frames a second the line judges, beside what the engines alone allow; and for how long it keeps that up.

What the loop costs beyond the engines: camera to verdict and engines alone, measured on the same frames.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from statistics import median

import numpy as np

from edge_ad.bundle import Bundle
from edge_ad.camera.frames import End, Frame, Image, Read, Source, SourceKind
from edge_ad.config import Config, RunTable
from edge_ad.engines.benchmark import camera_frames, quantiles
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.engines.selection import Streams
from edge_ad.inspection.judge import LOCATE, Inferring, InspectionResult, Judge
from edge_ad.inspection.locating import Locating
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import Observer

WARM_UP = 20


@dataclass(frozen=True)
class Overhead:
    """Milliseconds as ``{"p50", "p90", "p99", "max"}`` over ``frames`` frames.

    ``end_to_end``: from the capture to the verdict, hand-over between threads, health, locating or resizing and judgement
    included.
    ``engine``: upload, graphs and download of the same frames. ``overhead``: the difference, frame by frame.
    """

    frames: int
    end_to_end: dict[str, float]
    engine: dict[str, float]
    overhead: dict[str, float]

    def to_json(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "frames": self.frames,
            "end_to_end_ms": self.end_to_end,
            "engine_ms": self.engine,
            "overhead_ms": self.overhead,
        }


class Still:
    """A camera that shows images in turn with fresh noise, paced so that the loop is never behind."""

    kind: SourceKind = "live"

    def __init__(self, images: Sequence[Image], frames: int, fps: float) -> None:
        self.name = "overhead"
        self.fps: float | None = fps
        self._images = [self._noisy(image, number) for number, image in enumerate(images)]
        self._frames = frames
        self._index = 0
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Read:
        """Return the next image when it is due."""
        if self._index >= self._frames or self._closed.wait(1.0 / (self.fps or 1.0)):
            return End()
        index, self._index = self._index, self._index + 1
        return shown(self._images, index, self.name)

    def close(self) -> None:
        """Give no more."""
        self._closed.set()

    @staticmethod
    def _noisy(image: Image, seed: int) -> Image:
        noise = np.random.default_rng(seed).integers(-2, 3, image.shape)
        noisy: Image = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
        return noisy


def shown(images: Sequence[Image], index: int, name: str) -> Frame:
    """Return the image whose turn it is as the frame ``index`` that a camera took just now.

    Its first pixel holds the index, because a camera that gives one of its last images again counts as frozen.
    """
    image = images[index % len(images)].copy()
    image[0, 0] = [index >> shift & 255 for shift in (0, 8, 16)]
    return Frame(image, index, time.monotonic(), time.time(), name, str(index))


class _Times(Observer):
    def __init__(self) -> None:
        self.pairs: list[tuple[float, float]] = []

    def on_result(self, result: InspectionResult, source: Source) -> None:
        if result.inference is not None and result.event.latency_ms is not None:
            spent = sum(ms for stage, ms in result.inference.stages_ms.items() if stage != LOCATE)
            self.pairs.append((result.event.latency_ms, spent))


def measure_overhead(
    bundle: Bundle, pipeline: Pipeline, frames: int = 500, observers: Sequence[Observer] = ()
) -> Overhead | None:
    """Run ``frames`` images through the loop, at half the rate that the engines reach.

    The images are the golden images as a camera shows them (``camera_images``). ``observers`` come after the
    verdict and cost it nothing. None when the machine is so busy that the loop judged no frame after the first ones.
    """
    images, locating = camera_images(bundle)
    started = time.perf_counter()
    for _ in range(WARM_UP):
        pipeline.infer(bundle.golden.images[0])
    fps = min(0.5 * WARM_UP / (time.perf_counter() - started), 60.0)
    times = _Times()
    settings = Config(run=RunTable(max_age_ms=60_000.0))
    judge = _judge(bundle, pipeline, locating)
    Loop(judge, [Still(images, frames + WARM_UP, fps)], [times, *observers], settings).run()
    judged = times.pairs[WARM_UP:]
    if not judged:
        return None
    total, engine = np.array(judged).T
    return Overhead(len(total), quantiles(total), quantiles(engine), quantiles(total - engine))


TURN = 15  # frames: half a second, within which a machine rarely changes its speed


@dataclass(frozen=True)
class Throughput:
    """Frames a second of the engines alone, of the whole loop, and the second's share of the first: medians of short turns.

    In every turn the loop follows the engines at once, and ``share`` is taken turn by turn: what else the machine does
    strikes both or is an outlier. The loop counts from its first verdict to its last; its start and end are no frames.
    """

    engines_fps: float
    loop_fps: float
    share: float

    def to_json(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Minute:
    """One piece of a soak: what it judged a second, camera to verdict in milliseconds, and what the device said after it."""

    second: float
    fps: float
    end_to_end: dict[str, float]
    device: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {"second": self.second, "fps": self.fps, "end_to_end_ms": self.end_to_end, "device": self.device}


class _Clock(Observer):
    """Notes when verdicts came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Note a verdict."""
        if result.inference is not None:
            self.times.append(time.perf_counter())

    @property
    def fps(self) -> float:
        """Verdicts a second from the first to the last; 0 with fewer than two."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0]) if len(self.times) > 1 else 0.0


class _Willing(Observer):
    """A camera whose next image comes while one is inferred, for so many frames or seconds.

    It stands between judge and pipeline as well, to know when an image was taken: an earlier one would be overwritten.
    """

    kind: SourceKind = "live"

    def __init__(
        self, pipeline: Pipeline, images: Sequence[Image], frames: int | None, seconds: float | None
    ) -> None:
        self._pipeline, self.image_size, self.branches = pipeline, pipeline.image_size, pipeline.branches
        self.name, self.fps = "throughput", None
        self._images, self._frames, self._seconds = images, frames, seconds
        self._memory: SimpleQueue[None] = SimpleQueue()  # cheaper to wake by than a semaphore
        self._memory.put(None)
        self._index, self._began = 0, time.monotonic()
        self.latencies: list[float] = []

    def read(self, timeout_s: float) -> Read:
        """Return the next image as soon as there is room for it."""
        over = self._seconds is not None and time.monotonic() - self._began >= self._seconds
        if over or self._index == self._frames:
            return End()
        try:
            self._memory.get(timeout=timeout_s)
        except Empty:
            return End()
        index, self._index = self._index, self._index + 1
        return shown(self._images, index, self.name)

    def infer(self, image: Image) -> Inference:
        """Let the next image come and infer this one."""
        self._memory.put(None)
        return self._pipeline.infer(image)

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Note a verdict; an image that was not inferred makes room now."""
        if result.inference is None:
            self._memory.put(None)
        elif result.event.latency_ms is not None:
            self.latencies.append(result.event.latency_ms)


class _Pile:
    """So many images, each there as soon as the one before is taken."""

    kind: SourceKind = "images"

    def __init__(self, name: str, images: Sequence[Image], frames: int) -> None:
        self.name, self.fps = name, None
        self._images, self._frames, self._index = images, frames, 0

    def read(self, timeout_s: float) -> Read:
        """Return the next image."""
        if self._index == self._frames:
            return End()
        index, self._index = self._index, self._index + 1
        return shown(self._images, index, self.name)

    def close(self) -> None:
        """Nothing is held."""


def measure_throughput(bundle: Bundle, pipeline: Pipeline, frames: int = 200) -> Throughput:
    """Judge ``frames`` images a side, in turns; the images are the golden images as a camera shows them."""
    images, locating = _images(bundle)
    small = list(bundle.golden.images[:8])
    engines, loops = [], []
    for number in _turns(frames):
        began = time.perf_counter()
        for turn in range(number):
            pipeline.infer(small[turn % len(small)])
        engines.append(number / (time.perf_counter() - began))
        loops.append(_loop(bundle, locating, _Willing(pipeline, images, number, None)))
    return _throughput(engines, loops)


def measure_streams(bundle: Bundle, streams: Streams, frames: int = 200) -> Throughput:
    """Judge ``frames`` images of as many cameras as there are streams, beside the engines fed without a pause."""
    images, locating = _images(bundle)
    small = list(bundle.golden.images[:8])
    engines, loops = [], []
    for each in _turns(frames // streams.count):
        began = time.perf_counter()
        for one in [streams.submit(small[turn % len(small)]) for turn in range(each * streams.count)]:
            one.result()
        engines.append(each * streams.count / (time.perf_counter() - began))
        judge = _judge(bundle, streams, locating)
        cameras = [_Pile(f"camera {number}", images, each) for number in range(streams.count)]
        clock = _Clock()
        Loop(judge, cameras, [clock], Config()).run()
        loops.append(clock.fps)
    return _throughput(engines, loops)


def _turns(frames: int) -> list[int]:
    """Return how many frames each turn has; at least two, whose verdicts are apart by one."""
    return [min(TURN, max(2, frames))] * max(1, frames // TURN)


def _throughput(engines: Sequence[float], loops: Sequence[float]) -> Throughput:
    share = median(loop / engine for engine, loop in zip(engines, loops, strict=True))
    return Throughput(round(median(engines), 3), round(median(loops), 3), round(share, 4))


def soak(
    bundle: Bundle,
    pipeline: Pipeline,
    minutes: float,
    *,
    device: Callable[[], dict[str, str]],
    report: Callable[[Minute], None],
    piece_s: float = 60.0,
) -> list[Minute]:
    """Let the loop run as fast as it goes for ``minutes``; ``report`` gets every piece of ``piece_s`` seconds.

    ``device`` says how the machine is after each piece: a board that grows hot slows its clocks.
    """
    (images, locating), result = _images(bundle), []
    began = time.monotonic()
    while (left := 60.0 * minutes - (time.monotonic() - began)) > 0:
        camera = _Willing(pipeline, images, None, min(piece_s, left))
        fps = _loop(bundle, locating, camera)
        if fps:
            second = round(time.monotonic() - began, 1)
            result.append(Minute(second, round(fps, 3), quantiles(camera.latencies), device()))
            report(result[-1])
    return result


def _judge(bundle: Bundle, pipeline: Inferring, locating: Locating) -> Judge:
    return Judge(pipeline, bundle.thresholds, bundle.statistics.weight, 60_000.0, locating=locating)


def _loop(bundle: Bundle, locating: Locating, camera: _Willing) -> float:
    clock = _Clock()
    settings = Config(run=RunTable(max_age_ms=60_000.0))
    Loop(_judge(bundle, camera, locating), [camera], [camera, clock], settings).run()
    return clock.fps


def _images(bundle: Bundle) -> tuple[list[Image], Locating]:
    """Return images as a camera gives them, each with noise of its own, since no two images of a camera are equal."""
    rng = np.random.default_rng(0)
    large, locating = camera_images(bundle)
    noisy = [np.clip(one + rng.integers(-2, 3, one.shape), 0, 255).astype(np.uint8) for one in large for _ in range(2)]
    return noisy, locating


def camera_images(bundle: Bundle) -> tuple[list[Image], Locating]:
    """Return golden images as a camera would show them (``camera_frames``), and what makes inputs of them."""
    frames, geometry = camera_frames(bundle)
    return frames, Locating(geometry)
