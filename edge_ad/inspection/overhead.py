"""What the loop costs beyond the engines: camera to verdict and engines alone, measured on the same frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_ad.bundle import Bundle
from edge_ad.camera.frames import End, Frame, Image, Read, Source, SourceKind
from edge_ad.data.images import resize
from edge_ad.engines.benchmark import CAMERA_SIZE, quantiles
from edge_ad.engines.pipeline import Pipeline
from edge_ad.inspection.judge import Judge, Judgement
from edge_ad.inspection.loop import Loop, Sink
from edge_ad.inspection.settings import LoopSettings

WARM_UP = 20


@dataclass(frozen=True)
class Overhead:
    """Milliseconds as ``{"p50", "p90", "p99", "max"}`` over ``frames`` frames.

    ``end_to_end``: from the capture to the verdict, hand-over between threads, health, resize and judgement included.
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
    """A camera that shows pictures in turn with fresh noise, paced so that the loop is never behind."""

    kind: SourceKind = "live"

    def __init__(self, pictures: Sequence[Image], frames: int, fps: float) -> None:
        self.name = "overhead"
        self.fps: float | None = fps
        self._pictures = [self._noisy(picture, number) for number, picture in enumerate(pictures)]
        self._frames = frames
        self._index = 0
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Read:
        """Return the next picture when it is due."""
        if self._index >= self._frames or self._closed.wait(1.0 / (self.fps or 1.0)):
            return End()
        index, self._index = self._index, self._index + 1
        return shown(self._pictures, index, self.name)

    def close(self) -> None:
        """Give no more."""
        self._closed.set()

    @staticmethod
    def _noisy(picture: Image, seed: int) -> Image:
        noise = np.random.default_rng(seed).integers(-2, 3, picture.shape)
        noisy: Image = np.clip(picture.astype(np.int16) + noise, 0, 255).astype(np.uint8)
        return noisy


def shown(pictures: Sequence[Image], index: int, name: str) -> Frame:
    """Return the picture whose turn it is as the frame ``index`` that a camera took just now.

    Its first pixel holds the index, because a camera that gives one of its last pictures again counts as frozen.
    """
    image = pictures[index % len(pictures)].copy()
    image[0, 0] = [index >> shift & 255 for shift in (0, 8, 16)]
    return Frame(image, index, time.monotonic(), time.time(), name, str(index))


class _Times:
    def __init__(self) -> None:
        self.pairs: list[tuple[float, float]] = []

    def take(self, judgement: Judgement, source: Source) -> None:
        if judgement.inference is not None and judgement.event.latency_ms is not None:
            self.pairs.append((judgement.event.latency_ms, sum(judgement.inference.stages_ms.values())))

    def close(self) -> None:
        pass


def measure_overhead(
    bundle: Bundle, pipeline: Pipeline, frames: int = 500, sinks: Sequence[Sink] = ()
) -> Overhead | None:
    """Run ``frames`` pictures of 640 x 480 through the loop, at half the rate that the engines reach.

    The pictures are the golden images, enlarged beforehand. ``sinks`` come after the verdict and cost it nothing.
    None when the machine is so busy that the loop judged no frame after the first ones.
    """
    pictures = [resize(image, CAMERA_SIZE) for image in bundle.golden.images[:8]]
    started = time.perf_counter()
    for _ in range(WARM_UP):
        pipeline.infer(resize(pictures[0], pipeline.image_size))
    fps = min(0.5 * WARM_UP / (time.perf_counter() - started), 60.0)
    times = _Times()
    settings = LoopSettings(max_age_ms=60_000.0)
    judge = Judge(pipeline, bundle.thresholds, bundle.statistics.weight, settings.max_age_ms)
    Loop(judge, [Still(pictures, frames + WARM_UP, fps)], [times, *sinks], settings).run()
    judged = times.pairs[WARM_UP:]
    if not judged:
        return None
    total, engine = np.array(judged).T
    return Overhead(len(total), quantiles(total), quantiles(engine), quantiles(total - engine))
