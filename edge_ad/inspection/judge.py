"""One frame, or one outage, to a verdict with its reason and to one event."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Delivered, Frame, Image
from edge_ad.camera.health import quick_stats
from edge_ad.camera.live import TAKES_OVER
from edge_ad.engines.pipeline import Inference
from edge_ad.engines.selection import Streams
from edge_ad.events import VERDICTS, Event, Verdict
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import NotLocated
from edge_ad.inspection.camera_worker import Faulted, Outage
from edge_ad.inspection.locating import FrameInputs, Locating, PartInputs, Place
from edge_ad.inspection.part_tracking import Judgeable
from edge_ad.inspection.plausibility import Plausibility
from edge_ad.inspection.view import View
from edge_ad.scoring import BRANCHES, Thresholds

if TYPE_CHECKING:
    from edge_ad.inspection.part_views import PartView


@dataclass(frozen=True)
class Decision:
    """A verdict, and why it is not OK (None for OK)."""

    verdict: Verdict
    reason: str | None
    zone: str | None = None  # the one that is farthest beyond a threshold of its own


def fault(reason: str) -> Decision:
    """The decision of a frame that could not be judged: NONE, never OK and never an anomaly."""
    return Decision("NONE", reason)


def is_of_change(reason: str | None) -> bool:
    """Whether a part has no verdict because a change of product is under way, which is no fault."""
    return (reason or "").startswith(_CHANGES)


def decide(
    score: float,
    z: NDArray[np.float32],
    weight: NDArray[np.float32],
    thresholds: Thresholds,
    *,
    zones: Mapping[str, float] = MappingProxyType({}),
) -> Decision:
    """Judge a fused ``score``; the reason names the branch that added most to it (``weight`` x ``z``, both f32[B]).

    A zone whose score in ``zones`` is beyond a threshold of its own gives the part at least its verdict, and is named. A score
    that is not finite is a fault of the engine: NONE.
    """
    for one in (score, *zones.values()):
        if not math.isfinite(one):
            return fault(f"engine: the score is {one}, not a finite number")
    whole, beyond = _decide_whole(score, z, weight, thresholds), thresholds.worst_zone(zones)
    if beyond is None:
        return whole
    name, verdict = beyond
    own = dict(thresholds.zones)[name]
    message = f"zone {name}: {zones[name]:.2f} above {own.ng if verdict == 'NG' else own.warn:.2f}"
    reason = message if whole.reason is None else f"{whole.reason}; {message}"
    return Decision("NG" if "NG" in (verdict, whole.verdict) else "WARN", reason, name)


def _decide_whole(score: float, z: NDArray[np.float32], weight: NDArray[np.float32], thresholds: Thresholds) -> Decision:
    verdict = thresholds.verdict(score)
    if verdict == "OK":
        return Decision(verdict, None)
    shares = [w * value if w > 0 else -math.inf for w, value in zip(weight.tolist(), z.tolist(), strict=True)]
    branch = shares.index(max(shares))
    limit = thresholds.ng if verdict == "NG" else thresholds.warn
    return Decision(verdict, f"{BRANCHES[branch]}: z {float(z[branch]):.1f}; score {score:.2f} above {limit:.2f}")


LAG_REPORTED_MS = 50.0
NOT_LOCATED = "not located: "
PREFIX = "product: "  # of the reason where no product is in force
CHANGING, REPLACING = f"{PREFIX}changing to", f"{PREFIX}the bundle is being replaced"
BEFORE, THERE = f"{PREFIX}seen before", f"{PREFIX}this part may have been there before the change"
_CHANGES = (CHANGING, REPLACING, BEFORE, THERE, TAKES_OVER)
LOCATE = "locate"  # the stage of an inference in which the part was located


class Inferring(Protocol):
    """What the judge needs of a pipeline."""

    image_size: tuple[int, int]
    branches: tuple[str, ...]

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Return the scores of one resized image u8[H,W,3] RGB."""


@dataclass(frozen=True, eq=False)
class InspectionResult:
    """An event with what it was made from; ``broken`` is the engine's exception, after which nothing can be judged.

    ``called_at``: the monotonic second of the trigger that called for the part, None without one. ``place``: where the
    part was located, if it was. ``views``: what several cameras saw of the part, of which the worst decided.
    """

    event: Event
    frame: Delivered | None = None
    inference: Inference | None = None
    _: KW_ONLY
    broken: Exception | None = None
    called_at: float | None = None
    place: Place | None = None
    views: tuple[PartView, ...] = ()

    @property
    def image(self) -> Image | None:
        """The image u8[H,W,3] RGB, if there is one."""
        return self.frame.image if isinstance(self.frame, Frame) else None


Combine = Callable[[Sequence[Inference]], Inference]


class Judge:
    """Runs the pipeline and turns scores, faults and lateness into events. ``weight`` f32[B] in branch order.

    ``view`` says which piece of a frame is judged; where it has several tiles, ``combine`` makes one inference of
    theirs. ``locating`` (default: all of the view) makes the inputs; a part that is not located has the verdict
    ``unlocated``. ``tag`` are product and bundle of its events. ``plausibility`` looks for finite nonsense of the
    engines. ``thresholds`` may be replaced between two frames. Where the pipeline is ``Streams`` tiles run side by side,
    and ``begin`` lets frames of several cameras do so.
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
        locating: Locating | None = None,
        unlocated: Verdict = "NONE",
        tag: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self._pipeline = pipeline
        self.thresholds = thresholds
        self._weight = weight
        self._max_age_ms = max_age_ms
        self._view = view or View()
        self._combine = combine
        self._plausibility = plausibility
        self._locating = locating or Locating(Geometry.square(pipeline.image_size), self._view)
        self._unlocated: Verdict = unlocated
        self._product, self._bundle = tag
        self._computed = [(index, name) for index, name in enumerate(BRANCHES) if name in pipeline.branches]
        self._streams = pipeline if isinstance(pipeline, Streams) else None
        self._begun: dict[Judgeable, list[list[Future[Inference]]]] = {}

    @property
    def at_once(self) -> int:
        """How many frames are inferred side by side."""
        return 1 if self._streams is None else self._streams.count

    def begin(self, candidate: Judgeable, checks_age: bool) -> bool:
        """Let the engines have a frame that is judged later; False without streams, or where it is at fault."""
        if self._streams is not None and not candidate.fault and not (checks_age and self._late(candidate)):
            with contextlib.suppress(Exception):  # `judge` meets it again, and tells it
                parts = self._locating.inputs(candidate.frame).parts
                located = [part for part in parts if isinstance(part, PartInputs)]
                if located:
                    self._begun[candidate] = [_submitted(part, self._streams) for part in located]
        return candidate in self._begun

    def inferred(self, candidate: Judgeable) -> bool:
        """Whether the engines are done with a frame that they were given."""
        return all(tile.done() for part in self._begun.get(candidate, ()) for tile in part)

    def abandon(self, candidate: Judgeable) -> None:
        """Forget a frame that the engines were given and that is not to be judged any more."""
        self._begun.pop(candidate, None)

    def prepare(self, frame: Frame) -> None:
        """Do what a frame needs before the engines, ahead of its turn: first look, locating, resizing; from any thread."""
        quick_stats(frame, self._view.region)
        if self._view.fault(frame.image) is None:
            self._locating.inputs(frame)

    def outage(self, camera: str, outage: Outage) -> InspectionResult:
        """Return NONE for an outage, timed now."""
        event = Event(camera, outage.frame, outage.part, time.time(), "NONE", None, {}, None, outage.reason)
        return self._tagged(InspectionResult(event, called_at=outage.called_at))

    def faulted(self, camera: str, result: Faulted) -> InspectionResult:
        """Return NONE for a frame that must not be judged."""
        return self._tagged(_result(camera, result, fault(result.reason)))

    def judge(self, camera: str, candidate: Judgeable, checks_age: bool) -> list[InspectionResult]:
        """Return the verdict on every part of a healthy frame, at least one; NONE when it is too old, before the engines run
        or after.
        """
        results = self._results(camera, candidate, checks_age)
        return [self._tagged(replace(result, called_at=candidate.called_at)) for result in results]

    def _tagged(self, result: InspectionResult) -> InspectionResult:
        return replace(result, event=replace(result.event, product=self._product, bundle=self._bundle))

    def _results(self, camera: str, candidate: Judgeable, checks_age: bool) -> list[InspectionResult]:
        begun = self._begun.pop(candidate, [])
        late = fault(candidate.fault) if candidate.fault else self._late(candidate) if checks_age else None
        if late:
            return [_result(camera, candidate, late)]
        try:
            inputs = self._locating.inputs(candidate.frame)
        except Exception as error:
            return [_broken(camera, candidate, error)]
        results: list[InspectionResult] = []
        waiting = iter(begun)
        for part in inputs.parts:
            if isinstance(part, NotLocated):
                decision = Decision(self._unlocated, f"{NOT_LOCATED}{part.reason}")
                results.append(_result(camera, candidate, decision))
                continue
            results.append(self._of_part(camera, candidate, part, begun=next(waiting, None), checks_age=checks_age))
            if results[-1].broken is not None:
                break
        return [_with_stage(result, inputs) for result in results]

    def _of_part(
        self,
        camera: str,
        candidate: Judgeable,
        part: PartInputs,
        *,
        begun: list[Future[Inference]] | None,
        checks_age: bool,
    ) -> InspectionResult:
        try:
            tiles = self._infer(part, begun)
            inference = tiles[0] if self._combine is None else self._combine(tiles)
        except Exception as error:
            return _broken(camera, candidate, error)
        nonsense = self._nonsense(part, tiles)
        late = self._late(candidate) if checks_age else None
        zones = self._locating.zone_scores(inference.map) if self.thresholds.zones else {}
        decision = late or nonsense or decide(inference.score, inference.z, self._weight, self.thresholds, zones=zones)
        values = self._values(inference)
        return _result(camera, candidate, decision, inference=inference, z=values, place=part.place)

    def _infer(self, part: PartInputs, begun: list[Future[Inference]] | None) -> list[Inference]:
        if self._streams is None:
            return [self._pipeline.infer(tile) for tile in part.tiles]
        return [one.result() for one in begun or _submitted(part, self._streams)]

    def _nonsense(self, part: PartInputs, inferences: Sequence[Inference]) -> Decision | None:
        if self._plausibility is None:
            return None
        check, ng = self._plausibility.fault, self.thresholds.ng
        # Every inference is looked at, because the next ones are compared with it.
        results = [check(tile, inference, ng) for tile, inference in zip(part.tiles, inferences, strict=True)]
        reason = next((one for one in results if one is not None), None)
        return None if reason is None else fault(reason)

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


def _submitted(part: PartInputs, streams: Streams) -> list[Future[Inference]]:
    return [streams.submit(tile) for tile in part.tiles]


def _broken(camera: str, candidate: Judgeable, error: Exception) -> InspectionResult:
    decision = fault(f"engine: {type(error).__name__}: {' '.join(str(error).split())}")
    return replace(_result(camera, candidate, decision), broken=error)


def _with_stage(result: InspectionResult, inputs: FrameInputs) -> InspectionResult:
    """Return the result with the time that locating took as the first stage of its inference."""
    if inputs.locate_ms is None or result.inference is None:
        return result
    stages = {LOCATE: inputs.locate_ms, **result.inference.stages_ms}
    return replace(result, inference=replace(result.inference, stages_ms=stages))


def _result(
    camera: str,
    one: Judgeable | Faulted,
    decision: Decision,
    *,
    inference: Inference | None = None,
    z: dict[str, float] | None = None,
    place: Place | None = None,
) -> InspectionResult:
    frame, part = one.frame, one.part if isinstance(one, Judgeable) else None
    latency_ms = (time.monotonic() - one.since) * 1000.0
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
        pose=None if place is None else place.record(),
        zone=decision.zone,
        peak=peak_of(inference.map) if inference is not None and decision.verdict in ("WARN", "NG") else None,
    )
    return InspectionResult(event, frame, inference if judged else None, place=place)


def peak_of(heat: NDArray[np.float32]) -> tuple[float, float]:
    """Return x and y of the middle of the cell where a map f32[h,w] is highest, as shares of its width and height."""
    row, column = divmod(int(np.argmax(heat)), heat.shape[1])
    return (column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0]


def worst_result(results: Sequence[InspectionResult]) -> InspectionResult:
    """Return the worst verdict on the parts of one frame: NG before NONE, WARN and OK, then the highest score."""
    order = ("OK", "WARN", "NONE", "NG")
    return max(results, key=lambda one: (order.index(one.event.verdict), one.event.score or 0.0))


def results_of_parts(frames: Sequence[Sequence[InspectionResult]]) -> list[InspectionResult]:
    """Return the verdict on each part from those on the frames of one call, in which parts are at rest.

    Parts are followed from frame to frame by their places. What was not located counts where half of the frames have it.
    """
    if all(len(results) == 1 for results in frames):
        return [median_result([results[0] for results in frames])]
    parts: list[list[InspectionResult]] = []
    unlocated: list[list[InspectionResult]] = []
    for results in frames:
        for result in (one for one in results if one.place is not None):
            known = next((part for part in parts if _is_same_place(part[0], result)), None)
            if known is None:
                parts.append([result])
            else:
                known.append(result)
        for number, result in enumerate(one for one in results if one.place is None):
            if number == len(unlocated):
                unlocated.append([])
            unlocated[number].append(result)
    parts.sort(key=lambda part: part[0].place.pose.x if part[0].place is not None else 0.0)
    missing = [group[-1] for group in unlocated if 2 * len(group) >= len(frames)]
    return [*map(median_result, parts), *missing]


def _is_same_place(first: InspectionResult, second: InspectionResult) -> bool:
    """Whether two located parts are one: their middles are nearer than half of the box's shorter side."""
    if first.place is None or second.place is None:
        return False
    one, other = first.place.pose, second.place.pose
    return math.hypot(one.x - other.x, one.y - other.y) < min(one.width, one.height) / 2


def median_result(results: Sequence[InspectionResult]) -> InspectionResult:
    """Return the verdict on a part from those on its frames: the median by verdict, then score; the upper of two.

    Frames without a score do not count; if none has one, the last of them stands. At least one judgement.
    """
    scored = [one for one in results if one.event.score is not None]
    if not scored:
        return results[-1]
    # By the verdict first: a zone may make it worse than its score. VERDICTS go from the best to the worst.
    return sorted(scored, key=lambda one: (VERDICTS.index(one.event.verdict), one.event.score or 0.0))[len(scored) // 2]


def without_verdict(result: InspectionResult, reason: str) -> InspectionResult:
    """Return a result as NONE for a reason, of no product; one that is NONE already keeps its own reason."""
    event = result.event
    if event.verdict == "NONE":
        return replace(result, event=replace(event, product=None, bundle=None))
    none = replace(event, verdict="NONE", score=None, z={}, reason=reason, pose=None, zone=None, peak=None)
    event = replace(none, product=None, bundle=None)
    return replace(result, event=event, inference=None, place=None)
