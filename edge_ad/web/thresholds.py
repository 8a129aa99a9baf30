"""Routes of the thresholds: what they are, what others would do, and taking others over.

What other thresholds would have made of recent events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request

from edge_ad import scoring
from edge_ad.deployment.rethreshold import rethreshold
from edge_ad.errors import BadInput
from edge_ad.events import Mark, Verdict
from edge_ad.store.reader import EventFilter
from edge_ad.web.dashboard_state import DashboardState
from edge_ad.web.record import Record, sender
from edge_ad.web.schemas import Applied, Message, Preview, Score, ThresholdRequest, Thresholds

BINS = 48
NOTHING = "No part with a score in this time."


@dataclass(frozen=True, slots=True)
class Scored:
    """What a preview needs of an event; one without a score is NONE and stays NONE whatever the thresholds."""

    time: float
    score: float | None
    verdict: Verdict
    mark: Mark | None
    zone: str | None = None  # beyond a threshold of its own, which a preview leaves as it is


@dataclass(frozen=True)
class Recent:
    """Recent events, newest first, over ``hours``; ``limited`` when there were more than these."""

    events: tuple[Scored, ...]
    hours: float
    limited: bool


def preview(recent: Recent, warn: float, ng: float, warn_rejects: bool) -> dict[str, Any]:
    """Return the counts that ``warn`` and ``ng`` give; see schemas.Preview. BadInput for thresholds that contradict."""
    thresholds = scoring.Thresholds(warn, ng)
    judged = [event for event in recent.events if event.verdict != "NONE" and event.score is not None]
    made = [(event, _verdict(event, thresholds)) for event in judged]
    rejecting = ("WARN", "NG") if warn_rejects else ("NG",)
    rejects = [event for event, verdict in made if verdict in rejecting]
    rejected_good = sum(event.mark == "good" for event in rejects)
    passed_bad = sum(event.mark == "bad" for event, verdict in made if verdict not in rejecting)
    rate = len(rejects) / recent.hours if recent.hours > 0 else 0.0
    scores = [event.score for event in judged if event.score is not None]
    low, high, histogram = _histogram(scores, warn, ng)
    return {
        "judged": len(judged),
        "faults": len(recent.events) - len(judged),
        "hours": round(recent.hours, 3),
        "counts": _counts(verdict for _, verdict in made),
        "rejects": len(rejects),
        "rejects_an_hour": round(rate, 2),
        "rejected_marked_good": rejected_good,
        "passed_marked_bad": passed_bad,
        "before": _counts(event.verdict for event in judged),
        "limited": recent.limited,
        "told": describe_rejects(len(rejects), recent.hours, rejected_good, passed_bad) if judged else NOTHING,
        "low": low,
        "high": high,
        "histogram": histogram,
    }


def _verdict(event: Scored, thresholds: scoring.Thresholds) -> Verdict:
    """Return what thresholds of the whole image make of an event; one with a zone beyond its own keeps its verdict at least."""
    verdict = thresholds.verdict(event.score or 0.0)
    return event.verdict if event.zone is not None and verdict != "NG" else verdict


def describe_rejects(rejects: int, hours: float, rejected_good: int, passed_bad: int) -> str:
    """Return the preview as a sentence: a rate where an hour or more was seen, else the bare count."""
    if hours >= 1.0:
        number, span = _short(rejects / hours), "an hour"
    else:
        minutes = max(1, round(hours * 60))
        number, span = str(rejects), "in a minute" if minutes == 1 else f"in {minutes} minutes"
    message = f"At this threshold: {number} {'reject' if number == '1' else 'rejects'} {span}"
    if rejected_good:
        message += f", {rejected_good} {'was' if rejected_good == 1 else 'were'} marked good"
    if passed_bad:
        message += f"; {passed_bad} marked bad would pass"
    return f"{message}."


def recent_of(events: Iterable[Scored], limit: int, now: float, hours: float) -> Recent:
    """Return the newest ``limit`` events and the time they cover: from the oldest of them to ``now``."""
    retained: list[Scored] = []
    limited = False
    for event in events:
        if len(retained) == limit:
            limited = True
            break
        retained.append(event)
    covered = (now - min(event.time for event in retained)) / 3600.0 if retained else 0.0
    return Recent(tuple(retained), min(max(covered, 1.0 / 3600.0), hours) if retained else 0.0, limited)


def check_order(warn: float, ng: float) -> None:
    """Raise BadInput when WARN lies above NG."""
    if warn > ng:
        raise BadInput(f"WARN is {warn:g} and NG {ng:g}: WARN must not lie above NG")


def _counts(verdicts: Iterable[str]) -> dict[str, int]:
    counts = {"OK": 0, "WARN": 0, "NG": 0}
    for verdict in verdicts:
        if verdict in counts:
            counts[verdict] += 1
    return counts


def _histogram(scores: list[float], warn: float, ng: float) -> tuple[float, float, list[int]]:
    """Count scores in BINS equal steps that cover them and both thresholds; the far tail falls into the last one."""
    ordered = sorted(scores)
    ends = [warn, ng]
    if ordered:
        ends += [ordered[0], ordered[min(int(0.995 * len(ordered)), len(ordered) - 1)]]
    low, high = min(ends), max(ends)
    pad = max((high - low) * 0.06, 1e-6)
    low, high = low - pad, high + pad
    counts = [0] * BINS
    for score in ordered:
        counts[min(max(int((score - low) / (high - low) * BINS), 0), BINS - 1)] += 1
    return low, high, counts


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or abs(rate - round(rate)) < 0.05 else f"{rate:.1f}"


MAX_EVENTS = 10_000
CACHE_S = 10.0
TAKEN_OVER_S = 8.0

Ask = Callable[[dict[str, Any]], None]


class ThresholdService:
    """Keeps the recent events of one question for a few seconds, because a slider asks often."""

    def __init__(self, dashboard: DashboardState, record: Record, ask: Ask) -> None:
        self._dashboard = dashboard
        self._record = record
        self._ask = ask
        self._recent_lock = threading.Lock()
        self._apply_lock = threading.Lock()  # of its own: it is held while the line takes over, and previews must go on
        self._cached: tuple[float, float, Recent] | None = None

    def recent(self, hours: float) -> Recent:
        """Return the events of the last hours."""
        with self._recent_lock:
            now = time.monotonic()
            if self._cached is None or self._cached[0] != hours or now - self._cached[1] > CACHE_S:
                wall = time.time()
                events = self._record.reader().every(EventFilter(since=wall - hours * 3600.0), MAX_EVENTS + 1)
                scored = (Scored(event.time, event.score, event.verdict, event.mark, event.zone) for event in events)
                self._cached = (hours, now, recent_of(scored, MAX_EVENTS, wall, hours))
            return self._cached[2]

    def forget(self) -> None:
        """Read the events again next time: a mark was set."""
        with self._recent_lock:  # or what is being read now, from before the mark, would stay
            self._cached = None

    def now(self) -> dict[str, Any]:
        """Return the thresholds by which the run judges; see schemas.Thresholds."""
        state, about = self._dashboard.state, self._dashboard.hello.get("about", {})
        current = state["thresholds"] if state else {"warn": None, "ng": None, "told": "no inspector is connected"}
        locked = "no inspector is connected" if state is None else about.get("locked")
        return {**{key: current[key] for key in ("warn", "ng", "told")}, "bundle": about.get("bundle"), "locked": locked}

    def apply(self, warn: float, ng: float, reason: str, by: str) -> dict[str, Any]:
        """Write the child bundle, have the run take it over, and wait until it did; see schemas.Applied."""
        now = self.now()
        if now["locked"]:
            raise HTTPException(409, f"thresholds cannot be changed here: {now['locked']}")
        with self._apply_lock:
            path = rethreshold(Path(self._dashboard.hello["bundle_path"]), warn, ng, reason, by=by)
            before = {"warn": now["warn"], "ng": now["ng"]}
            text = f"WARN above {warn:.4g} (was {now['warn']:.4g}), NG above {ng:.4g} (was {now['ng']:.4g})"
            why = f"{text}{f': {reason}' if reason else ''}"
            self._record.note("thresholds", by, why, warn=warn, ng=ng, before=before, bundle=path.name)
            self._ask({"kind": "take_over", "path": str(path)})
            running = self._taken_over(warn, ng)
        message = "the line judges by them now" if running else "the line has not taken them over: see its messages"
        return {"bundle": path.name, "running": running, "told": f"{message}; written to {path.name}"}

    def _taken_over(self, warn: float, ng: float) -> bool:
        until = time.monotonic() + TAKEN_OVER_S
        while time.monotonic() < until:
            current = (self._dashboard.state or {}).get("thresholds", {})
            if (current.get("warn"), current.get("ng")) == (warn, ng):
                return True
            time.sleep(0.05)
        return False


def thresholds_routes(thresholds_api: ThresholdService, warn_rejects: Callable[[], bool]) -> APIRouter:
    """Return the routes; ``warn_rejects`` says whether a WARN is rejected on this line."""
    router = APIRouter(prefix="/api/thresholds", tags=["thresholds"], responses={400: {"model": Message}})

    @router.get("", response_model=Thresholds)
    def thresholds() -> dict[str, Any]:
        """Return the thresholds of now."""
        return thresholds_api.now()

    @router.get("/preview", response_model=Preview, responses={404: {"model": Message}})
    def try_out(warn: Score, ng: Score, hours: Annotated[float, Query(ge=0.1, le=24 * 31)] = 8.0) -> dict[str, Any]:
        """Tell what these thresholds would have made of the events of the last hours; nothing changes."""
        check_order(warn, ng)
        return preview(thresholds_api.recent(hours), warn, ng, warn_rejects())

    @router.post("", response_model=Applied, responses={409: {"model": Message}})
    def apply(wanted: ThresholdRequest, request: Request) -> dict[str, Any]:
        """Judge by these thresholds from now on: they go into a child of the bundle, and the line does not stop."""
        check_order(wanted.warn, wanted.ng)
        return thresholds_api.apply(wanted.warn, wanted.ng, wanted.reason, sender(request))

    return router
