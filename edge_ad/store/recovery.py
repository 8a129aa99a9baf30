"""Opening a store so that a lost or damaged index never stops a line: moved aside, never deleted, and made anew."""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
from pathlib import Path

from edge_ad.errors import BadInput
from edge_ad.store.journal import Tail, tail
from edge_ad.store.schema import APPLICATION, connect, transaction

CHECK_S = 2.0
MARGIN = 100_000  # events that the end of the journal may not tell of

_METADATA = "INSERT INTO fact VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


def open_store(path: Path, evidence: Path | None, damage: str | None = None) -> tuple[sqlite3.Connection, str | None]:
    """Open a store; one that is damaged or lost is begun anew where ``evidence`` holds a journal or the file was ours.

    Returns the connection and what a person should know, None when all is well. A new index goes on with the numbers,
    counters and alarms at the end of the journal; its fact ``rebuild`` stays until ``rebuild`` has brought in the rest.
    ``damage``: what is known already; else SQLite's quick check tells, as far as it comes in 2 s. Raises as
    ``connect``.
    """
    stored = tail(evidence) if evidence is not None else None
    damage = damage or damage_of(path)
    message = None
    if damage is not None and (stored is not None or is_ours(path)):
        moved = move_aside(path)
        message = f"the index {path} is damaged ({damage}): it was moved to {moved.name}"
    elif not _filled(path) and stored is not None:
        message = f"the index {path} is lost"
        if _beside(path, "-wal").exists():  # SQLite would delete what may hold the last events
            move_aside(path)
    connection = connect(path)
    if metadata(connection, "journalled") is None and stored is not None:
        message = message or f"the index {path} was begun anew and is not complete"
        _go_on(connection, stored)
        message += f"; it is being made anew from {evidence}"
    return connection, message


def damage_of(path: Path, seconds: float = CHECK_S) -> str | None:
    """Return what SQLite's quick check finds within so many seconds; None for nothing, and where it cannot tell."""
    if not _filled(path):
        return None
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    except sqlite3.Error:
        return None
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        return None if answer == "ok" else " ".join(answer.split())
    except sqlite3.Error as error:
        return str(error) if is_damage(error) else None
    finally:
        timer.cancel()
        timer.join()
        connection.close()


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is damaged; a full, slow or locked disk is an OperationalError."""
    return type(error) is sqlite3.DatabaseError


def is_ours(path: Path) -> bool:
    """Whether the first page still says that the file is a store."""
    try:
        with path.open("rb") as stream:
            header = stream.read(100)
    except OSError:
        return False
    return header[68:72] == APPLICATION.to_bytes(4, "big")


def move_aside(path: Path) -> Path:
    """Rename the index and what belongs to it, with the time in the name; returns the new name of the index."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (path.with_name(f"{path.name}.damaged-{stamp}{'-' * number}") for number in itertools.count())
    target = next(name for name in names if not any(_beside(name, part).exists() for part in ("", "-wal")))
    for part in ("-wal", "-shm", ""):  # the index last: until then it counts as damaged
        if _beside(path, part).exists():
            try:
                _beside(path, part).rename(_beside(target, part))
            except OSError as error:
                raise BadInput(f"the damaged store {path} cannot be moved aside: {error}; move it by hand") from error
    return target


def metadata(connection: sqlite3.Connection, name: str) -> str | None:
    """Return what the store knows by this name."""
    result = connection.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
    return result[0] if result else None


def set_metadata(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Store a value by name."""
    connection.execute(_METADATA, (name, value))


def _go_on(connection: sqlite3.Connection, stored: Tail) -> None:
    """Let a new index go on where the journal ends."""
    last = stored.sequence + MARGIN
    with transaction(connection):
        fresh = not connection.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'event'").fetchone()
        if fresh:
            connection.execute("INSERT INTO sqlite_sequence VALUES ('event', ?)", (last,))
        set_metadata(connection, "journalled", str(last if fresh else 0))
        set_metadata(connection, "rebuild", "1")
        counters = [(camera, name, value) for camera, named in stored.counters.items() for name, value in named.items()]
        connection.executemany("INSERT OR IGNORE INTO counter VALUES (?, ?, ?)", counters)
        latches = [(camera, json.dumps(state), time.time()) for camera, state in stored.latches.items()]
        connection.executemany("INSERT OR IGNORE INTO latch VALUES (?, ?, ?)", latches)


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _beside(path: Path, part: str) -> Path:
    return path.with_name(path.name + part)
