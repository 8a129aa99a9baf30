"""How long a frame takes on this device: stage by stage, engine only, and from a camera frame to its verdict."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput

if TYPE_CHECKING:
    from edge_ad.geometry.geometry import Geometry

CAMERA_SIZE = (480, 640)
WARM_UPS = 10
_WARM, _TIMED = 3, 20  # frames of each engine that is timed beside another one
_OUTSIDE = frozenset({"locate", "cut out", "resize", "verdict", "total"})  # laps that are not the engine's
_FRAMES = 8  # distinct camera frames that are shown in turn

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class BenchmarkReport:
    """Times in milliseconds as ``{"p50", "p90", "p99", "max"}``; ``stages`` by name in the order they run.

    ``engine`` is upload, graphs and download; ``end_to_end`` adds what makes the input of a camera frame of 640 x 480 (or of
    the normal images' size, where parts are located) and the verdict. ``threads`` are those of each graph on a CPU.
    ``loop_overhead`` is what the loop of `run` costs beyond the engines, camera to verdict: threads, health, resize,
    judgement (see ``measure_overhead``); None where it was not measured. ``rss_mb`` is the largest resident memory of this
    process so far, ``first_verdict_s`` the time from the
    start of opening the engines to the first verdict. ``beside_fp32`` are median milliseconds of a frame in this
    precision and in FP32, taken in turns on a CPU; None for FP32 itself and on a GPU.
    """

    backend: str
    precision: str
    preset: str
    frames: int
    warm_up: int
    threads: int | None
    engine: dict[str, float]
    end_to_end: dict[str, float]
    stages: dict[str, dict[str, float]]
    rss_mb: float
    first_verdict_s: float
    loop_overhead: dict[str, float] | None = None
    beside_fp32: dict[str, float] | None = None

    @property
    def notes(self) -> list[str]:
        """A sentence where the precision gains no time over FP32."""
        latencies = self.beside_fp32
        return slower(self.precision, latencies[self.precision], latencies["fp32"]) if latencies else []

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``benchmark --json`` writes."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "preset": self.preset,
            "frames": self.frames,
            "warm_up": self.warm_up,
            "threads": self.threads,
            "engine_ms": self.engine,
            "end_to_end_ms": self.end_to_end,
            "stages_ms": self.stages,
            "rss_mb": self.rss_mb,
            "first_verdict_s": self.first_verdict_s,
            "loop_overhead_ms": self.loop_overhead,
            "beside_fp32_ms_p50": self.beside_fp32,
            "notes": self.notes,
        }


def benchmark(
    bundle: Bundle,
    open_engine: Callable[[], Pipeline],
    frames: int = 200,
    in_loop: Callable[[Pipeline], dict[str, float] | None] | None = None,
    *,
    warm_up: int = WARM_UPS,
) -> BenchmarkReport:
    """Time ``frames`` frames after ``warm_up`` others on the pipeline that ``open_engine`` opens (its time counts too).

    The images are the golden images as a camera shows them (``camera_frames``), made before the clock starts. ``in_loop``
    measures the loop's overhead on the same engines. BadInput for no frames.
    """
    if frames < 1:
        raise BadInput(f"--frames is {frames}, but must be 1 or more")
    images, geometry = camera_frames(bundle)
    start = perf_counter()
    with open_engine() as pipeline:
        _judge(pipeline, bundle, images[0], geometry)
        first = perf_counter() - start
        for turn in range(warm_up):
            _judge(pipeline, bundle, images[turn % len(images)], geometry)
        laps = [_judge(pipeline, bundle, images[turn % len(images)], geometry) for turn in range(frames)]
        backend, precision = pipeline.backend.name, pipeline.precision
        threads: int | None = getattr(pipeline.backend, "threads", None)
        memory = round(peak_rss_mb(), 1)
        overhead = in_loop(pipeline) if in_loop else None
        beside = _beside_fp32(bundle, pipeline, threads)
    engine = [sum(value for name, value in lap.items() if name not in _OUTSIDE) for lap in laps]
    stages = {name: quantiles([lap[name] for lap in laps]) for name in laps[0] if name != "total"}
    total = quantiles([lap["total"] for lap in laps])
    times = (quantiles(engine), total, stages, memory, round(first, 3), overhead, beside)
    return BenchmarkReport(backend, precision, bundle.preset, frames, warm_up, threads, *times)


def camera_frames(bundle: Bundle) -> tuple[list[Image], Geometry]:
    """Return golden images as a camera would show them, and the geometry that makes inputs of them.

    Where the bundle locates parts they are drawn back into images of the normal images' size; where none of them is located
    there, because its locator needs the real surroundings, they are enlarged to 640 x 480 and taken whole.
    """
    from edge_ad.data.images import resize
    from edge_ad.geometry.geometry import Geometry, Prepared, example_frame

    golden = bundle.golden.images[:_FRAMES]
    if bundle.geometry.locates:
        framed = [example_frame(bundle.geometry, image) for image in golden]
        located = [image for image in framed if isinstance(bundle.geometry.prepare(image), Prepared)]
        if located:
            return located, bundle.geometry
    return [resize(image, CAMERA_SIZE) for image in golden], Geometry.square(bundle.image_size)


def side_by_side(bundle: Bundle, pipelines: Mapping[str, Pipeline]) -> dict[str, float]:
    """Return the median milliseconds of a frame; the pipelines take turns, so that all see the same machine."""
    images = bundle.golden.images
    times: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(_WARM + _TIMED):
        for name, pipeline in pipelines.items():
            start = perf_counter()
            pipeline.infer(images[turn % len(images)])
            times[name].append((perf_counter() - start) * 1000.0)
    return {name: float(np.median(values[_WARM:])) for name, values in times.items()}


def slower(precision: str, own: float, full: float) -> list[str]:
    """Return a sentence if a precision takes as long a frame as FP32 or longer, on this processor and in milliseconds.
    """
    if precision == "fp32" or own < full:
        return []
    return [
        f"{precision} is no faster than fp32 on this processor ({own:.2f} against {full:.2f} ms a frame): "
        "`edge-ad build-engine --fp32` is as fast, and exact"
    ]


def _beside_fp32(bundle: Bundle, pipeline: Pipeline, threads: int | None) -> dict[str, float] | None:
    if pipeline.backend.name != "onnxruntime" or pipeline.precision == "fp32":
        return None
    with Pipeline(bundle, threads=threads) as full:
        latencies = side_by_side(bundle, {pipeline.precision: pipeline, "fp32": full})
    return {name: round(value, 3) for name, value in latencies.items()}


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99 and max of times in milliseconds, each rounded to a microsecond."""
    values = np.asarray(times, dtype=np.float64)
    results = {f"p{share}": float(np.percentile(values, share)) for share in (50, 90, 99)}
    return {name: round(value, 3) for name, value in {**results, "max": float(values.max())}.items()}


def peak_rss_mb(status: Path = Path("/proc/self/status")) -> float:
    """Return the largest resident memory of this process so far, in MB (10^6 bytes)."""
    try:
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _judge(pipeline: Pipeline, bundle: Bundle, frame: Image, geometry: Geometry) -> Mapping[str, float]:
    """Take one camera frame to its verdict and return the milliseconds of every stage and in total."""
    start = perf_counter()
    image, before = _input(frame, geometry)
    result = pipeline.infer(image)
    inferred = perf_counter()
    zones = geometry.zones.scores(result.map) if geometry.zones is not None and bundle.thresholds.zones else {}
    bundle.thresholds.verdict_of_part(result.score, zones)
    done = perf_counter()
    return {
        **before,
        **result.stages_ms,
        "verdict": (done - inferred) * 1000.0,
        "total": (done - start) * 1000.0,
    }


def _input(frame: Image, geometry: Geometry) -> tuple[Image, dict[str, float]]:
    """Return the input made of a frame, and the milliseconds of each step."""
    from edge_ad.geometry.geometry import Prepared
    from edge_ad.geometry.pose import Pose

    start = perf_counter()
    if not geometry.locates:
        prepared = geometry.prepare(frame)
        assert isinstance(prepared, Prepared)
        return prepared.image, {"resize": (perf_counter() - start) * 1000.0}
    pose = geometry.locate(frame)
    located = perf_counter()
    assert isinstance(pose, Pose)
    image = geometry.input_of(geometry.transform(pose).cut(frame))
    return image, {"locate": (located - start) * 1000.0, "cut out": (perf_counter() - located) * 1000.0}
