"""One camera of a run: its reader, its mailbox, its health, its account of frames."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from edge_ad.camera.frames import BadFrame, Delivered, End, Frame, Source, SourceError
from edge_ad.camera.health import CameraHealth
from edge_ad.camera.mailbox import Delivery, Mailbox
from edge_ad.camera.reader import Reader
from edge_ad.inspection.counters import Counters
from edge_ad.inspection.settings import LoopSettings

LONGEST_SILENCE_S = 60.0


@dataclass(frozen=True, eq=False)
class Judgeable:
    """A healthy frame; ``since`` is the monotonic time from which its age counts."""

    frame: Frame
    since: float


@dataclass(frozen=True, eq=False)
class Faulted:
    """A frame that must not be judged, and why."""

    frame: Delivered
    since: float
    reason: str


@dataclass(frozen=True)
class Outage:
    """No frame where there should be one, and why; ``frame`` is the first one missing, if known."""

    reason: str
    frame: int | None = None


Outcome = Judgeable | Faulted | Outage


class Station:
    """Turns what a source gives into outcomes: frames to judge, frames at fault, outages."""

    def __init__(self, source: Source, settings: LoopSettings, changed: threading.Condition) -> None:
        self.source = source
        self.counters = Counters()
        self.ended = False
        self.broken: str | None = None
        self.mailbox = Mailbox(settings.drops(source.kind), changed)
        self._reader = Reader(source, self.mailbox)
        self._settings = settings
        self._health = CameraHealth(source.kind, settings.health)
        self._heard = time.monotonic()
        self._first = True
        self._told = False  # whether an outage was told since the last frame
        self._next_alarm = 0.0
        self._backoff = 1.0
        self._duplicates = 0

    @property
    def name(self) -> str:
        """The camera's name in events."""
        return self.source.name

    @property
    def silent_s(self) -> float:
        """Seconds since the last frame, or since the start."""
        return time.monotonic() - self._heard

    @property
    def checks_age(self) -> bool:
        """Whether a late verdict is worth nothing here: for cameras and everything in real time."""
        return self.mailbox.freshest or self.source.kind == "synthetic"

    def start(self) -> None:
        """Start reading."""
        self._heard = time.monotonic()
        self._reader.start()

    def poll(self) -> list[Outcome]:
        """Return what happened since the last call: at most one frame, and the outages before it. Never waits."""
        if self.ended:
            return []
        item = self.mailbox.take()
        if isinstance(item, Delivery):
            return self._delivered(item)
        if isinstance(item, SourceError):
            return self._outage(item.reason)
        if isinstance(item, End):
            return self._finished(item)
        return self._stalled()

    def limit_reached(self) -> bool:
        """Whether the frames asked for of this camera are done."""
        limit = self._settings.max_frames
        return limit is not None and self.counters.judged + self.counters.faulted >= limit

    def stop_reading(self) -> bool:
        """Stop the reader; what it has already put in can still be polled. False when it hangs and was left behind."""
        return self._reader.close()

    def close(self) -> None:
        """Stop, throw an untaken frame away and complete the account."""
        self.stop_reading()
        self.mailbox.discard()
        self.ended = True
        self.account()

    def account(self) -> Counters:
        """Bring the counters up to date with the mailbox and return them."""
        self.counters.captured = self.mailbox.captured
        self.counters.lost = self.mailbox.lost
        self.counters.dropped = self.mailbox.overwritten + self._duplicates
        return self.counters

    def _delivered(self, delivery: Delivery) -> list[Outcome]:
        told, self._told = self._told, False
        self._heard, self._first = time.monotonic(), False
        outcomes: list[Outcome] = []
        if delivery.missing and not told:
            outcomes.append(_gap(delivery.frame.index, delivery.missing))
        found = self._examine(delivery)
        if found:
            outcomes.append(found)
        return outcomes

    def _examine(self, delivery: Delivery) -> Outcome | None:
        frame, since = delivery.frame, self._since(delivery)
        if isinstance(frame, BadFrame):
            return Faulted(frame, since, frame.reason)
        health = self._health.check(frame.image)
        if self.mailbox.freshest and 0 < health.repeats < self._settings.health.frozen_after:
            # The same picture again is nothing new to judge; only when it goes on is the camera frozen.
            self._duplicates += 1
            return None
        return Faulted(frame, since, health.fault) if health.fault else Judgeable(frame, since)

    def _since(self, delivery: Delivery) -> float:
        """The capture; but a frame that waited for us, not we for it, is only as old as its way to us was long."""
        if self.mailbox.freshest:
            return delivery.frame.captured_at
        return time.monotonic() - max(delivery.arrived_at - delivery.frame.captured_at, 0.0)

    def _finished(self, end: End) -> list[Outcome]:
        self.ended = True
        self.broken = end.reason if end.broken else None
        return [Outage(end.reason)] if end.reason else []

    def _stalled(self) -> list[Outcome]:
        limit = self._settings.stall_s(self.source.kind, self.source.fps, self._first)
        silent = self.silent_s
        return self._outage(f"stalled: no frame for {silent:.1f} s") if silent > limit else []

    def _outage(self, reason: str) -> list[Outcome]:
        """Tell an outage at once, then again after 1, 2, 4 ... 60 s while it lasts."""
        now = time.monotonic()
        if self._told and now < self._next_alarm:
            return []
        self._backoff = min(self._backoff * 2, LONGEST_SILENCE_S) if self._told else 1.0
        self._told, self._next_alarm = True, now + self._backoff
        return [Outage(reason)]


def _gap(index: int, missing: int) -> Outage:
    first = index - missing
    frames = f"frame {first}" if missing == 1 else f"{missing} frames before {index}"
    return Outage(f"lost: {frames} never arrived", first)
