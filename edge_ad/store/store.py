"""The store: a thread that commits what the loop hands over, so that the loop never waits for the disk."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_ad.store.rows import COLUMNS, EventRow
from edge_ad.store.schema import connect

MOST_WAITING = 20_000
RETRY_S = 0.5
CLOSE_S = 1.0

OnCommit = Callable[[list[EventRow]], None]

_INSERT = f"INSERT OR IGNORE INTO event ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_COUNT = "INSERT INTO counter VALUES (?, ?, ?) ON CONFLICT (camera, name) DO UPDATE SET value = excluded.value"
_LATCH = (
    "INSERT INTO latch VALUES (?, ?, ?) "
    "ON CONFLICT (camera) DO UPDATE SET state = excluded.state, changed = excluded.changed"
)


class Store:
    """Keeps events, counters and alarms in one SQLite file; see ``connect`` for what it refuses.

    Everything that waits is committed in one transaction, events in the order of ``record``; ``on_commit`` is called
    with the events of each transaction once they are on the disk, in the thread of the store. While the disk refuses,
    ``fault`` says why, up to 20,000 events wait, and beyond that the oldest OK (else the oldest) is dropped and counted.
    """

    def __init__(self, path: Path, on_commit: OnCommit | None = None) -> None:
        self._connection = connect(path)
        self._on_commit = on_commit
        self._changed = threading.Condition()
        self._events: list[EventRow] = []
        self._counters: dict[str, Mapping[str, int]] = {}
        self._latches: dict[str, str] = {}
        self._closing = False
        self.path = path
        self.fault: str | None = None
        self.dropped = 0
        self.committed = 0
        self.latches = self._read_latches()
        self.counters = self._read_counters()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def record(self, row: EventRow, counters: Mapping[str, int] | None = None) -> None:
        """Hand over an event, and the counters of its camera as they stand with it."""
        with self._changed:
            if len(self._events) >= MOST_WAITING:
                self._drop()
            self._events.append(row)
            if counters is not None:
                self._counters[row.camera] = dict(counters)
            self._changed.notify()

    def count(self, camera: str, counters: Mapping[str, int]) -> None:
        """Hand over counters alone."""
        with self._changed:
            self._counters[camera] = dict(counters)
            self._changed.notify()

    def save_latch(self, camera: str, state: Mapping[str, Any]) -> None:
        """Hand over the state of an alarm; the newest counts."""
        with self._changed:
            self._latches[camera] = json.dumps(state, separators=(",", ":"))
            self._changed.notify()

    def close(self, wait_s: float = CLOSE_S) -> bool:
        """Commit what waits, for at most ``wait_s`` seconds; False when that was not enough."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting() or self._closing)
                if not self._waiting():
                    break
                events, self._events = self._events, []
                counters, self._counters = self._counters, {}
                latches, self._latches = self._latches, {}
            while not self._commit(events, counters, latches):
                with self._changed:
                    if self._closing:  # the disk had its chance
                        self.dropped += len(events)
                        self._connection.close()
                        return
                    self._changed.wait(RETRY_S)
        self._connection.close()

    def _waiting(self) -> bool:
        return bool(self._events or self._counters or self._latches)

    def _commit(
        self, events: list[EventRow], counters: Mapping[str, Mapping[str, int]], latches: Mapping[str, str]
    ) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, [row.values() for row in events])
            self._connection.executemany(
                _COUNT, [(camera, name, value) for camera, named in counters.items() for name, value in named.items()]
            )
            now = time.time()
            self._connection.executemany(_LATCH, [(camera, state, now) for camera, state in latches.items()])
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.fault = f"events cannot be stored in {self.path}: {error}"
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return False
        self.fault = None
        self.committed += len(events)
        if events and self._on_commit is not None:
            self._on_commit(events)
        return True

    def _drop(self) -> None:
        place = next((place for place, row in enumerate(self._events) if row.verdict == "OK"), 0)
        del self._events[place]
        self.dropped += 1

    def _read_latches(self) -> dict[str, dict[str, Any]]:
        rows = self._connection.execute("SELECT camera, state FROM latch").fetchall()
        return {camera: json.loads(state) for camera, state in rows}

    def _read_counters(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for camera, name, value in self._connection.execute("SELECT camera, name, value FROM counter"):
            found.setdefault(camera, {})[name] = int(value)
        return found
