"""One frame, or one outage, to a verdict with its reason and to one event."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Delivered, Frame, Image
from edge_ad.camera.health import quick_stats
from edge_ad.engines.pipeline import Inference
from edge_ad.engines.selection import Streams
from edge_ad.events import Event, Verdict
from edge_ad.inspection.camera_worker import Faulted, Outage
from edge_ad.inspection.part_tracking import Judgeable
from edge_ad.inspection.plausibility import Plausibility
from edge_ad.inspection.view import View
from edge_ad.scoring import BRANCHES, Thresholds


@dataclass(frozen=True)
class Decision:
    """A verdict, and why it is not OK (None for OK)."""

    verdict: Verdict
    reason: str | None


def fault(reason: str) -> Decision:
    """The decision of a frame that could not be judged: NONE, never OK and never an anomaly."""
    return Decision("NONE", reason)


def decide(score: float, z: NDArray[np.float32], weight: NDArray[np.float32], thresholds: Thresholds) -> Decision:
    """Judge a fused ``score``; the reason names the branch that added most to it (``weight`` x ``z``, both f32[B]).

    A score that is not finite is a fault of the engine: NONE.
    """
    if not math.isfinite(score):
        return fault(f"engine: the score is {score}, not a finite number")
    verdict = thresholds.verdict(score)
    if verdict == "OK":
        return Decision(verdict, None)
    shares = [w * value if w > 0 else -math.inf for w, value in zip(weight.tolist(), z.tolist(), strict=True)]
    branch = shares.index(max(shares))
    limit = thresholds.ng if verdict == "NG" else thresholds.warn
    return Decision(verdict, f"{BRANCHES[branch]}: z {float(z[branch]):.1f}; score {score:.2f} above {limit:.2f}")


LAG_REPORTED_MS = 50.0


class Inferring(Protocol):
    """What the judge needs of a pipeline."""

    image_size: tuple[int, int]
    branches: tuple[str, ...]

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Return the scores of one resized image u8[H,W,3] RGB."""


@dataclass(frozen=True, eq=False)
class InspectionResult:
    """An event with what it was made from; ``broken`` is the engine's exception, after which nothing can be judged.

    ``called_at``: the monotonic second of the trigger that called for the part, None without one.
    """

    event: Event
    frame: Delivered | None = None
    inference: Inference | None = None
    _: KW_ONLY
    broken: Exception | None = None
    called_at: float | None = None

    @property
    def image(self) -> Image | None:
        """The image u8[H,W,3] RGB, if there is one."""
        return self.frame.image if isinstance(self.frame, Frame) else None


Combine = Callable[[Sequence[Inference]], Inference]


class Judge:
    """Runs the pipeline and turns scores, faults and lateness into events. ``weight`` f32[B] in branch order.

    ``view`` says which piece of a frame is judged; where it has several tiles, ``combine`` makes one inference of
    theirs. ``plausibility`` looks for finite nonsense of the engines. ``thresholds`` may be replaced between two
    frames. Where the pipeline is ``Streams`` tiles run side by side, and ``begin`` lets frames of several cameras do
    so.
    """

    def __init__(
        self,
        pipeline: Inferring,
        thresholds: Thresholds,
        weight: NDArray[np.float32],
        max_age_ms: float,
        *,
        view: View | None = None,
        combine: Combine | None = None,
        plausibility: Plausibility | None = None,
    ) -> None:
        self._pipeline = pipeline
        self.thresholds = thresholds
        self._weight = weight
        self._max_age_ms = max_age_ms
        self._view = view or View()
        self._combine = combine
        self._plausibility = plausibility
        self._computed = [(index, name) for index, name in enumerate(BRANCHES) if name in pipeline.branches]
        self._streams = pipeline if isinstance(pipeline, Streams) else None
        self._begun: dict[Judgeable, list[Future[Inference]]] = {}

    @property
    def at_once(self) -> int:
        """How many frames are inferred side by side."""
        return 1 if self._streams is None else self._streams.count

    def begin(self, candidate: Judgeable, checks_age: bool) -> bool:
        """Let the engines have a frame that is judged later; False without streams, or where it is at fault."""
        if self._streams is not None and not candidate.fault and not (checks_age and self._late(candidate)):
            with contextlib.suppress(Exception):  # `judge` meets it again, and tells it
                self._begun[candidate] = self._submitted(candidate.frame, self._streams)
        return candidate in self._begun

    def prepare(self, frame: Frame) -> None:
        """Do what a frame needs before the engines, ahead of its turn: first look and resize; from any thread."""
        quick_stats(frame, self._view.region)
        if self._view.fault(frame.image) is None:
            self._tiles(frame)

    def outage(self, camera: str, outage: Outage) -> InspectionResult:
        """Return NONE for an outage, timed now."""
        event = Event(camera, outage.frame, outage.part, time.time(), "NONE", None, {}, None, outage.reason)
        return InspectionResult(event, called_at=outage.called_at)

    def faulted(self, camera: str, result: Faulted) -> InspectionResult:
        """Return NONE for a frame that must not be judged."""
        return _result(camera, result.frame, result.since, fault(result.reason))

    def judge(self, camera: str, candidate: Judgeable, checks_age: bool) -> InspectionResult:
        """Return the verdict on a healthy frame; NONE when it is too old, before the engines run or after."""
        return replace(self._verdict(camera, candidate, checks_age), called_at=candidate.called_at)

    def _verdict(self, camera: str, candidate: Judgeable, checks_age: bool) -> InspectionResult:
        late = fault(candidate.fault) if candidate.fault else self._late(candidate) if checks_age else None
        if late:
            self._begun.pop(candidate, None)
            return _result(camera, candidate.frame, candidate.since, late, part=candidate.part)
        try:
            tiles = self._infer(candidate)
            inference = tiles[0] if self._combine is None else self._combine(tiles)
        except Exception as error:
            decision = fault(f"engine: {type(error).__name__}: {' '.join(str(error).split())}")
            return _result(camera, candidate.frame, candidate.since, decision, broken=error, part=candidate.part)
        nonsense = self._nonsense(candidate.frame, tiles)
        late = self._late(candidate) if checks_age else None
        decision = late or nonsense or decide(inference.score, inference.z, self._weight, self.thresholds)
        values = self._values(inference)
        return _result(
            camera, candidate.frame, candidate.since, decision, inference=inference, z=values, part=candidate.part
        )

    def _infer(self, candidate: Judgeable) -> list[Inference]:
        if self._streams is None:
            return [self._pipeline.infer(tile) for tile in self._tiles(candidate.frame)]
        begun = self._begun.pop(candidate, None) or self._submitted(candidate.frame, self._streams)
        return [one.result() for one in begun]

    def _nonsense(self, frame: Frame, inferences: Sequence[Inference]) -> Decision | None:
        if self._plausibility is None:
            return None
        check, ng = self._plausibility.fault, self.thresholds.ng
        # Every inference is looked at, because the next ones are compared with it.
        results = [check(tile, inference, ng) for tile, inference in zip(self._tiles(frame), inferences, strict=True)]
        reason = next((one for one in results if one is not None), None)
        return None if reason is None else fault(reason)

    def _submitted(self, frame: Frame, streams: Streams) -> list[Future[Inference]]:
        return [streams.submit(tile) for tile in self._tiles(frame)]

    def _tiles(self, frame: Frame) -> list[NDArray[np.uint8]]:
        return self._view.tiles(frame, self._pipeline.image_size)

    def _late(self, candidate: Judgeable) -> Decision | None:
        age_ms = (time.monotonic() - candidate.since) * 1000.0
        if age_ms <= self._max_age_ms:
            return None
        lag_ms = (candidate.frame.lag_s or 0.0) * 1000.0
        way = f", {lag_ms:.0f} ms of them on the way from the camera" if lag_ms > LAG_REPORTED_MS else ""
        return fault(f"late: {age_ms:.0f} ms after the capture{way}; {self._max_age_ms:g} ms allowed")

    def _values(self, inference: Inference) -> dict[str, float]:
        z, skipped = inference.z.tolist(), inference.skipped
        return {name: z[index] for index, name in self._computed if name not in skipped}


def _result(
    camera: str,
    frame: Delivered,
    since: float,
    decision: Decision,
    *,
    inference: Inference | None = None,
    z: dict[str, float] | None = None,
    broken: Exception | None = None,
    part: str | None = None,
) -> InspectionResult:
    latency_ms = (time.monotonic() - since) * 1000.0
    judged = decision.verdict != "NONE" and inference is not None
    score = inference.score if inference is not None and judged else None
    event = Event(
        camera,
        frame.index,
        frame.part if part is None else part,
        frame.captured_wall,
        decision.verdict,
        score,
        z if z and judged else {},
        latency_ms,
        decision.reason,
    )
    return InspectionResult(event, frame, inference if judged else None, broken=broken)


def median_result(results: Sequence[InspectionResult]) -> InspectionResult:
    """Return the verdict on a part from those on its frames: the one with the median score, the upper of two.

    Frames without a score do not count; if none has one, the last of them stands. At least one judgement.
    """
    scored = [one for one in results if one.event.score is not None]
    if not scored:
        return results[-1]
    return sorted(scored, key=lambda one: one.event.score or 0.0)[len(scored) // 2]
