"""One camera of a run: its reader, its mailbox, its health, its account of frames (counters in constant memory)."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace

import numpy as np

from edge_ad.camera.frames import BadFrame, Delivered, End, Frame, Source, SourceError
from edge_ad.camera.health import CameraHealth, ReferenceCheck
from edge_ad.camera.live import Restarting
from edge_ad.camera.liveness import Liveness, LivenessCheck, parse_liveness
from edge_ad.camera.mailbox import Delivery, Mailbox, Reader
from edge_ad.camera.settings import CameraSettings, difference, settings_of
from edge_ad.config import Config
from edge_ad.events import VERDICTS, Verdict
from edge_ad.inspection.part_tracking import (
    CalledParts,
    CycleState,
    Judgeable,
    PartDetector,
    PartReady,
    SeenParts,
    frames_of,
)
from edge_ad.inspection.settings import CaptureConditions, drops, is_queued, stall_s
from edge_ad.inspection.view import view_of

_log = logging.getLogger(__name__)


class Latencies:
    """Percentiles of a stream of numbers from a uniform sample of bounded size (reservoir), and the exact maximum."""

    def __init__(self, size: int = 4096, seed: int = 0) -> None:
        self._sample = np.zeros(size, dtype=np.float64)
        self._rng = np.random.default_rng(seed)
        self.count = 0
        self.max = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        index = self.count if self.count < len(self._sample) else int(self._rng.integers(0, self.count + 1))
        if index < len(self._sample):
            self._sample[index] = value
        self.count += 1
        self.max = max(self.max, value)

    def percentile(self, percent: float) -> float | None:
        """Return a percentile of what came so far, None when nothing came."""
        filled = self._sample[: min(self.count, len(self._sample))]
        return float(np.percentile(filled, percent)) if filled.size else None


@dataclass
class Counters:
    """What became of the frames of one camera; captured = judged + dropped + faulted + idle once the run has ended.

    ``captured``: frames that reached this machine. ``judged``: with a verdict other than NONE. ``dropped``: replaced by a
    newer one, a repetition, or a frame of a part that had better ones. ``faulted``: verdict NONE. ``idle``: looked at
    while there was nothing to judge (0 where every frame is a part). ``lost``: never arrived (seen as a gap). ``outages``: NONE
    events without a frame. ``verdicts`` counts events; where every frame is a part, NONE = faulted + outages.
    ``parts``: parts with a verdict; several that are located in one frame count as one. ``unlocated``: events without a
    pose where one was looked for, ``outside``: with a pose that leaves those of the normal images. ``reconnects`` and
    ``stalls`` of the camera as its source counts them.
    """

    captured: int = 0
    judged: int = 0
    dropped: int = 0
    faulted: int = 0
    lost: int = 0
    outages: int = 0
    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))
    idle: int = 0
    parts: int = 0
    reconnects: int = 0
    stalls: int = 0
    unlocated: int = 0
    outside: int = 0

    def __add__(self, other: Counters) -> Counters:
        both = {name: self.verdicts[name] + other.verdicts[name] for name in VERDICTS}
        return Counters(**{name: getattr(self, name) + getattr(other, name) for name in COUNTED}, verdicts=both)

    def numbers(self) -> dict[str, int]:
        """Return all counts by name, verdicts as ``verdict_OK`` and so on."""
        counts = {name: getattr(self, name) for name in COUNTED}
        return {**counts, **{f"verdict_{name}": count for name, count in self.verdicts.items()}}


COUNTED = tuple(entry.name for entry in fields(Counters) if entry.name != "verdicts")


MAX_SILENCE_S = 60.0


@dataclass(frozen=True, eq=False)
class Faulted:
    """A frame that must not be judged, and why."""

    frame: Delivered
    since: float
    reason: str


@dataclass(frozen=True)
class Outage:
    """No frame where there should be one, and why; ``frame`` is the first one missing, if known.

    ``part`` is one that a trigger called for, at monotonic second ``called_at``, and of which there is no frame.
    """

    reason: str
    frame: int | None = None
    part: str | None = None
    called_at: float | None = None


@dataclass(frozen=True)
class Passed:
    """A frame that needs no verdict by itself: nothing there, a part on its way, or one that has its verdict."""

    state: CycleState


Outcome = Judgeable | Faulted | Outage | Passed


class CameraWorker:
    """Turns what a source gives into outcomes: frames to judge, frames at fault, outages.

    With ``detector`` frames are gathered to parts, and only those that a part is judged from come out. ``prepare`` is
    done to frames that wait, in the camera's thread, where every frame is judged. ``conditions``: what frames are
    compared with. ``patient`` (a service): a live camera that was not there yet is waited for without end.
    """

    def __init__(
        self,
        source: Source,
        settings: Config,
        changed: threading.Condition,
        *,
        conditions: CaptureConditions = CaptureConditions(),
        patient: bool = False,
        detector: PartDetector | None = None,
        prepare: Callable[[Frame], object] | None = None,
        choose: Callable[[str | None], str | None] | None = None,
    ) -> None:
        self.source = source
        self.counters = Counters()
        self.ended = False
        self.broken: str | None = None
        self._run = run = settings.run
        self._queued = is_queued(run)
        may_drop = drops(run, source.kind)
        # A folder's images wait for us, so they cannot be late.
        self._timed = self._queued and may_drop
        deadline_s = run.trigger_deadline_ms / 1000.0 if self._timed else None
        self.mailbox = Mailbox(may_drop, changed, deadline_s=deadline_s)
        self._prepare, self._choose = prepare, choose
        self._reader = Reader(source, self.mailbox, self._ahead if prepare is not None else None)
        self._patient = patient
        self._restarts = source.restarts if isinstance(source, Restarting) else None
        self._conditions, self._view, self._live = conditions, view_of(run), parse_liveness(settings.camera.liveness)
        self._health = CameraHealth(source.kind, conditions.limits, region=self._view.region)
        # By limits and region: products that take turns must not forget what a frozen camera repeats.
        self._healths = {(conditions.limits, self._view.region): self._health}
        self._liveness = LivenessCheck(self._live if source.kind == "live" else Liveness())
        self._reference_check = _reference_check(conditions)
        self._heard = time.monotonic()
        self._first = True
        self._outage_word: str | None = None  # the first word of the outage told since the last frame
        self._next_alarm = 0.0
        self._backoff = 1.0
        self._duplicates = 0
        self._passed_over = 0
        self._camera_settings: CameraSettings | None = None
        self._settings_mismatch: str | None = None
        self._wrong_size: str | None = None
        self._detector = detector
        self.first_part = 1
        self._doubt: str | None = None  # why the next part is not judged: it may have been there before a change of product
        self._waiting: deque[Judgeable] = deque()  # frames of complete parts

    def adopt(
        self, settings: Config, conditions: CaptureConditions, detector: PartDetector | None, doubt: str | None = None
    ) -> None:
        """Look at frames as another product asks for. What was gathered so far comes out as a part of its own.

        A part that is seen before the station was seen without one is NONE because of ``doubt``: it may be of the old product.

        Parts that a trigger called for stay called for.
        """
        self._run, self._conditions, self._view = settings.run, conditions, view_of(settings.run)
        key = (conditions.limits, self._view.region)
        if key not in self._healths:
            self._healths[key] = CameraHealth(self.source.kind, conditions.limits, region=self._view.region)
        self._health = self._healths[key]
        live = parse_liveness(settings.camera.liveness)
        if live != self._live:
            self._live, self._liveness = live, LivenessCheck(live if self.source.kind == "live" else Liveness())
        self._reference_check = _reference_check(conditions)
        self._camera_settings, self._settings_mismatch, self._wrong_size = None, None, None
        if isinstance(self._detector, CalledParts):
            self._detector.adopt(settings.run)
            return
        part = self._detector.finish() if self._detector else None
        if part:
            self._queue(part)
        self.first_part, self._detector = self.next_part, detector
        self._doubt = doubt if isinstance(detector, SeenParts) else None

    @property
    def next_part(self) -> int:
        """The number of the next part that is seen."""
        return self._detector.next_part if isinstance(self._detector, SeenParts) else self.first_part

    @property
    def every_frame(self) -> bool:
        """Whether every frame is a part."""
        return self._detector is None

    @property
    def name(self) -> str:
        """The camera's name in events."""
        return self.source.name

    @property
    def silent_s(self) -> float:
        """Seconds since the last frame, or since the start; 0 where frames come only when a part does."""
        return 0.0 if self._queued else time.monotonic() - self._heard

    @property
    def lost(self) -> bool:
        """Whether the camera is given up: silent for too long, and not one that patience still waits for."""
        if self.silent_s <= self._run.give_up_s:
            return False
        stuck = self._restarts is not None and self._restarts.stuck
        return not (self._patient and self._first and not stuck)

    @property
    def ready(self) -> bool:
        """Whether ``poll`` would give something at once."""
        return bool(self._waiting) or (not self.ended and self.mailbox.ready)

    @property
    def checks_age(self) -> bool:
        """Whether a late verdict is worth nothing here: for cameras and everything in real time."""
        return self.mailbox.freshest or self._timed or self.source.kind == "synthetic"

    def start(self) -> None:
        """Start reading."""
        self._heard = time.monotonic()
        self._reader.start()

    def poll(self) -> list[Outcome]:
        """Return what happened since the last call: at most one frame, and the outages before it. Never waits.

        Frames of a part that is complete come out one a call, before anything new is looked at.
        """
        if self._waiting:
            return [self._next()]
        if self.ended:
            return []
        return self._called() or self._taken()

    def _taken(self) -> list[Outcome]:
        item = self.mailbox.take()
        if isinstance(item, Delivery):
            return self._delivered(item)
        if isinstance(item, SourceError):
            return self._outage(item.reason)
        if isinstance(item, End):
            return self._finished(item)
        return self._stalled()

    def drain(self) -> Iterator[Outcome]:
        """Yield what has already arrived and the part that is under way; nothing else comes any more."""
        while self._waiting:
            yield self._next()
        yield from self.poll()
        part = self._detector.finish() if self._detector else None
        if part:
            self._queue(part)
        while self._waiting:
            yield self._next()

    def limit_reached(self, under_way: int = 0) -> bool:
        """Whether the frames asked for of this camera are done, or will be with those ``under_way``."""
        limit, counters = self._run.max_frames, self.counters
        return limit is not None and counters.judged + counters.faulted + counters.idle + under_way >= limit

    def has_room(self, under_way: int, at_once: int) -> bool:
        """Whether another frame may be inferred beside those ``under_way``: of a camera one, of a folder or a file ``at_once``."""
        waits = self.source.kind in ("images", "video") and not self.checks_age
        return under_way == 0 or (waits and under_way < at_once and not self.limit_reached(under_way))

    def stop_reading(self) -> bool:
        """Stop the reader; what it has already put in can still be polled. False when it hangs and was left behind."""
        return self._reader.close()

    def close(self) -> None:
        """Stop, throw untaken frames away and complete the account."""
        self.stop_reading()
        self.mailbox.discard()
        self._passed_over += len(self._waiting) + (self._detector.keeps() if self._detector and not self.ended else 0)
        self._waiting.clear()
        self.ended = True
        self.account()

    def account(self) -> Counters:
        """Bring the counters up to date with the mailbox and return them."""
        self.counters.captured = self.mailbox.captured
        self.counters.lost = self.mailbox.lost
        self.counters.dropped = self.mailbox.overwritten + self._duplicates + self._passed_over
        if self._restarts is not None:
            self.counters.reconnects, self.counters.stalls = self._restarts.reconnects, self._restarts.stalls
        return self.counters

    def _delivered(self, delivery: Delivery) -> list[Outcome]:
        delivered, self._outage_word = self._outage_word, None
        # Where the reader waits for us, the time that we took is not the camera's silence.
        self._heard = delivery.arrived_at if self.mailbox.freshest else time.monotonic()
        self._first = False
        outcomes: list[Outcome] = []
        if delivery.missing and not delivered:
            outcomes.append(_gap(delivery))
            self._interrupt()
        result = self._examine(delivery)
        if result:
            outcomes.append(result)
        return outcomes

    def _examine(self, delivery: Delivery) -> Outcome | None:
        frame, since = delivery.frame, self._since(delivery)
        if isinstance(frame, BadFrame):
            self._interrupt()
            return Faulted(frame, since, frame.reason)
        health = self._health.check(frame)
        if self.mailbox.freshest and 0 < health.repeats < self._conditions.limits.frozen_after:
            # The same image again is nothing new to judge; only when it goes on is the camera frozen.
            self._duplicates += 1
            return None
        uncompared = health.different is not None and health.different < self._live.different
        if uncompared and health.fault is None and self.mailbox.freshest:
            # It may be an old one. The next is a frame time away, and outputs stay as they are until then.
            self._duplicates += 1
            return None
        unproved = self._liveness.fault(frame)
        fault = health.fault or unproved or self._view.fault(frame.image) or self._set_differently()
        fault = fault or self._sized_differently(frame)
        if fault is None and uncompared:
            fault = "frozen: nothing is known yet that tells this image from one before the camera was opened"
        if fault is None and self._detector is None:
            fault = self._unlike(frame)
        if fault:
            self._interrupt()
            return Faulted(frame, since, fault)
        return self._gathered(Judgeable(frame, since))

    def _gathered(self, candidate: Judgeable) -> Outcome:
        """Return the frame itself where every frame counts, else what it means for the parts."""
        if self._detector is None:
            return candidate
        outcome = self._detector.look(candidate)
        self.counters.idle += not outcome.useful
        self._doubt = None if outcome.state == "idle" else self._doubt
        for part in outcome.ready:
            self._queue(part)
        return Passed(outcome.state)

    def _set_differently(self) -> str | None:
        """Return how the camera is set other than when the normal images were taken; looked at after each opening."""
        stored = self._conditions.camera
        if stored is None or self.source.kind != "live":
            return None
        actual = settings_of(self.source)
        if actual is not self._camera_settings:
            self._camera_settings = actual
            message = difference(stored, actual)
            self._settings_mismatch = f"settings: {'; '.join(message)}" if message else None
        return self._settings_mismatch

    def _sized_differently(self, frame: Frame) -> str | None:
        """Return how the region has another size than that in which parts were learned; logged when it begins."""
        learned, region = self._conditions.size, self._view.roi
        high, wide = (frame.image.shape[0], frame.image.shape[1]) if region is None else (region.height, region.width)
        if learned in (None, (high, wide)):
            self._wrong_size = None
            return None
        assert learned is not None
        what = "the camera gives" if region is None else "the region of interest has"
        advice = "set the camera to that size" if region is None else "set --roi to that size"
        fault = (
            f"settings: {what} {wide} x {high}, and the part was learned in images of {learned[1]} x {learned[0]}: {advice}, or "
            "train with images as they are now"
        )
        if fault != self._wrong_size:
            self._wrong_size = fault
            _log.warning("%s: %s", self.name, fault.partition(": ")[2])
        return fault

    def _unlike(self, frame: Frame) -> str | None:
        """Return why a frame that should show a part at rest cannot come from a healthy camera."""
        if self._reference_check is None:
            return None
        whole = self._view.roi is None
        return self._reference_check.fault(self._reference_check.view(frame if whole else self._view.crop(frame.image)))

    def _queue(self, part: PartReady[Judgeable]) -> None:
        self._passed_over += part.passed_over
        self._waiting.extend(replace(candidate, fault=self._doubt) for candidate in frames_of(part))
        self._doubt = None

    def _next(self) -> Judgeable:
        """Return the next frame of a complete part, for the product that its id names."""
        candidate = self._waiting.popleft()
        fault = None if self._choose is None else self._choose(candidate.part)
        return replace(candidate, fault=fault or candidate.fault or self._unlike(candidate.frame))

    def _ahead(self, frame: Frame) -> None:
        """Prepare a frame that waits, where every frame is judged; in the camera's thread."""
        if self._detector is None and self._prepare is not None:
            self._prepare(frame)

    def _called(self) -> list[Outcome]:
        """Return the parts that a trigger called for in vain."""
        if self._detector is None:
            return []
        ready, missed = self._detector.time(time.monotonic())
        for part in ready:
            self._queue(part)
        return [Outage(one.reason, part=one.part, called_at=one.called_at) for one in missed]

    def _interrupt(self) -> None:
        if self._detector is not None:
            self._detector.interrupt()

    def _since(self, delivery: Delivery) -> float:
        """The capture; but a frame that waited for us, not we for it, is only as old as its way to us was long."""
        if self.mailbox.freshest or self._timed:
            return delivery.frame.captured_at
        return time.monotonic() - max(delivery.arrived_at - delivery.frame.captured_at, 0.0)

    def _finished(self, end: End) -> list[Outcome]:
        self.ended = True
        self.broken = end.reason if end.broken else None
        part = self._detector.finish() if self._detector else None
        if part:
            self._queue(part)
        return [Outage(end.reason)] if end.reason else []

    def _stalled(self) -> list[Outcome]:
        limit = stall_s(self.source.kind, self.source.fps, self._first)
        silent = self.silent_s
        return self._outage(f"stalled: no frame for {silent:.1f} s") if silent > limit else []

    def _outage(self, reason: str) -> list[Outcome]:
        """Tell an outage at once, then again after 1, 2, 4 ... 60 s while it lasts; a better reason than before at
        once.
        """
        now = time.monotonic()
        word = reason.split(":")[0]
        if self._outage_word and now < self._next_alarm and word in (self._outage_word, "stalled"):
            return []
        self._backoff = min(self._backoff * 2, MAX_SILENCE_S) if self._outage_word else 1.0
        self._outage_word, self._next_alarm = word, now + self._backoff
        self._interrupt()
        return [Outage(reason)]


def _reference_check(conditions: CaptureConditions) -> ReferenceCheck | None:
    reference = conditions.reference
    return None if reference is None else ReferenceCheck(reference, conditions.limits, layout=conditions.size is None)


def _gap(delivery: Delivery) -> Outage:
    first, missing = delivery.first_missing, delivery.missing
    frames = f"frame {first}" if missing == 1 else f"{missing} frames before {delivery.frame.index}"
    return Outage(f"lost: {frames} never arrived", first)
