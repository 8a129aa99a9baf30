"""What goes when there is too much: by days, by gigabytes, and by the space that is left on the disk.

How old the record is, by a wall clock that may be wrong: time counts only where it is seen to pass.

``MaintenanceThread`` keeps to these limits, rebuilds a lost index and takes in stray images.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_ad.config import RecordTable
from edge_ad.errors import BadInput, DeviceFault, EdgeAdError
from edge_ad.store.actions import action_log
from edge_ad.store.journal import day_of, event_line, files, journalise, mark_line, parse
from edge_ad.store.recovery import IMAGES, Rebuilt, damage_of, image_days, insert_day, metadata, rebuild, set_metadata
from edge_ad.store.schema import COLUMNS, connect, event_of, transaction
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults

DAY_S = 86_400.0
CLOCK_SET = 1_577_836_800.0  # 2020: an earlier time is that of a clock which was never set, and tells no age
MAX_STANDSTILL_S = 30 * DAY_S
STEP_S = 3600.0  # by which a clock may be set while a process watches it

_METADATA = "age_clock"


def steady_s() -> float:
    """Return seconds of a clock that nobody sets; on Linux it goes on while the machine sleeps."""
    with contextlib.suppress(AttributeError, OSError):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def record_time(
    connection: sqlite3.Connection, now: float, keep_s: float, elapsed_s: float | None
) -> tuple[float | None, str | None]:
    """Return the time that ages count from, and what a person should know about the clock (None: all is well).

    The record keeps a time of its own (its fact ``age_clock``). It follows the wall clock as far as the time in between
    is accounted for: ``elapsed_s`` by the steady clock since the last call of this process, with an hour for a clock
    that is set; or with None, between two processes, a standstill of a quarter of ``keep_s`` and at most 30 days.
    Beyond that the clock has jumped: then only the time counts that passes while a process runs. None: no age can be
    told.
    """
    if now < CLOCK_SET:
        return None, None
    allowed = min(MAX_STANDSTILL_S, keep_s / 4.0) if elapsed_s is None else elapsed_s + STEP_S
    known = _known(connection)
    if known is None:
        known = _newest(connection, now + DAY_S)
        allowed = min(MAX_STANDSTILL_S, keep_s / 4.0)
    message = None
    if known is None:  # an empty record: nothing can be lost
        known = now
    elif now > known + allowed:
        message = (
            f"the clock is {(now - known) / DAY_S:.0f} days beyond the time of the record: check it; until the record's own "
            "time has passed, nothing is deleted for its age"
        )
        known += elapsed_s or 0.0
    elif now > known or (elapsed_s is not None and known - now > MAX_STANDSTILL_S):  # it had been ahead, and was set right
        known = now
    set_metadata(connection, _METADATA, repr(known))
    return min(now, known), message


def newest_before(connection: sqlite3.Connection, limit: float) -> float | None:
    """Return the time of the newest event that is not later than ``limit``."""
    return _newest(connection, limit)


def _known(connection: sqlite3.Connection) -> float | None:
    with contextlib.suppress(ValueError):
        known = float(metadata(connection, _METADATA) or "nan")
        return known if math.isfinite(known) else None
    return None


def _newest(connection: sqlite3.Connection, limit: float) -> float | None:
    query = "SELECT max(time) FROM event WHERE time >= ? AND time <= ?"
    result = connection.execute(query, (CLOCK_SET, limit)).fetchone()[0]
    return None if result is None else float(result)


GB = 1e9
BATCH = 200
LOSSLESS_BATCH = 1  # each is large

_SELECT_IMAGES = "SELECT path, bytes FROM image WHERE (verdict = 'OK') = ? AND event {} IN (SELECT event FROM mark)"
_LOSSLESS = "path LIKE '%.png' AND event NOT IN (SELECT event FROM mark)"
_FREE = "id NOT IN (SELECT event FROM mark)"


@dataclass
class Swept:
    """What went; ``short`` says what could not be kept to because nothing was left that may go, ``clock`` why no age
    counts.
    """

    images: int = 0
    events: int = 0
    bytes: int = 0
    short: str | None = None
    clock: str | None = None


def sweep(
    path: Path, evidence: Path, limits: RecordTable, *, check: bool = True, elapsed_s: float | None = None
) -> Swept:
    """Delete what the limits do not allow: by age, then by size, then for free space.

    Age counts by ``record_time`` with ``elapsed_s``, and the last day of the record never goes for its age: a clock
    that is wrong must not delete what it took. Images go before events, those of OK before the others, the oldest
    first; for free space images alone. Before all other images the lossless go that are not marked, first those beyond
    ``lossless_gb``. Marked events have no age, and their images go last and by size only. What
    an output has not delivered yet is in the outbox whole, so its event may go: an output that nobody reads any more
    must not fill the disk. Only what the index knows is deleted, and nothing while it is being made anew, is damaged
    as far as 2 s of SQLite's quick check tell (without ``check`` it is not looked at), or cannot be read
    (sqlite3.Error, BadInput, DeviceFault, OSError).
    """
    damage = damage_of(path) if check else None
    if damage is not None:
        raise DeviceFault(f"the index {path} is damaged ({damage}): nothing is deleted; a restart makes it anew")
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")  # what a power cut undoes is done again
        swept = Swept()
        if metadata(connection, "rebuild") is None:
            sweeper = _Sweeper(connection, evidence, swept)
            keep_s = limits.keep_days * DAY_S
            now, swept.clock = record_time(connection, time.time(), keep_s, elapsed_s)
            newest = None if now is None else newest_before(connection, now)
            if now is not None and newest is not None:
                sweeper.by_age(min(now - keep_s, newest - DAY_S))
                action_log(path, evidence).remove_before(min(now - limits.keep_actions_days * DAY_S, newest - DAY_S))
            sweeper.lossless(limits.lossless_gb * GB)
            sweeper.by_size(limits.keep_gb * GB)
            sweeper.for_space(limits.free_gb * GB)
        return swept


class _Sweeper:
    def __init__(self, connection: sqlite3.Connection, evidence: Path, swept: Swept) -> None:
        self._connection = connection
        self._evidence = evidence
        self._swept = swept

    def by_age(self, limit: float) -> None:
        for ok in (1, 0):
            self._images(ok, marked=False, enough=lambda: False, older_than=limit)
        condition = f"{_FREE} AND time < ? AND time >= {CLOCK_SET}"
        while self._events(f"SELECT sequence FROM event WHERE {condition} ORDER BY time LIMIT {BATCH}", (limit,)):
            pass
        for path in files(self._evidence):
            if day_of(CLOCK_SET) <= path.stem < day_of(limit):
                self._journal_day(path, _ids_of(path))

    def by_size(self, limit: float) -> None:
        def enough() -> bool:
            return self._used() <= limit

        if enough():
            return
        self._lossless_images(enough)
        for ok in (1, 0):
            self._images(ok, marked=False, enough=enough)
        for path in reversed(files(self._evidence)[1:]):  # today's stays
            if enough():
                return
            ids = _ids_of(path)
            self._events_of(ids)
            self._journal_day(path, ids)
        for ok in (1, 0):
            self._images(ok, marked=True, enough=enough)
        if not enough():
            self._swept.short = f"the record takes {self._used() / GB:.2f} GB, but {limit / GB:g} GB are allowed"

    def lossless(self, limit: float) -> None:
        """Delete lossless images of events that nobody marked, the oldest first, until they take at most so many bytes."""
        query = f"SELECT coalesce(sum(bytes), 0) FROM image WHERE {_LOSSLESS}"
        self._lossless_images(lambda: self._connection.execute(query).fetchone()[0] <= limit)

    def for_space(self, floor: float) -> None:
        def enough() -> bool:
            return shutil.disk_usage(self._evidence).free >= floor

        if enough():
            return
        self._lossless_images(enough)
        for ok in (1, 0):
            self._images(ok, marked=False, enough=enough)
        if not enough():
            free = shutil.disk_usage(self._evidence).free
            self._swept.short = (
                f"{free / GB:.2f} GB are free for {self._evidence}, but {floor / GB:g} GB must stay free"
            )

    def _lossless_images(self, enough: Callable[[], bool]) -> None:
        query = f"SELECT path, bytes FROM image WHERE {_LOSSLESS} ORDER BY time LIMIT {LOSSLESS_BATCH}"
        while not enough() and (result := self._connection.execute(query).fetchall()):
            self._delete_images(result)

    def _images(self, ok: int, marked: bool, enough: Callable[[], bool], older_than: float | None = None) -> None:
        """Delete images of one rank, the oldest first, until it is enough or none is left."""
        age = "" if older_than is None else f" AND time >= {CLOCK_SET} AND time < {older_than!r}"
        query = f"{_SELECT_IMAGES.format('' if marked else 'NOT')}{age} ORDER BY time LIMIT {BATCH}"
        while not enough():
            result = self._connection.execute(query, (ok,)).fetchall()
            if not result:
                return
            self._delete_images(result)

    def _delete_images(self, results: Sequence[tuple[str, int]]) -> None:
        for name, _ in results:
            # A damaged index must not name a file of somebody else.
            location = PurePosixPath(name)
            if not location.is_absolute() and ".." not in location.parts and location.suffix in IMAGES:
                (self._evidence / location).unlink(missing_ok=True)
                for folder in (self._evidence / location).parents[: len(location.parts) - 1]:
                    with contextlib.suppress(OSError):  # it is not empty
                        folder.rmdir()
        with transaction(self._connection):
            self._connection.executemany("DELETE FROM image WHERE path = ?", [(name,) for name, _ in results])
        self._swept.images += len(results)
        self._swept.bytes += sum(size for _, size in results)

    def _events(self, query: str, values: Sequence[object]) -> int:
        """Delete events and what is left of their images; returns how many."""
        sequences = self._connection.execute(query, values).fetchall()
        of_events = "SELECT path, bytes FROM image WHERE event = (SELECT id FROM event WHERE sequence = ?)"
        for sequence in sequences:
            self._delete_images(self._connection.execute(of_events, sequence).fetchall())
        with transaction(self._connection):
            self._connection.executemany("DELETE FROM event WHERE sequence = ?", sequences)
        self._swept.events += len(sequences)
        return len(sequences)

    def _events_of(self, ids: Sequence[str]) -> None:
        """Delete the events of these ids."""
        for first in range(0, len(ids), BATCH):
            some = ids[first : first + BATCH]
            holders = ", ".join("?" * len(some))
            self._events(f"SELECT sequence FROM event WHERE {_FREE} AND id IN ({holders})", some)

    def _journal_day(self, path: Path, ids: Sequence[str]) -> None:
        """Delete a file of the journal after what the index keeps of its ``ids`` was written into today's."""
        for first in range(0, len(ids), BATCH):
            lines = self._retained_lines(ids[first : first + BATCH])
            if lines:
                journalise(self._evidence, lines)
        self._swept.bytes += path.stat().st_size
        path.unlink()

    def _retained_lines(self, ids: Sequence[str]) -> list[str]:
        holders = ", ".join("?" * len(ids))
        names = ", ".join(COLUMNS)
        rows = self._connection.execute(f"SELECT sequence, {names} FROM event WHERE id IN ({holders})", ids).fetchall()
        marks = self._connection.execute(f"SELECT event, mark, by, time, name FROM mark WHERE event IN ({holders})", ids)
        events = [event_line(row[0], event_of(row[1:])) for row in rows]
        return events + [mark_line(*mark, name=name) for *mark, name in marks.fetchall()]

    def _used(self) -> float:
        """Return the bytes of images, journal and the used pages of the index."""
        names = ("page_count", "freelist_count", "page_size")
        (images,) = self._connection.execute("SELECT coalesce(sum(bytes), 0) FROM image").fetchone()
        pages, free, size = (int(self._connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
        journal = sum(path.stat().st_size for path in files(self._evidence))
        return float(images + journal + (pages - free) * size)


def _ids_of(path: Path) -> list[str]:
    """Return the ids of the events in a file of the journal."""
    with path.open("rb") as stream:
        return [entry.event.id for entry in map(parse, stream) if entry.event is not None]


def evidence_folder(record: RecordTable, store: Path) -> Path:
    """Return the folder of images and journal that belongs to a store."""
    return record.evidence if record.evidence is not None else store.with_suffix(".evidence")


def prepare_evidence(record: RecordTable, store: Path) -> Path:
    """Return the folder, made where there is none; BadInput when it cannot be. A full disk is reported later."""
    folder = evidence_folder(record, store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            reason = error.strerror or error
            raise BadInput(
                f"evidence cannot be kept in {folder}: {reason}; name a folder that can be written with --evidence"
            ) from error
    return folder


_log = logging.getLogger(__name__)

EVERY_S = 60.0
MIN_S = 2.0
CHECK_EVERY_S = 3600.0
CLOSE_S = 1.0
STRAY_DAYS = 2  # a kill can leave images behind that the index does not know yet, or half written ones
HALF_WRITTEN_S = 3600.0


def yield_to_others() -> None:
    """Let the other threads of this process go first, where the system (Linux) knows priorities of threads."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class MaintenanceThread:
    """Looks after a store beside the thread that writes it, once a minute and when it is woken.

    What it cannot do is in ``fault`` and logged once; then nothing is deleted, and it tries again.
    """

    def __init__(self, path: Path, evidence: Path, limits: RecordTable, faults: ThreadFaults | None = None) -> None:
        self._path = path
        self._evidence = evidence
        self._limits = limits
        self._stop = threading.Event()
        self._wake = threading.Event()
        self.fault: str | None = None
        self.rounds = 0
        self._swept_at: float | None = None
        self._checked_at: float | None = time.monotonic()  # the store has just looked
        self._thread = SupervisedThread("keeper", self._run, faults)
        self._thread.start()

    def wake(self) -> None:
        """Ask for a round now: space is short."""
        self._wake.set()

    def close(self) -> None:
        """Stop, at the next step of what is under way."""
        self._stop.set()
        self._wake.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        yield_to_others()
        while not self._stop.is_set():
            self._wake.clear()
            fault: str | None
            try:
                fault = self._round()
            except (sqlite3.Error, OSError, EdgeAdError) as error:
                fault = f"the record cannot be tidied up: {error}"
            if fault is not None and fault != self.fault:
                _log.warning("%s", fault)
            self.fault = fault
            self.rounds += 1
            self._wake.wait(EVERY_S)
            self._stop.wait(MIN_S)

    def _round(self) -> str | None:
        with contextlib.closing(connect(self._path)) as connection:
            incomplete = metadata(connection, "rebuild") is not None
            if not incomplete and self.rounds == 0:
                result = Rebuilt()
                for day in reversed(image_days(self._evidence)[:STRAY_DAYS]):
                    insert_day(connection, self._evidence, day, result, stop=self._stop)
                    _clear(day)
        if incomplete:
            rebuilt = rebuild(self._path, self._evidence, self._stop)
            if not self._stop.is_set():
                _log.info("the index %s is complete again: %s", self._path, rebuilt)
        if self._stop.is_set():
            return None
        # A check reads much: once an hour, and until it is passed.
        check = self._checked_at is None or time.monotonic() - self._checked_at >= CHECK_EVERY_S
        self._checked_at = None if check else self._checked_at
        now, before = steady_s(), self._swept_at
        swept = sweep(self._path, self._evidence, self._limits, check=check, elapsed_s=None if before is None else now - before)
        self._swept_at = now
        self._checked_at = self._checked_at or time.monotonic()
        return swept.short or swept.clock


def _clear(day: Path) -> None:
    """Delete what `atomic_write` had begun when a process was killed."""
    for path in (path for ending in IMAGES for path in day.rglob(f".*{ending}.*")):
        if time.time() - path.stat().st_mtime > HALF_WRITTEN_S:
            path.unlink(missing_ok=True)
