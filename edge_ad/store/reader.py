"""Reading the record from another thread or process while `edge-ad run` writes it.

What a person says about an event: the part was good, or it was bad.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import LATER, MARKS, Mark
from edge_ad.store.actions import Action, action_log
from edge_ad.store.journal import journalise, mark_line
from edge_ad.store.recovery import metadata
from edge_ad.store.schema import COLUMNS, StoredEvent, connect, fields_of, identity, open_existing
from edge_ad.utils.text import storable

PAGE = 500
MAX_MARK_NAME = 60

_FIELDS = ", ".join(f"event.{name}" for name in COLUMNS)
_COLUMNS = "SELECT name FROM pragma_table_info('event')"
SCAN_PAGE = 5000
_SCAN = (
    "SELECT event.time, event.sequence, event.camera, event.product, event.verdict, event.reason, event.peak, mark.mark FROM event "
    "LEFT JOIN mark ON mark.event = event.id WHERE (event.time, event.sequence) > (?, ?) AND event.time < ? "
    "ORDER BY event.time, event.sequence LIMIT ?"
)
_INSERT_MARK = "INSERT INTO mark (event, mark, by, time, name) VALUES (?, ?, ?, ?, ?)"
_MARK_COLUMNS = "SELECT name FROM pragma_table_info('mark')"
_SELECT = f"SELECT event.sequence, mark.mark, mark.name, {_FIELDS} FROM event LEFT JOIN mark ON mark.event = event.id"


@dataclass(frozen=True)
class EventFilter:
    """Which events are wanted; what is left out does not matter.

    ``verdicts``: any of these. ``since`` <= time < ``until`` in seconds since 1970 UTC. ``mark``: good, bad, or any of
    the two. ``product``: the one that was judged. ``min_score``: at least this score (an event without a score has none).
    """

    camera: str | None = None
    verdicts: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    part: str | None = None
    mark: Mark | Literal["any"] | None = None
    min_score: float | None = None
    product: str | None = None


@dataclass(frozen=True)
class Bucket:
    """How many events of each verdict there were from ``start`` (seconds since 1970 UTC) on, for one bucket's length.
    """

    start: float
    verdicts: dict[str, int]


@dataclass(frozen=True, slots=True)
class ScannedEvent:
    """What a count over many events needs of one; ``peak`` is the JSON of the index."""

    time: float
    sequence: int
    camera: str
    product: str | None
    verdict: str
    reason: str | None
    peak: str | None
    mark: Mark | None


@dataclass(frozen=True)
class Alarm:
    """An alarm: its camera, its number, and when it was raised."""

    camera: str
    number: int
    time: float


class Reader:
    """Reads a store that another thread or process may be writing; never changes it.

    Safe to call from several threads. When the file was replaced (a damaged index is moved aside and made anew), the
    next call reads the new one. BadInput for a file that is not there or is no store; a damaged one may raise BadInput
    from any call.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        with self._lock:
            self._connected()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._forget()

    @property
    def evidence(self) -> Path | None:
        """The folder of images and journal, None where no run has kept one."""
        result = self._all("SELECT value FROM fact WHERE name = 'evidence'")
        return self.path.parent / result[0][0] if result else None  # an absolute path stays what it is

    def events(
        self, wanted: EventFilter | None = None, limit: int = 100, before: int | None = None
    ) -> list[StoredEvent]:
        """Return at most ``limit`` events, newest first; ``before`` is the sequence of the last one already known."""
        conditions, values = _conditions(wanted or EventFilter())
        if before is not None:
            conditions.append("event.sequence < ?")
            values.append(before)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return self._stored(f"{_SELECT}{where} ORDER BY event.sequence DESC LIMIT ?", (*values, limit))

    def every(self, wanted: EventFilter | None = None, limit: int | None = None) -> Iterator[StoredEvent]:
        """Yield all events, newest first, a page at a time, so that memory does not grow with their number."""
        before: int | None = None
        left = limit
        while left is None or left > 0:
            page = self.events(wanted, PAGE if left is None else min(PAGE, left), before)
            yield from page
            if len(page) < PAGE:
                return
            before = page[-1].sequence
            left = None if left is None else left - len(page)

    def scan(self, since: float, until: float) -> Iterator[ScannedEvent]:
        """Yield all events from ``since`` to before ``until``, the oldest first, a page at a time."""
        after, sequence = since, -1
        while True:
            rows = self._all(_SCAN, (after, sequence, until, SCAN_PAGE))
            yield from (ScannedEvent(*row) for row in rows)
            if len(rows) < SCAN_PAGE:
                return
            after, sequence = rows[-1][0], rows[-1][1]

    def alarms(self, since: float, until: float, limit: int) -> list[Alarm]:
        """Return the first alarms that were raised from ``since`` to before ``until``."""
        query = "SELECT camera, number, time FROM alarm WHERE time >= ? AND time < ? ORDER BY time LIMIT ?"
        return [Alarm(*row) for row in self._all(query, (since, until, limit))] if self._has_alarms() else []

    def alarm_count(self, since: float, until: float) -> int:
        """Return how many alarms were raised from ``since`` to before ``until``."""
        query = "SELECT count(*) FROM alarm WHERE time >= ? AND time < ?"
        return int(self._all(query, (since, until))[0][0]) if self._has_alarms() else 0

    def _has_alarms(self) -> bool:
        """Whether the store knows alarms one by one: one that no run has opened since has no such table."""
        return bool(self._all("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alarm'"))

    def event(self, event_id: str) -> StoredEvent | None:
        """Return one event, None when there is none of this id."""
        result = self._stored(f"{_SELECT} WHERE event.id = ?", (event_id,))
        return result[0] if result else None

    def ids(self, beginning: str, limit: int = 10) -> list[str]:
        """Return the ids that begin so, at most ``limit``."""
        values = (beginning, beginning + "\U0010ffff", limit)
        return [result for (result,) in self._all("SELECT id FROM event WHERE id >= ? AND id < ? LIMIT ?", values)]

    def counts(self, bucket_s: float, since: float, until: float) -> list[Bucket]:
        """Return the events of each verdict from ``since`` to before ``until``, in buckets of ``bucket_s`` seconds.

        Buckets start at whole multiples of ``bucket_s`` since 1970 UTC; those without events are left out.
        """
        if bucket_s <= 0:
            raise BadInput(f"bucket_s is {bucket_s:g}: it must be above 0")
        buckets: dict[int, dict[str, int]] = {}
        for number, verdict, count in self._all(
            "SELECT CAST(time / ? AS INTEGER), verdict, count(*) FROM event WHERE time >= ? AND time < ? "
            "GROUP BY 1, 2 ORDER BY 1",
            (bucket_s, since, until),
        ):
            buckets.setdefault(number, {})[verdict] = count
        return [Bucket(float(number * bucket_s), verdicts) for number, verdicts in buckets.items()]

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the counters of every camera over all runs, by name."""
        results: dict[str, dict[str, int]] = {}
        for camera, name, value in self._all("SELECT camera, name, value FROM counter"):
            results.setdefault(camera, {})[name] = int(value)
        return results

    def latches(self) -> dict[str, dict[str, Any]]:
        """Return the state of every camera's alarm."""
        return {camera: json.loads(state) for camera, state in self._all("SELECT camera, state FROM latch")}

    def _stored(self, query: str, values: Sequence[object]) -> list[StoredEvent]:
        with self._lock:
            rows = self._ask(query, values)
            images = self._images([row[3] for row in rows])
        return [_stored_event(row, images.get(row[3], ())) for row in rows]

    def _images(self, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        images: dict[str, tuple[str, ...]] = {}
        for first in range(0, len(ids), PAGE):
            some = ids[first : first + PAGE]
            query = f"SELECT event, path FROM image WHERE event IN ({', '.join('?' * len(some))}) ORDER BY path"
            for event, path in self._ask(query, some):
                images[event] = (*images.get(event, ()), path)
        return images

    def _all(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._ask(query, values)

    def _ask(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            try:
                return _fetched(self._connected(), query, values)
            except sqlite3.OperationalError:
                # A disk that is full or cannot be written has no room for the log's index, which only a writer needs.
                if not self._at_rest():
                    raise
                self._forget()
                with closing(open_existing(self.path, "mode=ro&immutable=1")) as connection:
                    return _fetched(connection, query, values)
        except sqlite3.Error as error:
            self._forget()
            raise BadInput(
                f"the store {self.path} cannot be read: {error}; is it written by this edge-ad? `edge-ad events rebuild` "
                "makes a damaged one anew"
            ) from error

    def _at_rest(self) -> bool:
        """Whether nobody has the store open and all is in its one file."""
        log = self.path.with_name(f"{self.path.name}-wal")
        return not log.exists() or log.stat().st_size == 0

    def _connected(self) -> sqlite3.Connection:
        file_identity = identity(self.path)
        if file_identity is None:
            self._forget()
            raise BadInput(f"there is no store at {self.path}: `edge-ad run --store FILE` makes one, so name its file")
        if self._connection is None or file_identity != self._identity:
            self._forget()
            self._connection = open_existing(self.path, "mode=ro")
            self._identity = file_identity
        return self._connection

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _stored_event(row: tuple[Any, ...], images: tuple[str, ...]) -> StoredEvent:
    """Return the event of a row of ``_SELECT``."""
    shown = tuple(path for path in images if not path.endswith(".png"))
    lossless = next((path for path in images if path.endswith(".png")), None)
    return StoredEvent(
        **fields_of(row[3:]), sequence=row[0], mark=row[1], mark_name=row[2], images=shown, lossless=lossless
    )


def _fetched(connection: sqlite3.Connection, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    """Return the rows; a store that no run has opened since events have some fields is read without them."""
    if any(f"event.{name}" in query for name in LATER):
        there = {name for (name,) in connection.execute(_COLUMNS)}
        for name in LATER:
            if name not in there:
                query = query.replace(f"event.{name}", "NULL")
    if "mark.name" in query and ("name",) not in connection.execute(_MARK_COLUMNS).fetchall():
        query = query.replace("mark.name", "NULL")
    return connection.execute(query, values).fetchall()


def _conditions(wanted: EventFilter) -> tuple[list[str], list[object]]:
    """Return the SQL conditions of a filter and their values."""
    pairs: list[tuple[str, object]] = [
        ("event.camera = ?", wanted.camera),
        ("event.time >= ?", wanted.since),
        ("event.time < ?", wanted.until),
        ("event.part = ?", wanted.part),
        ("event.score >= ?", wanted.min_score),
        ("event.product = ?", wanted.product),
        ("mark.mark = ?", None if wanted.mark == "any" else wanted.mark),
    ]
    conditions = [condition for condition, value in pairs if value is not None]
    values = [value for _, value in pairs if value is not None]
    if wanted.mark == "any":
        conditions.append("mark.mark IS NOT NULL")
    if wanted.verdicts:
        conditions.append(f"event.verdict IN ({', '.join('?' * len(wanted.verdicts))})")
        values += wanted.verdicts
    return conditions, values


def set_mark(
    path: Path, event_id: str, mark: Mark | None, by: str, *, name: str | None = None, origin: str = "command"
) -> None:
    """Mark an event as good or bad, or take its mark away (None), in a short transaction of its own.

    ``by`` says who did, ``origin`` where; both go into the audit trail too. ``name`` is that of the defect of a bad one, at most
    MAX_MARK_NAME characters. Waits up to 5 s for a process that is writing. BadInput for another mark, an unknown event and
    a file that is no store; DeviceFault when the disk refuses.
    """
    if mark is not None and mark not in MARKS:
        raise BadInput(f"the mark is {mark!r}: allowed are {', '.join(MARKS)} and none")
    name = None if not name or mark != "bad" else storable(name, MAX_MARK_NAME).strip() or None
    if not path.exists():
        raise BadInput(f"there is no store at {path}: name the file of `edge-ad run --store`")
    now = time.time()
    connection = connect(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM event WHERE id = ?", (event_id,)).fetchone():
            raise BadInput(f"there is no event {event_id!r} in {path}: `edge-ad events` lists them")
        connection.execute("DELETE FROM mark WHERE event = ?", (event_id,))
        if mark is not None:
            connection.execute(_INSERT_MARK, (event_id, mark, by, now, name))
        reason = f"event {event_id[:8]} {'has no mark any more' if mark is None else f'was {mark}'}"
        action_log(path).append(Action("mark", by, origin, reason, now, {"event": event_id, "mark": mark}))
        evidence = metadata(connection, "evidence")
        if evidence is not None:  # before the commit: a mark that is told as stored is in both places
            journalise(path.parent / evidence, [mark_line(event_id, mark, by, now, name=name)])
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise DeviceFault(f"the mark cannot be stored in {path}: {error}; try again") from error
    finally:
        connection.close()  # an open transaction ends with it, undone
