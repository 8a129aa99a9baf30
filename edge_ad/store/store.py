"""The store: a thread that commits what the loop hands over, so that the loop never waits for the disk."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from edge_ad.errors import DeviceFault, EdgeAdError
from edge_ad.store.follower import Follower
from edge_ad.store.journal import tail
from edge_ad.store.recovery import fact, is_damage, open_store, set_fact
from edge_ad.store.rows import COLUMNS, EventRow, Picture
from edge_ad.store.schema import identity

MOST_WAITING = 20_000
RETRY_S = 0.5
CLOSE_S = 1.0

OnCommit = Callable[[list[EventRow]], None]
WithCommit = Callable[[sqlite3.Connection, list[EventRow]], None]

_INSERT = f"INSERT OR IGNORE INTO event ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_COUNT = "INSERT INTO counter VALUES (?, ?, ?) ON CONFLICT (camera, name) DO UPDATE SET value = excluded.value"
_LATCH = (
    "INSERT INTO latch VALUES (?, ?, ?) "
    "ON CONFLICT (camera) DO UPDATE SET state = excluded.state, changed = excluded.changed"
)
_PICTURE = "INSERT OR REPLACE INTO image (path, event, verdict, time, bytes) VALUES (?, ?, ?, ?, ?)"


@dataclass
class _Batch:
    """What goes into one transaction."""

    events: list[EventRow] = field(default_factory=list)
    counters: dict[str, Mapping[str, int]] = field(default_factory=dict)
    latches: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.events or self.counters or self.latches or self.pictures)


class Store:
    """Keeps events, counters and alarms in one SQLite file; see ``open_store`` for what it refuses and what it mends.

    Everything that waits is committed in one transaction, events in the order of ``record``; ``on_commit`` is called
    with the events of each transaction once they are on the disk, in the thread of the store; ``with_commit`` may write
    more into the same transaction (see ``Outbox.add``). With ``evidence``, a folder, every committed event also goes
    into the journal there (see Follower). While the disk refuses, ``fault`` says why, up to 20,000 events wait, and
    beyond that the oldest OK (else the oldest) is dropped and counted. A disk that is full from the start is such a
    fault, not an error. An index that is damaged or removed while it is in use is replaced as at the start, said on
    stderr.
    """

    def __init__(
        self,
        path: Path,
        on_commit: OnCommit | None = None,
        with_commit: WithCommit | None = None,
        evidence: Path | None = None,
    ) -> None:
        self.path = path
        self.evidence = evidence
        self._on_commit = [on_commit] if on_commit is not None else []
        self._with_commit = with_commit
        self._changed = threading.Condition()
        self._waiting = _Batch()
        self._closing = False
        self._refused: str | None = None
        self._follower = Follower(evidence) if evidence is not None else None
        self.dropped_of: Counter[str] = Counter()  # by camera
        self.committed = 0
        self.latches: dict[str, dict[str, Any]] = {}
        self.counters: dict[str, dict[str, int]] = {}
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._journalled: int | None = None  # as the index knows it
        try:
            self._remember(self._open())
        except (DeviceFault, sqlite3.Error) as error:
            self._give_up(error)
            self._remember_from_journal()
        self._last_latches: dict[str, Mapping[str, Any]] = dict(self.latches)
        self._last_counters: dict[str, Mapping[str, int]] = dict(self.counters)
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """Why events or the journal cannot be written now, None while they can."""
        return self._refused or (self._follower.fault if self._follower is not None else None)

    @property
    def dropped(self) -> int:
        """Events that were never stored, over all cameras."""
        return sum(self.dropped_of.values())

    def listen(self, function: OnCommit) -> None:
        """Have one more function called as ``on_commit``."""
        self._on_commit.append(function)

    def record(self, row: EventRow, counters: Mapping[str, int] | None = None) -> None:
        """Hand over an event, and the counters of its camera as they stand with it."""
        with self._changed:
            if len(self._waiting.events) >= MOST_WAITING:
                self._drop()
            self._waiting.events.append(row)
            if counters is not None:
                self._waiting.counters[row.camera] = dict(counters)
            self._changed.notify()

    def count(self, camera: str, counters: Mapping[str, int]) -> None:
        """Hand over counters alone."""
        with self._changed:
            self._waiting.counters[camera] = dict(counters)
            self._changed.notify()

    def save_latch(self, camera: str, state: Mapping[str, Any]) -> None:
        """Hand over the state of an alarm; the newest counts."""
        with self._changed:
            self._waiting.latches[camera] = dict(state)
            self._changed.notify()

    def add_picture(self, picture: Picture) -> None:
        """Hand over that a picture is on the disk."""
        with self._changed:
            self._waiting.pictures.append(picture)
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
                self._changed.wait_for(lambda: bool(self._waiting) or self._closing, self._idle_s())
                batch, self._waiting = self._waiting, _Batch()
                ending = self._closing and not batch
            if batch and not self._commit_until(batch):
                break
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

    def _commit(self, batch: _Batch) -> bool:
        try:
            connection = self._usable()
            connection.execute("BEGIN IMMEDIATE")
            self._write(connection, batch)
            connection.execute("COMMIT")
        except (sqlite3.Error, EdgeAdError) as error:
            self._give_up(error)
            return False
        self._refused = None
        self.committed += len(batch.events)
        self._last_counters.update(batch.counters)
        self._last_latches.update(batch.latches)
        for told in self._on_commit if batch.events else ():
            told(batch.events)
        return True

    def _write(self, connection: sqlite3.Connection, batch: _Batch) -> None:
        connection.executemany(_INSERT, [row.values() for row in batch.events])
        if self._with_commit is not None:
            self._with_commit(connection, batch.events)
        counts = [(camera, name, value) for camera, named in batch.counters.items() for name, value in named.items()]
        connection.executemany(_COUNT, counts)
        now = time.time()
        latches = [(camera, json.dumps(state, separators=(",", ":")), now) for camera, state in batch.latches.items()]
        connection.executemany(_LATCH, latches)
        connection.executemany(_PICTURE, [astuple(picture) for picture in batch.pictures])
        self._tell_journalled(connection)

    def _give_up(self, error: Exception) -> None:
        """Undo, and begin with a fresh connection next time; with a fresh index where this one is damaged."""
        self._refused = f"events cannot be stored in {self.path}: {error}"
        self._let_go()
        if is_damage(error):
            with contextlib.suppress(EdgeAdError, sqlite3.Error):  # the next try tells
                self._open(str(error))

    def _usable(self) -> sqlite3.Connection:
        """Return the connection, opened anew where there is none or the file is not the one that was opened."""
        if self._connection is not None and identity(self.path) != self._identity:
            self._let_go()
        return self._connection or self._open()

    def _open(self, damage: str | None = None) -> sqlite3.Connection:
        connection, told = open_store(self.path, self.evidence, damage)
        if told is not None:
            print(told, file=sys.stderr)
        try:
            self._tell_evidence(connection)
        except sqlite3.Error as error:
            connection.close()
            raise DeviceFault(f"the store {self.path} cannot be used: {error}") from error
        self._connection, self._identity = connection, identity(self.path)
        return connection

    def _tell_evidence(self, connection: sqlite3.Connection) -> None:
        """Tell the index where its evidence is, and the follower where the journal stands."""
        if self._follower is None or self.evidence is None:
            return
        self._follower.begin(connection)
        self._journalled = None
        folder = os.path.relpath(self.evidence, self.path.parent)
        if fact(connection, "evidence") != folder:
            set_fact(connection, "evidence", folder)

    def _tell_journalled(self, connection: sqlite3.Connection) -> None:
        if self._follower is not None and self._follower.synced != self._journalled:
            set_fact(connection, "journalled", str(self._follower.synced))
            self._journalled = self._follower.synced

    def _remember(self, connection: sqlite3.Connection) -> None:
        """Read what the last run left."""
        rows = connection.execute("SELECT camera, state FROM latch")
        self.latches = {camera: json.loads(state) for camera, state in rows}
        for camera, name, value in connection.execute("SELECT camera, name, value FROM counter"):
            self.counters.setdefault(camera, {})[name] = int(value)

    def _remember_from_journal(self) -> None:
        kept = tail(self.evidence) if self.evidence is not None else None
        if kept is not None:
            self.latches, self.counters = kept.latches, kept.counters

    def _idle_s(self) -> float | None:
        """Return how long the thread may sleep when nothing comes."""
        return self._follower.wait_s() if self._follower is not None and self._connection is not None else None

    def _follow(self) -> None:
        if self._follower is None or self._connection is None:
            return
        try:
            self._follower.follow(self._connection, self._last_counters, self._last_latches)
        except sqlite3.Error as error:
            self._give_up(error)

    def _end(self) -> None:
        if self._follower is not None:
            self._follower.end(self._last_counters, self._last_latches)
            with contextlib.suppress(sqlite3.Error):
                if self._connection is not None:
                    self._tell_journalled(self._connection)
        self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()  # undoes an open transaction
            self._connection = None

    def _drop(self) -> None:
        events = self._waiting.events
        place = next((place for place, row in enumerate(events) if row.verdict == "OK"), 0)
        self.dropped_of[events.pop(place).camera] += 1
