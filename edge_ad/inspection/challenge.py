"""A challenge: the station is shown its own known good and known bad parts, and nothing passes once one has failed.

When it asks, what is right, what locks and what ends that; the record of each is signed (edge_ad/store/challenges.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.inspection.alarm import rejects
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.pause import PAUSED
from edge_ad.inspection.requests import Request
from edge_ad.store.actions import Action, ActionLog
from edge_ad.store.challenges import ENDED, FAILED, OVERRIDDEN, STARTED, UNRECORDED, ChallengeRecords, newest_logged
from edge_ad.tables import AlarmTable, ChallengeTable
from edge_ad.utils.files import sha256_bytes

if TYPE_CHECKING:
    from edge_ad.inspection.judge import InspectionResult
    from edge_ad.inspection.products import Product

_log = logging.getLogger(__name__)

LARGEST_SIDE = 480
SHOWN_S = 2.0  # so long a reject may take until a PLC has it, where no limit is set
Kind = Literal["good", "bad"]
DUE = "challenge due"
ADVICE = "repeat it by `edge-ad challenge start`, or `edge-ad challenge override --reason ... --by NAME`"


@dataclass
class _Part:
    """One known part that was shown: what the station made of it."""

    asked: Kind
    result: InspectionResult
    sent_at: float
    began_at: float
    why: str = ""  # it is wrong
    reject_ms: float | None = None
    image: bytes | None = None
    waits: bool = False  # for a PLC to take the reject

    def record(self, number: int) -> dict[str, Any]:
        event = self.result.event
        name = f"{number:02}-{self.asked}.jpg" if self.image else None
        return {
            "asked": self.asked, "part": event.part, "event": event.id, "camera": event.camera, "time": event.time,
            "verdict": event.verdict, "score": event.score, "reason": event.reason, "right": not self.why, "why": self.why,
            "reject_ms": self.reject_ms, "image": name, "image_sha256": sha256_bytes(self.image) if self.image else None,
        }  # fmt: skip


@dataclass
class _Open:
    by: str
    opened: float
    parts: list[_Part] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Station:
    """What a challenge needs of its run: settings, the log and the records with their key, and what judges.

    ``show`` brings out (open, locked); ``measures`` tells whether an output reports when a PLC has a verdict.
    """

    table: ChallengeTable
    rule: AlarmTable
    log: ActionLog
    folder: Path
    key: bytes
    bundle: Mapping[str, str]
    show: Callable[[bool, bool], None] = lambda opened, locked: None
    measures: bool = False
    wall: Callable[[], float] = time.time


class Challenge(Observer):
    """The challenges of one station. ``take`` and ``on_tick`` belong to the loop; the rest is safe from any thread."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._records = ChallengeRecords(station.folder)
        self._lock = threading.RLock()
        self._open: _Open | None = None
        self._last: Action | None = None
        self._failed: dict[object, Action] = {}  # by the hash of the bundle that failed last, until it passes or is overridden
        self._dues: list[tuple[float, object]] = []  # since when, and by which bundle: read once, for the loop asks at each change
        for action in station.log.actions():
            self._follow(action)
        self._began = self._due_before() or station.wall()
        self._shown: tuple[bool, bool] | None = None
        self._next_look = 0.0
        self._due = self._why_due(station.wall())
        started = station.log.last((STARTED, *ENDED))
        record = self._records.newest(station.key)
        if started is not None and self._failed_unlogged(started, record):
            bundle = {"bundle_sha256": record.get("bundle_sha256")} if record else {}
            self._follow(replace(started, kind=FAILED, reason=str(record["reason"]) if record else "", details=bundle))
        elif started is not None and started.kind == STARTED and self.asks:  # a kill took what was shown of it
            self._open = _Open(started.by, started.time)
            _log.warning("a challenge was open when the run ended: it begins with its first part again")
        self._keep_due()
        self._show()
        if self.reason() is not None:
            _log.warning("nothing passes: %s", self.reason())

    @property
    def locks(self) -> bool:
        """Whether nothing may pass, now or once a product is chosen whose last challenge failed."""
        return self.reason() is not None or bool(self._failed)

    @property
    def asks(self) -> bool:
        """Whether known parts can be asked for; else there is only a lock of before."""
        return self._station.table.good > 0

    def _due_before(self) -> float | None:
        """Return since when the challenge of this bundle is due by the log, None where it says nothing of that."""
        ended = 0.0 if self._last is None else self._last.time
        own = self._station.bundle["bundle_sha256"]
        return next((at for at, sha256 in self._dues if at >= ended and (self._last is None or sha256 == own)), None)

    def _follow(self, action: Action) -> None:
        """Take in what the log has, or gets."""
        sha256 = action.details.get("bundle_sha256")
        if action.kind == DUE:
            self._dues.append((action.time, sha256))
        elif action.kind in ENDED:
            self._last = action
            self._dues = [one for one in self._dues if one[0] >= action.time]
            _follow_failures(self._failed, action)

    def _keep_due(self) -> None:
        """Write down since when a challenge is due that no other action tells, so that a restart does not put it off."""
        if self._due is not None and self._due[0] == self._began and self._due_before() is None:
            details = {"bundle_sha256": self._station.bundle["bundle_sha256"]}
            due = Action(DUE, "station", "station", self._due[1], self._began, details)
            if self._station.log.keep(due):
                self._follow(due)

    def _failed_unlogged(self, started: Action, record: Mapping[str, Any] | None) -> bool:
        """Whether what was started has failed by its record, and the log could not take that."""
        if record is None or (record["result"], record["opened"]) != ("failed", started.time):
            return False
        return self._last is None or self._last.time < record["closed"]

    def reason(self) -> str | None:
        """Return why nothing may pass, None where a challenge forbids nothing."""
        last, own = self._last, self._failed.get(self._station.bundle["bundle_sha256"])  # another product that passed ends no lock
        failed = last if last is not None and last.kind == FAILED else own
        if failed is not None:
            return f"the challenge failed ({failed.reason}): {ADVICE}"
        due = self._due
        late = due is not None and self._station.wall() - due[0] > 60.0 * self._station.table.grace_min
        if due is not None and late and self._station.table.overdue == "lock":
            return f"a challenge is overdue ({due[1]}): {ADVICE.replace('repeat it', 'start it')}"
        return None

    def start(self, request: Request) -> str:
        """Open a challenge; BadInput where one is open or nobody is named."""
        if not request.by:
            raise BadInput("who shows the parts? Give a name by --by NAME")
        if not self.asks:
            raise BadInput("edge-ad.toml has no [challenge] any more: put it back and start the run again, or override")
        with self._lock:
            if self._open is not None:
                raise BadInput(f"a challenge is open already: {self._asks()}")
            action = Action(
                STARTED, request.by, request.origin, request.value("reason"), self._station.wall()
            )
            if not self._station.log.keep(action):  # a kill would leave nothing of it, whatever it shows
                raise DeviceFault(f"the challenge cannot be stored in {self._station.log.path}: free some space, then start it")
            self._open = _Open(request.by, action.time)
            self._show()
            return f"the challenge is open: {self._asks()}"

    def override(self, request: Request) -> str:
        """End the lock without a passed challenge; BadInput without a lock, a name or a reason, DeviceFault without a record.
        """
        if not request.by or not request.value("reason"):
            raise BadInput("an override needs a reason and a name: --reason 'why the line may go on' --by NAME")
        if request.origin == "plc":
            raise BadInput("a PLC cannot override a challenge: a person does")
        with self._lock:
            locked = self.reason()
            if locked is None:
                raise BadInput("nothing is locked by a challenge: nothing to override")
            if self._open is not None:
                raise BadInput(f"a challenge is open: {self._asks()}")
            number = self._next_number()
            record = self._record("overridden", request.by, self._station.wall(), reason=request.value("reason"))
            if not self._write({**record, "origin": request.origin, "locked": locked}, [], number):
                raise DeviceFault(f"the override cannot be recorded in {self._records.folder}, so nothing passes: free some space")
            self._end(OVERRIDDEN, request.by, request.origin, request.value("reason"), number=number)
            return f"the line may pass again, overridden by {request.by}: {request.value('reason')}"

    def take(self, result: InspectionResult, sent_at: float) -> None:
        """Take in a verdict that went out at monotonic second ``sent_at``; the first wrong one ends the challenge, and locks."""
        event = result.event
        if self._open is None or event.part is None or (event.reason or "").startswith(PAUSED):
            return
        if event.verdict == "NONE" and not self._station.table.good_ids:
            return  # perhaps no part at all, but a camera at fault; a part without a verdict is missing at the end
        with self._lock:
            kind = self._asked_kind(event.part)
            if self._open is None or kind is None:
                return
            latency_s = (event.latency_ms or 0.0) / 1000.0
            part = _Part(kind, result, sent_at, sent_at - latency_s if result.called_at is None else result.called_at)
            rejected = rejects(self._station.rule, event.verdict)
            if event.verdict == "NONE":
                part.why = f"no verdict: {event.reason}"
            elif rejected != (kind == "bad"):
                part.why = f"a known {kind} part is {event.verdict}"
            part.waits = rejected and kind == "bad" and self._station.measures
            part.image = _jpeg(result)
            self._open.parts.append(part)
            if part.why:
                self._close(self._open)

    def shown(self, sent_at: float, at: float) -> None:
        """An output has what was sent at ``sent_at``, since monotonic second ``at``."""
        with self._lock:
            for part in self._open.parts if self._open is not None else ():
                if part.sent_at == sent_at and part.reject_ms is None:
                    part.reject_ms, part.waits = round(1000.0 * (at - part.began_at), 1), False
            self._next_look = 0.0

    def on_product(self, product: Product) -> None:
        """Go by bundle and alarm rule of another product; an open challenge was about the one before, and fails."""
        with self._lock:
            bundle = product.judged_by
            changed = bundle["bundle_sha256"] != self._station.bundle["bundle_sha256"]
            by_part = any(table.match is not None for table in product.settings.product.values())  # as each part names its own
            if self._open is not None and (changed or not by_part):  # one bundle may judge other regions, by other thresholds
                self._close(self._open, "the product was changed")
            self._station = replace(self._station, bundle=bundle, rule=product.settings.alarm)
            if self._last is not None:  # where none has passed yet no change puts it off
                self._began = self._due_before() or self._station.wall()
            self._due = self._why_due(self._station.wall())
            self._keep_due()

    def on_tick(self) -> None:
        """Close a challenge whose parts are all there or whose time is over, and look whether one is due."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + 0.1
        with self._lock:
            wall = self._station.wall()
            self._due = self._why_due(wall)
            opened = self._open
            if opened is not None:
                late = wall - opened.opened > 60.0 * self._station.table.timeout_min
                self._judge_times(opened, now)
                if self._complete(opened) or any(part.why for part in opened.parts):
                    self._close(opened)
                elif late:
                    self._close(opened, f"not all parts came within {self._station.table.timeout_min:g} min")
            self._show()

    def to_json(self) -> dict[str, Any]:
        """Return how it stands, for a page."""
        with self._lock:
            opened = self._open
            parts = [] if opened is None else [part.record(number) for number, part in enumerate(opened.parts, 1)]
            return {
                "due": None if self._due is None else {"since": self._due[0], "why": self._due[1]},
                "open": None
                if opened is None
                else {"by": opened.by, "since": opened.opened, "asks": self._asks(), "parts": parts},
                "locked": self.reason(),
                "last": None
                if self._last is None
                else {"kind": self._last.kind, "by": self._last.by, "at": self._last.time},
            }

    def _asked_kind(self, part: str) -> Kind | None:
        """Return what a part is known as; None for one that the challenge does not ask for, or has seen."""
        table, opened = self._station.table, self._open
        assert opened is not None
        if table.good_ids:
            if any(one.result.event.part == part for one in opened.parts):
                return None
            return "good" if part in table.good_ids else "bad" if part in table.bad_ids else None
        if len(opened.parts) >= table.good + table.bad:
            return None
        return "good" if len(opened.parts) < table.good else "bad"

    def _asks(self) -> str:
        """Return what is to be shown next."""
        table, opened = self._station.table, self._open
        assert opened is not None
        if table.good_ids:
            seen = {part.result.event.part for part in opened.parts}
            left = [name for name in (*table.good_ids, *table.bad_ids) if name not in seen]
            return f"show parts {', '.join(left)} in any order" if left else "all parts were shown"
        count = len(opened.parts)
        if count < table.good:
            return f"show known good part {count + 1} of {table.good}"
        bad = count - table.good
        return f"show known bad part {bad + 1} of {table.bad}" if bad < table.bad else "all parts were shown"

    def _complete(self, opened: _Open) -> bool:
        """Whether all parts are there, and outputs have taken the rejects."""
        table = self._station.table
        return len(opened.parts) >= table.good + table.bad and not any(part.waits for part in opened.parts)

    def _judge_times(self, opened: _Open, now: float) -> None:
        """Find wrong what rejects no output has taken by now, or too late."""
        limit = self._station.table.max_reject_ms
        limit_s = SHOWN_S if limit is None else limit / 1000.0
        for part in opened.parts:
            if part.asked != "bad" or part.why:
                continue
            if part.waits and now - part.began_at > limit_s:
                part.why = "no output has taken the reject in time"
            elif limit is not None and part.reject_ms is not None and part.reject_ms > limit:
                part.why = f"the output has the reject after {part.reject_ms:.0f} ms; {limit:g} are allowed"

    def _close(self, opened: _Open, why: str = "") -> None:
        """Judge what was shown, sign the record, and lock where anything is wrong."""
        wrong = [part for part in opened.parts if part.why]
        why = "; ".join(filter(None, (why, *(part.why for part in wrong))))
        result = "failed" if why else "passed"
        record = self._record(result, opened.by, opened.opened, reason=why)
        parts = [part.record(number) for number, part in enumerate(opened.parts, 1)]
        images = [(str(one["image"]), part.image) for one, part in zip(parts, opened.parts, strict=True) if part.image]
        number = self._next_number()
        if why:  # the lock first: a kill in between must not leave the record alone
            self._end(f"challenge {result}", opened.by, "station", why, number=number)
        stored = self._write({**record, "parts": parts}, images, number)
        if not why:
            result, why = ("passed", "") if stored else ("failed", "its record cannot be stored")
            self._end(f"challenge {result}", opened.by, "station", why, number=number)
        (_log.warning if why else _log.info)("challenge %s%s", result, f": {why}" if why else "")

    def _record(self, result: str, by: str, opened: float, *, reason: str) -> dict[str, Any]:
        return {
            "result": result,
            "by": by,
            "opened": opened,
            "closed": self._station.wall(),
            "reason": reason,
            **self._station.bundle,
        }

    def _next_number(self) -> int:
        """Return the number of the next record: above those that the log names too, so that one taken away leaves a gap."""
        try:
            logged = newest_logged(self._station.log.actions())
        except BadInput:  # it cannot be read now, which must not end the loop
            logged = 0
        return max(self._records.next_number(), logged + 1)

    def _write(self, record: Mapping[str, Any], images: Sequence[tuple[str, bytes]], number: int) -> bool:
        log = self._station.log
        try:
            head = log.head()
            audit = None if head is None else str(head)
            path = self._records.append({**record, "audit": audit}, images, self._station.key, number=number)
        except (OSError, BadInput) as error:
            _log.error("the record of a challenge cannot be stored in %s: %s", self._records.folder, error)
            log.keep(Action(UNRECORDED, str(record["by"]), "station", str(error), self._station.wall(), {"record": number}))
            return False
        _log.info("the record of the challenge is %s", path)
        return True

    def _end(self, kind: str, by: str, origin: str, reason: str, *, number: int) -> None:
        details = {"bundle_sha256": self._station.bundle["bundle_sha256"], "record": number}
        action = Action(kind, by, origin, reason, self._station.wall(), details)
        self._station.log.keep(action)
        self._open = None
        self._follow(action)
        self._due = self._why_due(self._station.wall())
        self._show()

    def _show(self) -> None:
        now = (self._open is not None, self.reason() is not None)
        if now != self._shown:
            self._shown = now
            self._station.show(*now)

    def _why_due(self, now: float) -> tuple[float, str] | None:
        """Return since when a challenge is due, and why; None while none is."""
        table, last = self._station.table, self._last
        if not (table.every or table.shifts or table.changeover):
            return None
        if last is None:
            return self._began, "none has passed yet"
        if last.kind == FAILED:
            return last.time, "the last one failed"
        if table.every is not None and now - last.time >= 3600.0 * table.every:
            return last.time + 3600.0 * table.every, f"every {table.every:g} h"
        begun = max((_last_time(text, now) for text in table.shifts), default=0.0)
        if begun > last.time:
            return begun, f"shift of {datetime.fromtimestamp(begun):%H:%M}"
        if table.changeover and last.details.get("bundle_sha256") != self._station.bundle["bundle_sha256"]:
            return self._began, "changeover: another bundle"
        return None


def _follow_failures(failed: dict[object, Action], action: Action) -> None:
    """Bring up to date which bundle's last challenge ``failed``, by the hash of the bundle."""
    sha256 = action.details.get("bundle_sha256")
    failed.pop(sha256, None)
    if action.kind == FAILED:
        failed[sha256] = action
    elif action.kind == OVERRIDDEN:  # a person has looked, and lets all of the line go on
        failed.clear()


def is_unsettled(actions: Iterable[Action]) -> bool:
    """Whether a challenge is open or has failed by the log, and neither passed since nor was overridden."""
    failed: dict[object, Action] = {}
    last = ""
    for action in actions:
        if action.kind in ENDED:
            _follow_failures(failed, action)
        last = action.kind if action.kind in (STARTED, *ENDED) else last
    return bool(failed) or last == STARTED


def _last_time(text: str, now: float) -> float:
    """Return when a local time of day was last, in seconds since 1970 UTC."""
    hour, minute = map(int, text.split(":"))
    moment = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (moment if moment.timestamp() <= now else moment - timedelta(days=1)).timestamp()


def _jpeg(result: InspectionResult) -> bytes | None:
    """Return a small image of a part; None where it cannot be had, which must not end the loop."""
    import cv2

    image = result.image
    if image is None:
        return None
    factor = LARGEST_SIDE / max(image.shape[:2])
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1.0 else image
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(data) if done else None
