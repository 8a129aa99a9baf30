"""What the dashboard's process knows of the run: the newest state, the last events, the last pictures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from edge_ad.web.pictures import Picture, picture_of

MOST_EVENTS = 600
KEPT_PICTURES = 5  # a page asks for one a moment after it heard of it
SILENT_S = 5.0
BEFORE_FIRST_S = 60.0


@dataclass(frozen=True)
class Life:
    """Whether the inspector lives: ``healthy`` when cycles complete, ``ready`` when it has given its first proof."""

    healthy: bool
    ready: bool
    told: str


class Mirror:
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
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._pictures: dict[int, deque[Picture]] = {}
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Event] = set()

    def take(self, record: dict[str, Any], blobs: list[bytes]) -> None:
        """Take in one message of the run."""
        with self._lock:
            self._heard_at = time.monotonic()
            if record["kind"] == "hello":
                self.hello = record
            elif record["kind"] == "state":
                self.state = record["state"]
                self.count += len(record["events"])
                self._events.extend(record["events"])
            elif record["kind"] == "picture":
                place = int(record["event"]["camera"])
                kept = self._pictures.setdefault(place, deque(maxlen=KEPT_PICTURES))
                kept.append(picture_of(kept[-1].number + 1 if kept else 1, record, blobs))

    @property
    def silent_s(self) -> float:
        """Seconds since the run was heard."""
        return time.monotonic() - self._heard_at

    def events_since(self, count: int) -> tuple[int, list[dict[str, Any]]]:
        """Return the number of events so far, and those after the first ``count``, as many as are kept."""
        with self._lock:
            wanted = min(max(self.count - count, 0), len(self._events))
            return self.count, list(self._events)[len(self._events) - wanted :]

    def picture(self, place: int, number: int | None = None) -> Picture | None:
        """Return the newest picture of a camera, or the one of this number; None when it is not kept."""
        with self._lock:
            kept = list(self._pictures.get(place, ()))
        return next((picture for picture in reversed(kept) if number in (None, picture.number)), None)

    def pictures(self) -> list[dict[str, Any] | None]:
        """Return the number of the newest picture of each camera with what it shows, None where there is none."""
        found = [self.picture(place) for place in range(len(self.state["cameras"]) if self.state else 0)]
        return [None if picture is None else picture.told() for picture in found]

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
