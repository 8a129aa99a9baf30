"""The state of a run as plain values, bounded, without secrets and paths: what the page and the metrics are made from."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edge_ad.events import Event, finite
from edge_ad.inspection.alarm_manager import AlarmManager
from edge_ad.inspection.challenge import Challenge
from edge_ad.inspection.changeover import Changeover
from edge_ad.inspection.drift import ADVICE
from edge_ad.inspection.inspector import Agent
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import DriftObserver
from edge_ad.inspection.pause import Pause
from edge_ad.inspection.watchdog import Watchdog
from edge_ad.outputs.delivery import ChannelState
from edge_ad.scoring.thresholds import Thresholds
from edge_ad.store import Store
from edge_ad.utils.board import resident_mb
from edge_ad.utils.supervision import ThreadFaults
from edge_ad.utils.text import redact, storable
from edge_ad.web.dashboard_feed import DashboardFeed, Seen
from edge_ad.web.schemas import DIGITS

MAX_NAME = 200
MAX_FAULT = 500
# Folders of an absolute path, in quotes (with blanks) and without; not what follows the host of a URL.
_QUOTED = re.compile(r"(?<=['\"])/[^'\"]*/")
_PLAIN = re.compile(r"(?<![\w/…])/(?:[^\s'\"/]+/)+")


def output_rows(states: Sequence[ChannelState]) -> list[dict[str, Any]]:
    """Return the outputs as plain values; names are unique, because a metric must not come twice with one label."""
    names = [_name(state.name) for state in states]
    seen: Counter[str] = Counter()
    results = []
    for state, name in zip(states, names, strict=True):
        seen[name] += 1
        results.append(
            {
                "name": name if names.count(name) == 1 else f"{name} ({seen[name]})",
                "up": state.up,
                "fault": None if state.fault is None else storable(without_folders(redact(state.fault)), MAX_FAULT),
                "faults": state.faults,
                "since": state.since,
            }
        )
    return results


def without_folders(text: str) -> str:
    """Return ``text`` with an ellipsis in place of the folders of absolute paths."""
    return _PLAIN.sub("…/", _QUOTED.sub("…/", text))


def _name(name: str) -> str:
    if name.startswith("file:/"):
        name = f"file:…/{name.rpartition('/')[2]}"
    return storable(redact(name), MAX_NAME)


FRESH_S = 5.0  # after so long without a part a verdict is history
RATE_OVER_S = 5.0
MAX_ALARMS = 100


@dataclass(frozen=True, eq=False, kw_only=True)
class Watched:
    """The parts of a run that a snapshot is taken of."""

    loop: Loop
    alarm_manager: AlarmManager
    watchdog: Watchdog
    drift: DriftObserver
    store: Store | None
    faults: ThreadFaults
    outputs: Callable[[], list[ChannelState]] = list
    challenge: Challenge | None = None
    pause: Pause = field(default_factory=lambda: Pause(None))
    changeover: Changeover | None = None
    agent: Agent | None = None


class StatusReporter:
    """Takes snapshots of a run; remembers what is needed for rates and for the list of alarms."""

    def __init__(self, watched: Watched, feed: DashboardFeed) -> None:
        self._watched = watched
        self._feed = feed
        self._started = time.monotonic()
        self._rates: deque[tuple[float, list[int]]] = deque()
        self._alarms: deque[dict[str, Any]] = deque(maxlen=MAX_ALARMS)

    def take(self) -> dict[str, Any]:
        """Return the state as it stands."""
        watched, now = self._watched, time.monotonic()
        self._follow_alarms()
        cameras = self._cameras(now)
        alarm_manager = watched.alarm_manager
        return {
            "at": time.time(),
            "uptime_s": now - self._started,
            "cycle_age_s": watched.watchdog.age_s,
            "cycle_limit_s": watched.watchdog.limit_s,
            "cameras": cameras,
            "lamp": {
                "lit": alarm_manager.lit,
                "waiting": any(state.waiting for state in alarm_manager.states.values()),
                "number": alarm_manager.number,
            },
            "pause": watched.pause.to_json(),
            "challenge": None if watched.challenge is None else watched.challenge.to_json(),
            "alarms": list(self._alarms)[::-1],
            "thresholds": {
                **watched.loop.thresholds.to_json(),
                "told": watched.loop.thresholds.describe(),
            },
            "latency_ms": {
                **{f"p{percent}": watched.loop.latencies.percentile(percent) for percent in (50, 99)},
                "max": watched.loop.latencies.max,
            },
            "stages": {name: histogram.to_json() for name, histogram in list(self._feed.stages.items())},
            "memory_mb": resident_mb(),
            "drift": self._drift(),
            "store": self._store(),
            "outputs": output_rows(watched.outputs()),
            "products": None if watched.changeover is None else watched.changeover.state(),
            "fleet": None if watched.agent is None else watched.agent.state(),
            "faults": {"down": watched.faults.fault, "counts": dict(watched.faults.counts)},
        }

    def _cameras(self, now: float) -> list[dict[str, Any]]:
        counters = [worker.account() for worker in self._watched.loop.workers]
        self._rates.append((now, [results.captured for results in counters]))
        while now - self._rates[0][0] > RATE_OVER_S and len(self._rates) > 2:
            self._rates.popleft()
        since, before = self._rates[0]
        results = []
        for index, worker in enumerate(self._watched.loop.workers):
            seen = self._feed.seen[index]
            span = now - since
            results.append(
                {
                    "name": worker.name,
                    "kind": worker.source.kind,
                    **showing(seen, now),
                    "event": None if seen.event is None else event_row(index, seen.event),
                    "fps": (counters[index].captured - before[index]) / span if span > 0 else None,
                    "counters": counters[index].numbers(),
                    "lag_s": getattr(worker.source, "lag_s", None),
                    "alarm": self._watched.alarm_manager.states[worker.name].phase,
                    "view": view_row(self._watched.loop.view_of(worker)),
                }
            )
        return results

    def _follow_alarms(self) -> None:
        """Keep the list of alarms: one entry a number, brought up to date while it is lit."""
        for index, (camera, state) in enumerate(self._watched.alarm_manager.states.items()):
            entry = next((one for one in self._alarms if one["camera"] == index and one["open"]), None)
            if entry is not None and (not state.lit or entry["number"] != state.number):
                entry.update(open=False, waiting=False, phase="over", ended=time.time())
                entry = None
            if entry is None and state.lit:
                entry = {"number": state.number, "camera": index, "name": camera, "raised": time.time(), "ended": None}
                self._alarms.append(entry)
            if entry is not None and state.lit:
                entry.update(open=True, waiting=state.waiting, phase=state.phase, reason=self._cause(index, entry))

    def _cause(self, index: int, entry: Mapping[str, Any]) -> str | None:
        """Return the reason of the newest bad part when the alarm was first seen; it may come a moment after the alarm.
        """
        bad = self._feed.seen[index].bad
        return entry.get("reason") or (None if bad is None else bad.reason)

    def _drift(self) -> dict[str, Any] | None:
        drift = self._watched.drift.drift
        if drift is None:
            return None
        report = drift.report()
        streams = {
            name: {"mean": finite(report.mean[name], 6), "shift": finite(report.shift[name], 6), "p": report.p_value[name]}
            for name in report.mean
        }
        return {
            "parts": report.parts,
            "streams": streams,
            "drifted": list(report.drifted),
            "warning": report.warning,
            "causes": [{**asdict(cause), "advice": ADVICE[cause.kind]} for cause in report.causes],
        }

    def _store(self) -> dict[str, Any] | None:
        store = self._watched.store
        if store is None:
            return None
        return {"fault": store.fault, "dropped": store.dropped, "committed": store.committed}


def showing(seen: Seen, now: float) -> dict[str, Any]:
    """Return what the lamp shows of a camera (OK, WARN, NG, NONE or IDLE), why, and for how long the verdict stands.

    A fault stands until a verdict comes. Any other verdict gives way to IDLE when its part has left, when the next one
    comes, and after five seconds without a part.
    """
    event, state = seen.event, seen.state
    age = None if event is None else now - seen.reported_at
    if event is None or age is None:
        return {"show": "IDLE", "why": "no part was judged yet", "age_s": None}
    if event.verdict == "NONE" and state is None:
        return {"show": "NONE", "why": event.reason, "age_s": age}
    if state == "idle":
        return {"show": "IDLE", "why": "no part is in view", "age_s": age}
    if state == "busy":
        return {"show": "IDLE", "why": "a part is coming or being looked at", "age_s": age}
    if age > FRESH_S and state is None:
        return {"show": "IDLE", "why": "no part came", "age_s": age}
    return {"show": event.verdict, "why": event.reason or (event.pose or {}).get("outside"), "age_s": age}


def view_row(view: tuple[str, Thresholds | None] | None) -> dict[str, Any] | None:
    """Return the view of a part that a camera gives; its ``thresholds`` are None where the fused score of the part decides.
    """
    if view is None:
        return None
    name, limits = view
    return {"name": name, "thresholds": None if limits is None else {"warn": limits.warn, "ng": limits.ng}}


def event_row(index: int, event: Event) -> dict[str, Any]:
    """Return an event as the page gets it: the camera by its place, a part's id shortened."""
    return {**event.record(DIGITS), "camera": index, "part": None if event.part is None else event.part[:120]}
