"""What the dashboard's process knows of the run: the newest state, the last events, the last images."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from edge_ad.camera.frames import Image
from edge_ad.errors import DeviceFault

QUALITY = 82
SHOWN = ("verdict", "part", "frame", "time", "score")


@dataclass(eq=False)
class DashboardImage:
    """An image u8[H,W,3] RGB and its heat u8[h,w] (0 as on normal images, 255 twice as high), each may be missing."""

    number: int
    event: dict[str, Any]
    image: Image | None
    heat: np.ndarray[Any, np.dtype[np.uint8]] | None
    _done: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def to_json(self) -> dict[str, Any]:
        """Return its number, whether there is an image and a heat map, and what it shows."""
        has = {"image": self.image is not None, "heat": self.heat is not None}
        outside = (self.event["pose"] or {}).get("outside")
        return {"number": self.number, **has, **{key: self.event[key] for key in SHOWN}, "outside": outside}

    def jpeg(self) -> bytes | None:
        """Return the image as JPEG, encoded once for all pages."""
        return None if self.image is None else self._once("jpeg")

    def overlay(self) -> bytes | None:
        """Return the heat as PNG with an alpha channel, to be laid over the image."""
        return None if self.heat is None else self._once("overlay")

    def _once(self, what: str) -> bytes:
        with self._lock:
            if what not in self._done:
                self._done[what] = self._jpeg() if what == "jpeg" else self._overlay()
            return self._done[what]

    def _jpeg(self) -> bytes:
        assert self.image is not None
        return _encode(".jpg", cv2.cvtColor(self.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    def _overlay(self) -> bytes:
        assert self.heat is not None
        colours = cv2.applyColorMap(self.heat, cv2.COLORMAP_INFERNO)
        opacity = np.minimum(self.heat.astype(np.uint16) * 3, 160).astype(np.uint8)
        return _encode(".png", np.dstack([colours, opacity]), [cv2.IMWRITE_PNG_COMPRESSION, 1])


def image_of(number: int, record: dict[str, Any], blobs: list[bytes]) -> DashboardImage:
    """Return the image of a message."""
    rest = list(blobs)
    image = None if record["image"] is None else np.frombuffer(rest.pop(0), np.uint8).reshape(record["image"])
    heat = None if record["heat"] is None else np.frombuffer(rest.pop(0), np.uint8).reshape(record["heat"])
    return DashboardImage(number, record["event"], image, heat)


def _encode(suffix: str, image: Any, settings: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, settings)
    if not done:
        raise DeviceFault(f"an image cannot be encoded as {suffix} by this OpenCV")
    return bytes(data)


MAX_EVENTS = 600
MAX_IMAGES = 5  # a page asks for one a moment after it heard of it
SILENT_S = 5.0
BEFORE_FIRST_S = 60.0


@dataclass(frozen=True)
class Life:
    """Whether the inspector lives: ``healthy`` when cycles complete, ``ready`` when it has given its first proof."""

    healthy: bool
    ready: bool
    told: str


class DashboardState:
    """Takes the messages of the run, in one thread, and tells those who wait in the event loop.

    ``attached`` is False for a dashboard that shows a record without a run.
    """

    def __init__(self, attached: bool = True) -> None:
        self.attached = attached
        self.hello: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None
        self.count = 0  # events taken since the start
        self.pages = 0
        self._heard_at = time.monotonic()
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._images: dict[int, deque[DashboardImage]] = {}
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Event] = set()
        self._answers: dict[int, dict[str, Any] | None] = {}  # by request, None while it is awaited
        self._answered = threading.Condition()
        self._requested = 0

    def take(self, record: dict[str, Any], blobs: list[bytes]) -> None:
        """Take in one message of the run."""
        with self._lock:
            self._heard_at = time.monotonic()
            if record["kind"] == "hello":
                self.hello = record
            elif record["kind"] == "changed":  # another product or bundle is judged
                self.hello = {**self.hello, **record, "kind": "hello"}
            elif record["kind"] == "state":
                self.state = record["state"]
                self.count += len(record["events"])
                self._events.extend(record["events"])
            elif record["kind"] == "answer":
                self._take_answer(record)
            elif record["kind"] == "picture":
                index = int(record["event"]["camera"])
                images = self._images.setdefault(index, deque(maxlen=MAX_IMAGES))
                images.append(image_of(images[-1].number + 1 if images else 1, record, blobs))

    def _take_answer(self, record: dict[str, Any]) -> None:
        with self._answered:
            if record["number"] in self._answers:  # else nobody waits for it any more
                self._answers[record["number"]] = record
                self._answered.notify_all()

    def submit(self, request: dict[str, Any], ask: Callable[[dict[str, Any]], None], seconds: float) -> dict[str, Any] | None:
        """Send a request to the run by ``ask`` and return its answer, ``done`` or ``error``; None without one in time.

        From any thread but that of the event loop.
        """
        with self._answered:
            self._requested += 1
            number = self._requested
            self._answers[number] = None
            ask({"kind": "request", "number": number, "request": request})
            self._answered.wait_for(lambda: self._answers[number] is not None, seconds)
            return self._answers.pop(number)

    @property
    def silent_s(self) -> float:
        """Seconds since the run was heard."""
        return time.monotonic() - self._heard_at

    def events_since(self, count: int) -> tuple[int, list[dict[str, Any]]]:
        """Return the number of events so far, and those after the first ``count``, as many as are kept."""
        with self._lock:
            wanted = min(max(self.count - count, 0), len(self._events))
            return self.count, list(self._events)[len(self._events) - wanted :]

    def image(self, index: int, number: int | None = None) -> DashboardImage | None:
        """Return the newest image of a camera, or the one of this number; None when it is not kept."""
        with self._lock:
            images = list(self._images.get(index, ()))
        return next((image for image in reversed(images) if number in (None, image.number)), None)

    def images(self) -> list[dict[str, Any] | None]:
        """Return the number of the newest image of each camera with what it shows, None where there is none."""
        images = [self.image(index) for index in range(len(self.state["cameras"]) if self.state else 0)]
        return [None if image is None else image.to_json() for image in images]

    def life(self) -> Life:
        """Tell whether the inspector lives, by the rule of the watchdog."""
        if not self.attached:
            return Life(True, True, "a record is shown; no inspector is connected")
        if self.state is None:
            waiting = self.silent_s < BEFORE_FIRST_S
            return Life(waiting, False, "the inspector warms up" if waiting else "the inspector never became ready")
        silent, age = self.silent_s, float(self.state["cycle_age_s"]) + self.silent_s
        limit = float(self.state["cycle_limit_s"] or SILENT_S)
        if silent > SILENT_S:
            return Life(False, False, f"nothing was heard of the inspector for {silent:.1f} s")
        if age > limit:
            return Life(False, False, f"no cycle was completed for {age:.1f} s; {limit:g} s are allowed")
        down = self.state.get("faults", {}).get("down")
        if down is not None:
            return Life(False, False, str(down))
        failing = sum(output["fault"] is not None for output in self.state.get("outputs", ()))
        if failing and self.hello.get("about", {}).get("require_alarms"):
            # No address: this is told to those without a token too.
            return Life(False, False, f"{failing} of the required outputs {'do' if failing > 1 else 'does'} not work")
        return Life(True, True, "cycles complete")

    def wake(self) -> None:
        """Tell all pages that there is news; call it in the event loop."""
        for event in self._waiting:
            event.set()

    def enter(self) -> asyncio.Event:
        """Return what is set with each news; give it back with ``leave``."""
        event = asyncio.Event()
        self._waiting.add(event)
        return event

    def leave(self, event: asyncio.Event) -> None:
        """Wait no more."""
        self._waiting.discard(event)
