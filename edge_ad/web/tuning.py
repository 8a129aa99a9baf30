"""Routes of the thresholds: what they are, what others would do, and taking others over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request

from edge_ad.rethreshold import rethreshold
from edge_ad.store.reader import EventFilter
from edge_ad.web.mirror import Mirror
from edge_ad.web.preview import Recent, Scored, check_order, preview, recent_of
from edge_ad.web.record import Record
from edge_ad.web.schemas import Applied, Preview, Score, ThresholdRequest, Thresholds, Told

MOST_EVENTS = 10_000
KEPT_S = 10.0
TAKEN_OVER_S = 8.0

Ask = Callable[[dict[str, Any]], None]


class Tuning:
    """Keeps the recent events of one question for a few seconds, because a slider asks often."""

    def __init__(self, mirror: Mirror, record: Record, ask: Ask) -> None:
        self._mirror = mirror
        self._record = record
        self._ask = ask
        self._lock = threading.Lock()
        self._kept: tuple[float, float, Recent] | None = None

    def recent(self, hours: float) -> Recent:
        """Return the events of the last hours."""
        with self._lock:
            now = time.monotonic()
            if self._kept is None or self._kept[0] != hours or now - self._kept[1] > KEPT_S:
                wall = time.time()
                events = self._record.reader().every(EventFilter(since=wall - hours * 3600.0), MOST_EVENTS + 1)
                scored = (Scored(event.time, event.score, event.verdict, event.mark) for event in events)
                self._kept = (hours, now, recent_of(scored, MOST_EVENTS, wall, hours))
            return self._kept[2]

    def forget(self) -> None:
        """Read the events again next time: a mark was set."""
        self._kept = None

    def now(self) -> dict[str, Any]:
        """Return the thresholds by which the run judges; see schemas.Thresholds."""
        state, about = self._mirror.state, self._mirror.hello.get("about", {})
        found = state["thresholds"] if state else {"warn": None, "ng": None, "told": "no inspector is connected"}
        locked = "no inspector is connected" if state is None else about.get("locked")
        return {**{key: found[key] for key in ("warn", "ng", "told")}, "bundle": about.get("bundle"), "locked": locked}

    def apply(self, warn: float, ng: float, reason: str, by: str) -> dict[str, Any]:
        """Write the child bundle, have the run take it over, and wait until it did; see schemas.Applied."""
        now = self.now()
        if now["locked"]:
            raise HTTPException(409, f"thresholds cannot be changed here: {now['locked']}")
        with self._lock:
            path = rethreshold(Path(self._mirror.hello["bundle_path"]), warn, ng, reason, by)
            self._ask({"kind": "take_over", "path": str(path)})
            running = self._taken_over(warn, ng)
        told = "the line judges by them now" if running else "the line has not taken them over: see its messages"
        return {"bundle": path.name, "running": running, "told": f"{told}; written to {path.name}"}

    def _taken_over(self, warn: float, ng: float) -> bool:
        until = time.monotonic() + TAKEN_OVER_S
        while time.monotonic() < until:
            found = (self._mirror.state or {}).get("thresholds", {})
            if (found.get("warn"), found.get("ng")) == (warn, ng):
                return True
            time.sleep(0.05)
        return False


def tuning_routes(tuning: Tuning, warn_rejects: Callable[[], bool]) -> APIRouter:
    """Return the routes; ``warn_rejects`` says whether a WARN is rejected on this line."""
    router = APIRouter(prefix="/api/thresholds", tags=["thresholds"], responses={400: {"model": Told}})

    @router.get("", response_model=Thresholds)
    def thresholds() -> dict[str, Any]:
        """Return the thresholds of now."""
        return tuning.now()

    @router.get("/preview", response_model=Preview, responses={404: {"model": Told}})
    def try_out(warn: Score, ng: Score, hours: Annotated[float, Query(ge=0.1, le=24 * 31)] = 8.0) -> dict[str, Any]:
        """Tell what these thresholds would have made of the events of the last hours; nothing changes."""
        check_order(warn, ng)
        return preview(tuning.recent(hours), warn, ng, warn_rejects())

    @router.post("", response_model=Applied, responses={409: {"model": Told}})
    def apply(wanted: ThresholdRequest, request: Request) -> dict[str, Any]:
        """Judge by these thresholds from now on: they go into a child of the bundle, and the line does not stop."""
        check_order(wanted.warn, wanted.ng)
        return tuning.apply(wanted.warn, wanted.ng, wanted.reason, f"dashboard {request.scope['client_name']}")

    return router
