"""One frame, or one outage, to one event."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Delivered, Frame, Image
from edge_ad.data.images import resize
from edge_ad.engines.pipeline import Inference
from edge_ad.inspection.events import Event
from edge_ad.inspection.station import Faulted, Judgeable, Outage
from edge_ad.inspection.verdict import Decision, decide, fault
from edge_ad.scoring import BRANCHES, Thresholds


class Inferring(Protocol):
    """What the judge needs of a pipeline."""

    image_size: tuple[int, int]
    branches: tuple[str, ...]

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Return the scores of one resized picture u8[H,W,3] RGB."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """An event with what it was made from; ``broken`` is the engine's exception, after which nothing can be judged."""

    event: Event
    frame: Delivered | None = None
    inference: Inference | None = None
    broken: Exception | None = None

    @property
    def image(self) -> Image | None:
        """The picture u8[H,W,3] RGB, if there is one."""
        return self.frame.image if isinstance(self.frame, Frame) else None


class Judge:
    """Runs the pipeline and turns scores, faults and lateness into events. ``weight`` f32[5] in branch order."""

    def __init__(
        self, pipeline: Inferring, thresholds: Thresholds, weight: NDArray[np.float32], max_age_ms: float
    ) -> None:
        self._pipeline = pipeline
        self._thresholds = thresholds
        self._weight = weight
        self._max_age_ms = max_age_ms

    def outage(self, camera: str, outage: Outage) -> Judgement:
        """Return NONE for an outage, timed now."""
        return Judgement(Event(camera, outage.frame, None, time.time(), "NONE", None, {}, None, outage.reason))

    def faulted(self, camera: str, found: Faulted) -> Judgement:
        """Return NONE for a frame that must not be judged."""
        return _judgement(camera, found.frame, found.since, fault(found.reason), None, {})

    def judge(self, camera: str, found: Judgeable, checks_age: bool) -> Judgement:
        """Return the verdict on a healthy frame; NONE when it is too old, before the engines run or after."""
        late = self._late(found.since) if checks_age else None
        if late:
            return _judgement(camera, found.frame, found.since, late, None, {})
        try:
            inference = self._pipeline.infer(resize(found.frame.image, self._pipeline.image_size))
        except Exception as error:
            decision = fault(f"engine: {type(error).__name__}: {' '.join(str(error).split())}")
            return _judgement(camera, found.frame, found.since, decision, None, {}, error)
        decision = decide(inference.score, inference.z, self._weight, self._thresholds)
        decision = (self._late(found.since) if checks_age else None) or decision
        return _judgement(camera, found.frame, found.since, decision, inference, self._values(inference))

    def _late(self, since: float) -> Decision | None:
        age_ms = (time.monotonic() - since) * 1000.0
        if age_ms <= self._max_age_ms:
            return None
        return fault(f"late: {age_ms:.0f} ms after the capture, {self._max_age_ms:g} ms allowed")

    def _values(self, inference: Inference) -> dict[str, float]:
        return {name: float(inference.z[BRANCHES.index(name)]) for name in BRANCHES if name in self._pipeline.branches}


def _judgement(
    camera: str,
    frame: Delivered,
    since: float,
    decision: Decision,
    inference: Inference | None,
    z: dict[str, float],
    broken: Exception | None = None,
) -> Judgement:
    latency_ms = (time.monotonic() - since) * 1000.0
    judged = decision.verdict != "NONE" and inference is not None
    score = inference.score if inference is not None and judged else None
    event = Event(
        camera,
        frame.index,
        frame.part,
        frame.captured_wall,
        decision.verdict,
        score,
        z if judged else {},
        latency_ms,
        decision.reason,
    )
    return Judgement(event, frame, inference if judged else None, broken)
