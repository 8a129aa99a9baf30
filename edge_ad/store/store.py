"""The store: a thread that commits what the loop hands over, so that the loop never waits for the disk."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from edge_ad.errors import DeviceFault, EdgeAdError
from edge_ad.events import Event
from edge_ad.store.journal import tail
from edge_ad.store.journal_writer import JournalWriter
from edge_ad.store.recovery import is_damage, metadata, open_store, set_metadata
from edge_ad.store.schema import COLUMNS, StoredImage, identity, row_of
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults

_log = logging.getLogger(__name__)

MAX_WAITING = 20_000
RETRY_S = 0.5
CLOSE_S = 1.0

OnCommit = Callable[[list[Event]], None]
WithCommit = Callable[[sqlite3.Connection, list[Event]], None]

_INSERT = f"INSERT OR IGNORE INTO event ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_COUNT = "INSERT INTO counter VALUES (?, ?, ?) ON CONFLICT (camera, name) DO UPDATE SET value = excluded.value"
_SAVE_ALARM = (
    "INSERT INTO latch VALUES (?, ?, ?) "
    "ON CONFLICT (camera) DO UPDATE SET state = excluded.state, changed = excluded.changed"
)
_INSERT_ALARM = "INSERT OR IGNORE INTO alarm (camera, number, time) VALUES (?, ?, ?)"
LIT = ("alarm", "acknowledged", "latched", "held")  # phases of an alarm that was raised
_INSERT_IMAGE = "INSERT OR REPLACE INTO image (path, event, verdict, time, bytes) VALUES (?, ?, ?, ?, ?)"


@dataclass
class _Batch:
    """What goes into one transaction."""

    events: list[Event] = field(default_factory=list)
    counters: dict[str, Mapping[str, int]] = field(default_factory=dict)
    latches: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    images: list[StoredImage] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.events or self.counters or self.latches or self.images)

    def pieces(self) -> Iterator[_Batch]:
        """Yield everything in a batch of its own."""
        yield from (_Batch(events=[event]) for event in self.events)
        yield from (_Batch(counters={camera: counts}) for camera, counts in self.counters.items())
        yield from (_Batch(latches={camera: state}) for camera, state in self.latches.items())
        yield from (_Batch(images=[image]) for image in self.images)

    def remove(self, piece: _Batch) -> None:
        """Take a piece out."""
        self.events = [event for event in self.events if event not in piece.events]
        self.images = [image for image in self.images if image not in piece.images]
        for camera in piece.counters:
            self.counters.pop(camera, None)
        for camera in piece.latches:
            self.latches.pop(camera, None)


class Store:
    """Keeps events, counters and alarms in one SQLite file; see ``open_store`` for what it refuses and what it mends.

    Everything that waits is committed in one transaction, events in the order of ``record``; ``on_commit`` is called
    with the events of each transaction once they are on the disk, in the thread of the store; ``with_commit`` may write
    more into the same transaction (see ``Outbox.add``). With ``evidence``, a folder, every committed event also goes
    into the journal there (see JournalWriter). While the disk refuses, ``fault`` says why, up to 20,000 events wait, and
    beyond that the oldest OK (else the oldest) is dropped and counted. A disk that is full from the start is such a
    fault, not an error. An event that can never be stored is left out, counted and told to ``faults``; so is every other
    exception that nobody foresaw. An index that is damaged or removed while it is in use is replaced as at the start, and
    logged.
    """

    def __init__(
        self,
        path: Path,
        on_commit: OnCommit | None = None,
        with_commit: WithCommit | None = None,
        evidence: Path | None = None,
        *,
        faults: ThreadFaults | None = None,
    ) -> None:
        self.path = path
        self.evidence = evidence
        self._on_commit = [on_commit] if on_commit is not None else []
        self._with_commit = with_commit
        self._faults = faults or ThreadFaults()
        self._changed = threading.Condition()
        self._waiting = _Batch()
        self._under_way = _Batch()  # kept here, so that a thread that is started again goes on with it
        self._closing = False
        self._refused: str | None = None
        self._journal_writer = JournalWriter(evidence) if evidence is not None else None
        self.dropped_of: Counter[str] = Counter()  # by camera
        self.committed = 0
        self.latches: dict[str, dict[str, Any]] = {}
        self.counters: dict[str, dict[str, int]] = {}
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._journalled: int | None = None  # as the index knows it
        try:
            self._remember(self._open())
        except (DeviceFault, sqlite3.Error, OSError) as error:
            self._give_up(error)
            self._remember_from_journal()
        self._last_latches: dict[str, Mapping[str, Any]] = dict(self.latches)
        self._last_counters: dict[str, Mapping[str, int]] = dict(self.counters)
        self._thread = SupervisedThread("store", self._run, self._faults, essential=True, on_fault=self._broke)
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """Why events or the journal cannot be written now, None while they can."""
        return self._refused or (self._journal_writer.fault if self._journal_writer is not None else None)

    @property
    def dropped(self) -> int:
        """Events that were never stored, over all cameras."""
        return sum(self.dropped_of.values())

    @property
    def pending(self) -> bool:
        """Whether an event may still be committed: one waits, or is under way, and the thread works."""
        return self._thread.is_alive() and bool(self._waiting.events or self._under_way.events)

    def listen(self, function: OnCommit) -> None:
        """Have one more function called as ``on_commit``."""
        self._on_commit.append(function)

    def record(self, event: Event, counters: Mapping[str, int] | None = None) -> None:
        """Hand over an event, and the counters of its camera as they stand with it."""
        with self._changed:
            if len(self._waiting.events) >= MAX_WAITING:
                self._drop()
            self._waiting.events.append(event)
            if counters is not None:
                self._waiting.counters[event.camera] = dict(counters)
            self._changed.notify()

    def count(self, camera: str, counters: Mapping[str, int]) -> None:
        """Hand over counters alone."""
        with self._changed:
            self._waiting.counters[camera] = dict(counters)
            self._changed.notify()

    def save_alarm_state(self, camera: str, state: Mapping[str, Any]) -> None:
        """Hand over the state of an alarm; the newest counts."""
        with self._changed:
            self._waiting.latches[camera] = dict(state)
            self._changed.notify()

    def add_image(self, image: StoredImage) -> None:
        """Hand over that an image is on the disk."""
        with self._changed:
            self._waiting.images.append(image)
            self._changed.notify()

    def close(self, wait_s: float = CLOSE_S) -> bool:
        """Commit what waits, for at most ``wait_s`` seconds; False when that was not enough or the disk refused."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)
        return not self._thread.is_alive() and self._refused is None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, self._idle_s())
                if not self._under_way:
                    self._under_way, self._waiting = self._waiting, _Batch()
                batch = self._under_way
                ending = self._closing and not batch
            if batch and not self._commit_until(batch):
                break
            self._under_way = _Batch()
            self._follow()
            if ending:
                break
        self._end()

    def _commit_until(self, batch: _Batch) -> bool:
        """Commit, again and again while the disk refuses; False when the store was closed meanwhile."""
        while not self._commit(batch):
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, RETRY_S) and not self._commit(batch):
                    self.dropped_of.update(row.camera for row in (*batch.events, *self._waiting.events))
                    return False
                if self._closing:
                    return True
        return True

    def _has_work(self) -> bool:
        return bool(self._under_way or self._waiting) or self._closing

    def _commit(self, batch: _Batch) -> bool:
        """Commit once; False when the disk refused. What can never be stored is left out, so that the rest can be."""
        try:
            self._transact(batch, self._write)
        except Exception as error:
            if is_refusal(error):
                self._give_up(error)
                return False
            self._faults.note("store", error)
            self._let_go()
            if not self._commit_apart(batch):
                return False
        self._refused = None
        self.committed += len(batch.events)
        self._last_counters.update(batch.counters)
        self._last_latches.update(batch.latches)
        for listener in self._on_commit if batch.events else ():
            with self._faults.caught("store"):
                listener(batch.events)
        return True

    def _commit_apart(self, batch: _Batch) -> bool:
        try:
            self._transact(batch, self._write_apart)
        except Exception as error:
            if not is_refusal(error):
                raise
            self._give_up(error)
            return False
        return True

    def _transact(self, batch: _Batch, write: Callable[[sqlite3.Connection, _Batch], None]) -> None:
        connection = self._usable()
        connection.execute("BEGIN IMMEDIATE")
        write(connection, batch)
        connection.execute("COMMIT")

    def _write_apart(self, connection: sqlite3.Connection, batch: _Batch) -> None:
        """Write the pieces of a batch one by one; take out and count what cannot be stored at all.

        An event that cannot be put into the outbox is stored without it.
        """
        for piece in list(batch.pieces()):
            if self._fits(connection, piece) or (piece.events and self._fits(connection, piece, with_hook=False)):
                continue
            batch.remove(piece)
            self.dropped_of.update(row.camera for row in piece.events)

    def _fits(self, connection: sqlite3.Connection, piece: _Batch, with_hook: bool = True) -> bool:
        """Write one piece; False, undone and noted, when it cannot be stored."""
        connection.execute("SAVEPOINT piece")
        try:
            self._write(connection, piece, with_hook)
        except Exception as error:
            if is_refusal(error):
                raise
            self._faults.note("store", error)
            connection.execute("ROLLBACK TO piece")
            return False
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE piece")
        return True

    def _write(self, connection: sqlite3.Connection, batch: _Batch, with_hook: bool = True) -> None:
        connection.executemany(_INSERT, [row_of(event) for event in batch.events])
        if self._with_commit is not None and with_hook:
            self._with_commit(connection, batch.events)
        counts = [(camera, name, value) for camera, named in batch.counters.items() for name, value in named.items()]
        connection.executemany(_COUNT, counts)
        now = time.time()
        latches = [(camera, json.dumps(state, separators=(",", ":")), now) for camera, state in batch.latches.items()]
        connection.executemany(_SAVE_ALARM, latches)
        lit = {camera: state.get("number") for camera, state in batch.latches.items() if state.get("phase") in LIT}
        raised = [(camera, number, now) for camera, number in lit.items() if isinstance(number, int)]
        connection.executemany(_INSERT_ALARM, raised)
        connection.executemany(_INSERT_IMAGE, [astuple(image) for image in batch.images])
        self._report_journalled(connection)

    def _broke(self, error: BaseException) -> None:
        """Begin with a fresh connection after an exception that nobody foresaw."""
        self._refused = f"events cannot be stored in {self.path}: the thread of the store ended"
        self._let_go()

    def _give_up(self, error: Exception) -> None:
        """Undo, and begin with a fresh connection next time; with a fresh index where this one is damaged."""
        self._refused = f"events cannot be stored in {self.path}: {error}"
        self._let_go()
        if is_damage(error):
            with contextlib.suppress(EdgeAdError, sqlite3.Error, OSError):  # the next try tells
                self._open(str(error))

    def _usable(self) -> sqlite3.Connection:
        """Return the connection, opened anew where there is none or the file is not the one that was opened."""
        if self._connection is not None and identity(self.path) != self._identity:
            self._let_go()
        return self._connection or self._open()

    def _open(self, damage: str | None = None) -> sqlite3.Connection:
        connection, message = open_store(self.path, self.evidence, damage)
        if message is not None:
            _log.warning("%s", message)
        try:
            self._report_evidence(connection)
        except sqlite3.Error as error:
            connection.close()
            raise DeviceFault(f"the store {self.path} cannot be used: {error}") from error
        self._connection, self._identity = connection, identity(self.path)
        return connection

    def _report_evidence(self, connection: sqlite3.Connection) -> None:
        """Tell the index where its evidence is, and the follower where the journal stands."""
        if self._journal_writer is None or self.evidence is None:
            return
        self._journal_writer.begin(connection)
        self._journalled = None
        folder = os.path.relpath(self.evidence, self.path.parent)
        if metadata(connection, "evidence") != folder:
            set_metadata(connection, "evidence", folder)

    def _report_journalled(self, connection: sqlite3.Connection) -> None:
        if self._journal_writer is not None and self._journal_writer.synced != self._journalled:
            set_metadata(connection, "journalled", str(self._journal_writer.synced))
            self._journalled = self._journal_writer.synced

    def _remember(self, connection: sqlite3.Connection) -> None:
        """Read what the last run left."""
        rows = connection.execute("SELECT camera, state FROM latch")
        self.latches = {camera: json.loads(state) for camera, state in rows}
        for camera, name, value in connection.execute("SELECT camera, name, value FROM counter"):
            self.counters.setdefault(camera, {})[name] = int(value)

    def _remember_from_journal(self) -> None:
        stored = tail(self.evidence) if self.evidence is not None else None
        if stored is not None:
            self.latches, self.counters = stored.latches, stored.counters

    def _idle_s(self) -> float | None:
        """Return how long the thread may sleep when nothing comes."""
        return self._journal_writer.wait_s() if self._journal_writer is not None and self._connection is not None else None

    def _follow(self) -> None:
        if self._journal_writer is None or self._connection is None:
            return
        try:
            self._journal_writer.follow(self._connection, self._last_counters, self._last_latches)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _end(self) -> None:
        if self._journal_writer is not None:
            self._journal_writer.end(self._last_counters, self._last_latches)
            with contextlib.suppress(sqlite3.Error):
                if self._connection is not None:
                    self._report_journalled(self._connection)
        self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()  # undoes an open transaction
            self._connection = None

    def _drop(self) -> None:
        events = self._waiting.events
        index = next((index for index, row in enumerate(events) if row.verdict == "OK"), 0)
        self.dropped_of[events.pop(index).camera] += 1


def is_refusal(error: Exception) -> bool:
    """Whether the disk refuses for now; else something in the batch, or in this program, is wrong."""
    unfit = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, sqlite3.IntegrityError)
    return isinstance(error, (sqlite3.Error, EdgeAdError, OSError)) and not isinstance(error, unfit)
