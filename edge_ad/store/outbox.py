"""The outbox: what still has to reach an output, in the same file and the same transaction as the events.

A transactional outbox: an event and its letters are committed together, a letter goes when its receiver has confirmed
it. So a kill, a power cut or a receiver that is down loses nothing that was committed, and delivery is at least once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.store.schema import identity, open_existing, transaction

FIRST_TO_GO = ("OK", "WARN", "NONE", "NG")
MAX_REFUSED = 1000  # set aside for each output; the counter goes on

_QUEUED = "sequence, id, verdict, line"
_ADD = (
    "INSERT OR IGNORE INTO outbox (output, sequence, id, verdict, line) "
    "SELECT ?, sequence, id, verdict, ? FROM event WHERE id = ?"
)
_REMOVE = "DELETE FROM outbox WHERE output = ? AND sequence = ?"
_OLDEST = "SELECT sequence FROM outbox WHERE output = ? AND verdict = ? ORDER BY sequence LIMIT ?"


@dataclass(frozen=True)
class QueuedMessage:
    """One event on its way to one output; ``sequence`` is its place in the order of commits."""

    sequence: int
    id: str
    verdict: str
    line: str


@dataclass(frozen=True)
class DeliveryStats:
    """How an output stands: letters ``waiting``, and counts over all runs."""

    output: str
    waiting: int = 0
    delivered: int = 0
    refused: int = 0
    dropped: int = 0


class Outbox:
    """The store's side: puts every event in, one letter for each of ``outputs``.

    An output has room for ``limit`` letters; beyond it the oldest OK goes first, then WARN, NONE and last NG, each
    counted. ``line`` makes the text of an event.
    """

    def __init__(self, outputs: Sequence[str], limit: int, line: Callable[[Event], str]) -> None:
        self._outputs = tuple(outputs)
        self._limit = limit
        self._line = line
        self.full: set[str] = set()  # outputs that had no room at some time

    def add(self, connection: sqlite3.Connection, rows: Sequence[Event]) -> None:
        """Put in what the open transaction of the store has just inserted; sqlite3.Error when that cannot be."""
        if not rows:
            return
        queued_messages = [(self._line(row), row.id) for row in rows] if self._outputs else []
        for output in self._outputs:
            added = connection.executemany(_ADD, [(output, *queued) for queued in queued_messages]).rowcount
            _count(connection, output, waiting=added)
            (waiting,) = connection.execute("SELECT waiting FROM outlet WHERE output = ?", (output,)).fetchone()
            if waiting > self._limit:
                self.full.add(output)
                self._make_room(connection, output, waiting - self._limit)

    def _make_room(self, connection: sqlite3.Connection, output: str, excess: int) -> None:
        for verdict in FIRST_TO_GO:
            rows = connection.execute(_OLDEST, (output, verdict, excess)).fetchall()
            connection.executemany(_REMOVE, [(output, *row) for row in rows])
            if rows:
                _count(connection, output, waiting=-len(rows), **{f"dropped_{verdict}": len(rows)})
            excess -= len(rows)
            if not excess:
                return


class Backlog:
    """An output's side: the letters of one output, oldest first. For one thread at a time; sqlite3.Error on a fault.

    The file is opened with the first call, and again after a fault or when the store has replaced it; it is never made
    here. Taking letters out is not synced to the disk: what a power cut brings back is delivered again.
    """

    def __init__(self, path: Path, output: str) -> None:
        self._path = path
        self._output = output
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def next(self, count: int) -> list[QueuedMessage]:
        """Return at most ``count`` letters, oldest first; they stay until they are delivered or refused."""
        query = f"SELECT {_QUEUED} FROM outbox WHERE output = ? ORDER BY sequence LIMIT ?"
        with self._open() as connection:
            return [QueuedMessage(*values) for values in connection.execute(query, (self._output, count))]

    def delivered(self, queued_messages: Sequence[QueuedMessage]) -> None:
        """Take out what the receiver has confirmed."""
        with self._open() as connection, transaction(connection):
            gone = _take_out(connection, self._output, queued_messages)
            _count(connection, self._output, waiting=-gone, delivered=len(queued_messages))

    def refuse(self, queued: QueuedMessage, reason: str) -> None:
        """Set a letter aside that the receiver will never take."""
        with self._open() as connection, transaction(connection):
            values = (self._output, queued.sequence, queued.id, queued.verdict, queued.line, reason)
            connection.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?, ?)", values)
            connection.execute(
                "DELETE FROM refused WHERE output = ? AND sequence IN "
                "(SELECT sequence FROM refused WHERE output = ? ORDER BY sequence DESC LIMIT -1 OFFSET ?)",
                (self._output, self._output, MAX_REFUSED),
            )
            gone = _take_out(connection, self._output, [queued])
            _count(connection, self._output, waiting=-gone, refused=1)

    def stats(self) -> DeliveryStats:
        """Return how the output stands."""
        with self._open() as connection:
            result = _delivery_stats(connection, "WHERE output = ?", (self._output,))
        return result[0] if result else DeliveryStats(self._output)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self._connection is not None and identity(self._path) != self._identity:
            self.close()
        if self._connection is None:
            self._identity = identity(self._path)
            self._connection = open_existing(self._path, "mode=rw")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        try:
            yield self._connection
        except sqlite3.Error:
            self.close()
            raise


def standings(path: Path) -> list[DeliveryStats]:
    """Return how every output stands that this store has ever known, by name; BadInput when it cannot be read."""
    with _error_text(path) as connection:
        return _delivery_stats(connection)


def drop(path: Path, output: str) -> int:
    """Empty the backlog of an output for good, what was set aside too; returns how many letters went, each counted."""
    with _error_text(path) as connection, transaction(connection):
        results: dict[str, int] = dict(
            connection.execute("SELECT verdict, count(*) FROM outbox WHERE output = ? GROUP BY verdict", (output,))
        )
        connection.execute("DELETE FROM outbox WHERE output = ?", (output,))
        connection.execute("DELETE FROM refused WHERE output = ?", (output,))
        gone = sum(results.values())
        _count(connection, output, waiting=-gone, **{f"dropped_{verdict}": count for verdict, count in results.items()})
    return gone


def retry(path: Path, output: str) -> int:
    """Put what was set aside back into the backlog, at its old place; returns how many letters."""
    with _error_text(path) as connection, transaction(connection):
        back: int = connection.execute(
            f"INSERT OR IGNORE INTO outbox SELECT output, {_QUEUED} FROM refused WHERE output = ?", (output,)
        ).rowcount
        connection.execute("DELETE FROM refused WHERE output = ?", (output,))
        _count(connection, output, waiting=back, refused=-back)
    return back


@contextmanager
def _error_text(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(open_existing(path, "mode=rw")) as connection:
            yield connection
    except sqlite3.Error as error:
        raise BadInput(
            f"the store {path} cannot be read: {error}; name the one of `edge-ad run --store`, which brings an old one up "
            "to date"
        ) from error


def _take_out(connection: sqlite3.Connection, output: str, queued_messages: Sequence[QueuedMessage]) -> int:
    gone: int = connection.executemany(_REMOVE, [(output, queued.sequence) for queued in queued_messages]).rowcount
    return gone


def _count(connection: sqlite3.Connection, output: str, **changes: int) -> None:
    """Add to the counters of an output, which has a row from then on."""
    connection.execute("INSERT OR IGNORE INTO outlet (output) VALUES (?)", (output,))
    if changes:
        sums = ", ".join(f"{name} = {name} + ?" for name in changes)
        connection.execute(f"UPDATE outlet SET {sums} WHERE output = ?", (*changes.values(), output))


def _delivery_stats(connection: sqlite3.Connection, where: str = "", values: Sequence[str] = ()) -> list[DeliveryStats]:
    dropped = " + ".join(f"dropped_{verdict}" for verdict in FIRST_TO_GO)
    query = f"SELECT output, waiting, delivered, refused, {dropped} FROM outlet {where} ORDER BY output"
    return [DeliveryStats(*row) for row in connection.execute(query, values)]
