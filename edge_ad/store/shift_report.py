"""Shifts of a station, by the local clock, and what one came to: parts and yield, where and why NG, false rejects by marks,
downtime by cause, alarms, changes.

Events are read one by one and counted, so memory grows neither with their number nor with the time.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from edge_ad.errors import BadInput
from edge_ad.events import VERDICTS
from edge_ad.store.actions import Action, ActionLog
from edge_ad.store.reader import Alarm, Reader, ScannedEvent

CELLS = 24  # of the map of places, each way
MAX_ROWS = 500  # of each list
MAX_NAMES = 200  # of products, branches and causes that are told apart
SILENT_S = 90.0  # a camera that is lost says so once a minute: after more silence nothing is known
PAUSED, PRODUCT_CHANGE = "paused", "product"
NOT_RUNNING, OTHER = "not running", "others"
CHANGES = ("thresholds", "product", "settings", "zones", "bundle", "fleet", "improve", "replace", "rollback")  # how kinds begin


@dataclass(frozen=True)
class Period:
    """From ``start`` to before ``end``, both in seconds since 1970 UTC, told by the clock of ``zone`` (None: this machine's)."""

    start: float
    end: float
    zone: tzinfo | None = None

    def local(self, moment: float) -> datetime:
        """Return a moment by the clock of the zone, with its offset."""
        if self.zone is None:
            return datetime.fromtimestamp(moment).astimezone()
        return datetime.fromtimestamp(moment, self.zone)

    def __str__(self) -> str:
        first, last = self.local(self.start), self.local(self.end)
        whole = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
        names = dict.fromkeys((first.tzname(), last.tzname()))
        return f"{first:%Y-%m-%d %H:%M} to {whole} ({', '.join(str(name) for name in names)})"


def zone_of(name: str | None) -> tzinfo | None:
    """Return the time zone of an IANA name such as Europe/Berlin, None for this machine's own; BadInput for an unknown name."""
    try:
        return None if name is None else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        allowed = "write a name such as Europe/Berlin, or leave it out for the zone of this machine"
        raise BadInput(f"[report] zone is {name!r:.80}: {allowed}") from error


def shift_of(shifts: Sequence[str], moment: float, zone: tzinfo | None = None) -> Period:
    """Return the shift that runs at ``moment``; ``shifts`` are the local times at which one begins.

    A time that the clock skips begins as much later, one that comes twice begins the first time. So the shift of a night in
    which the clock is set has an hour less or more.
    """
    today = (datetime.fromtimestamp(moment) if zone is None else datetime.fromtimestamp(moment, zone)).date()
    times = [time.fromisoformat(text) for text in shifts]
    days = [today + timedelta(days=number) for number in (-1, 0, 1)]
    moments = [datetime.combine(day, one) for day in days for one in times]
    limits = sorted({(one if zone is None else one.replace(tzinfo=zone)).timestamp() for one in moments})
    return Period(max(one for one in limits if one <= moment), min(one for one in limits if one > moment), zone)


def last_shift(shifts: Sequence[str], now: float, zone: tzinfo | None = None) -> Period:
    """Return the last shift that has ended."""
    return shift_of(shifts, shift_of(shifts, now, zone).start - 1.0, zone)


@dataclass
class Tally:
    """Counts of one product, or of all: verdicts, NG by branch, marks, and NG by cell of the image as judged (column, row)."""

    verdicts: Counter[str] = field(default_factory=Counter)
    branches: Counter[str] = field(default_factory=Counter)
    places: Counter[tuple[int, int]] = field(default_factory=Counter)
    false_rejects: int = 0
    misses: int = 0
    marked: int = 0

    def judged(self) -> int:
        """Return how many parts have a verdict."""
        return sum(self.verdicts[name] for name in VERDICTS if name != "NONE")

    def passed(self, warn_rejects: bool) -> int:
        """Return how many parts passed."""
        return self.verdicts["OK"] + (0 if warn_rejects else self.verdicts["WARN"])

    def share(self, warn_rejects: bool) -> float | None:
        """Return the yield: passed of judged parts, None without any."""
        judged = self.judged()
        return self.passed(warn_rejects) / judged if judged else None


@dataclass
class Downtime:
    """Seconds and stops of one cause; over several cameras they add up."""

    seconds: float = 0.0
    stops: int = 0


@dataclass
class ShiftReport:
    """A shift; lists hold at most MAX_ROWS, ``more`` says how many of each were left out."""

    period: Period
    warn_rejects: bool
    total: Tally = field(default_factory=Tally)
    products: dict[str, Tally] = field(default_factory=dict)
    cameras: Counter[str] = field(default_factory=Counter)
    downtime: dict[str, Downtime] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    changes: list[Action] = field(default_factory=list)
    challenges: list[Action] = field(default_factory=list)
    others: list[Action] = field(default_factory=list)
    more: Counter[str] = field(default_factory=Counter)

    def keep(self, name: str, rows: list[Action], action: Action) -> None:
        """Put an action into a list that has room, else count it."""
        if len(rows) < MAX_ROWS:
            rows.append(action)
        else:
            self.more[name] += 1


def report_of(reader: Reader, log: ActionLog, period: Period, *, warn_rejects: bool, now: float) -> ShiftReport:
    """Return the report of a period, up to ``now``; ``warn_rejects`` says whether a WARN is rejected on this line."""
    report = ShiftReport(period, warn_rejects)
    end = min(period.end, now)
    stops = _Stops(report, period.start, end)
    actions = (action for action in log.actions() if action.time < end)
    events = reader.scan(period.start, end)
    before = True
    moments: Iterator[Action | ScannedEvent] = heapq.merge(_ordered(actions), events, key=lambda one: one.time)
    for moment in moments:
        if before and moment.time >= period.start:
            before = False
            stops.begin()
        if isinstance(moment, Action):
            stops.on_action(moment)
            if not before:
                _sort_action(report, moment)
        else:
            stops.on_event(moment)
            _count(report, moment)
    if before:
        stops.begin()
    stops.end(died=_has_died(reader, log, end))
    for alarm in reader.alarms(period.start, end, MAX_ROWS):
        report.alarms.append(alarm)
    report.more["alarms"] = max(0, reader.alarm_count(period.start, end) - len(report.alarms))
    return report


def _has_died(reader: Reader, log: ActionLog, end: float) -> bool:
    """Whether the run that was there before ``end`` had gone without a word: nothing comes of it before the next one starts."""
    runs = (action for action in log.actions() if action.time >= end and action.kind in ("run started", "run ended"))
    later = next(runs, None)
    return later is not None and later.kind == "run started" and next(reader.scan(end, later.time), None) is None


def _ordered(actions: Iterator[Action]) -> Iterator[Action]:
    """Yield actions in the order of their times as far as that matters: a clock that was set back must not stop the merge."""
    newest = float("-inf")
    for action in actions:
        newest = max(newest, action.time)
        yield action if action.time == newest else replace(action, time=newest)


def _count(report: ShiftReport, event: ScannedEvent) -> None:
    product = event.product or ""
    if product not in report.products and len(report.products) >= MAX_NAMES:
        product = OTHER
    report.cameras[event.camera if event.camera in report.cameras or len(report.cameras) < MAX_NAMES else OTHER] += 1
    for tally in (report.total, report.products.setdefault(product, Tally())):
        tally.verdicts[event.verdict] += 1
        if event.mark is not None:
            passes = event.verdict == "OK" or (event.verdict == "WARN" and not report.warn_rejects)
            tally.marked += 1
            tally.false_rejects += event.mark == "good" and not passes
            tally.misses += event.mark == "bad" and passes
        if event.verdict == "NG":
            branch = (event.reason or "unknown").split(":")[0][:60]
            tally.branches[branch if branch in tally.branches or len(tally.branches) < MAX_NAMES else OTHER] += 1
            cell = _cell(event.peak)
            if cell is not None:
                tally.places[cell] += 1


def _cell(peak: str | None) -> tuple[int, int] | None:
    """Return column and row of the cell in which an event deviates most; None where that was not recorded."""
    try:
        x, y = json.loads(peak or "null")
        return min(max(int(float(x) * CELLS), 0), CELLS - 1), min(max(int(float(y) * CELLS), 0), CELLS - 1)
    except (ValueError, TypeError, OverflowError):
        return None


def _sort_action(report: ShiftReport, action: Action) -> None:
    if action.kind.startswith("challenge"):
        report.keep("challenges", report.challenges, action)
    elif action.kind.startswith(CHANGES):
        report.keep("changes", report.changes, action)
    elif action.kind not in ("mark", "login", "logout"):
        report.keep("others", report.others, action)


class _Stops:
    """Adds up downtime from actions and events in the order of time: pauses, faults by camera, and no run at all."""

    def __init__(self, report: ShiftReport, start: float, end: float) -> None:
        self._report = report
        self._start, self._end = start, end
        self._began = False
        self._paused_at: float | None = None
        self._away_at: float | None = None
        self._faults: dict[str, tuple[float, str, float]] = {}  # by camera: since when, why, last told
        self._seen_at: float | None = None

    def begin(self) -> None:
        """Begin to count: what stands already stands from the start of the period."""
        self._began = True
        self._paused_at = None if self._paused_at is None else self._start
        self._away_at = None if self._away_at is None else self._start

    def on_action(self, action: Action) -> None:
        """Follow pauses and runs."""
        if action.kind == "pause" and self._paused_at is None:
            self._paused_at = action.time
        elif action.kind == "resume" and self._paused_at is not None:
            self._add(PAUSED, self._paused_at, action.time)
            self._paused_at = None
        elif action.kind == "run ended" and self._away_at is None:
            self._close_faults(action.time)
            self._away_at = action.time
        elif action.kind == "run started":
            away = self._away_at if self._away_at is not None else self._seen_at  # a kill leaves no word
            if away is not None:
                self._add(NOT_RUNNING, away, action.time)
            self._close_faults(action.time)
            self._away_at = None
        self._seen_at = action.time if action.kind in ("run started", "pause", "resume") else self._seen_at

    def on_event(self, event: ScannedEvent) -> None:
        """Follow the faults of a camera."""
        self._seen_at = event.time
        cause = _cause(event)
        opened = self._faults.pop(event.camera, None)
        if opened is not None:
            since, known, seen = opened
            silent = event.time - seen > SILENT_S
            if cause == known and not silent:
                self._faults[event.camera] = since, known, event.time
                return
            self._add(known, since, seen if silent else event.time)
        if cause is not None and len(self._faults) < MAX_NAMES:
            self._faults[event.camera] = event.time, cause, event.time

    def end(self, *, died: bool = False) -> None:
        """Count what still stands; a run that has ``died`` is away since its last sign."""
        self._close_faults(self._end)
        if died and self._away_at is None:
            self._away_at = self._seen_at
        if self._paused_at is not None:
            self._add(PAUSED, self._paused_at, self._end)
        if self._away_at is not None:
            self._add(NOT_RUNNING, self._away_at, self._end)

    def _close_faults(self, at: float) -> None:
        for since, cause, seen in self._faults.values():
            self._add(cause, since, min(at, seen + SILENT_S))
        self._faults.clear()

    def _add(self, cause: str, since: float, until: float) -> None:
        since, until = max(since, self._start), min(until, self._end)
        if not self._began or until < since:
            return
        known = self._report.downtime
        entry = known.setdefault(cause if cause in known or len(known) < MAX_NAMES else OTHER, Downtime())
        entry.seconds += until - since
        entry.stops += 1


def _cause(event: ScannedEvent) -> str | None:
    """Return why an event has no verdict; None for one that has, and for what came by in a pause, which counts as that."""
    if event.verdict != "NONE":
        return None
    word = (event.reason or "unknown").split(":")[0][:60]
    if word == PAUSED:
        return None
    return "product change" if word == PRODUCT_CHANGE else word
