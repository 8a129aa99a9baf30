"""The tables of the store and how they grow: one migration a version, never changed once released.

Also an event and its images as rows of these tables, and as text inside a JPEG file (ISO/IEC 10918-1, comment segment).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import DIGITS, FIELDS, Event, Mark, compact

APPLICATION = 0x45444745  # "EDGE", marks the file as ours

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        camera TEXT NOT NULL,
        frame INTEGER,
        part TEXT,
        time REAL NOT NULL,
        verdict TEXT NOT NULL CHECK (verdict IN ('OK', 'WARN', 'NG', 'NONE')),
        score REAL,
        z TEXT NOT NULL,
        latency_ms REAL,
        reason TEXT
    );
    CREATE INDEX event_time ON event (time);
    CREATE INDEX event_verdict ON event (verdict, time);
    CREATE TABLE counter (
        camera TEXT NOT NULL,
        name TEXT NOT NULL,
        value INTEGER NOT NULL,
        PRIMARY KEY (camera, name)
    ) WITHOUT ROWID;
    CREATE TABLE latch (
        camera TEXT NOT NULL PRIMARY KEY,
        state TEXT NOT NULL,
        changed REAL NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE outbox (
        output TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        id TEXT NOT NULL,
        verdict TEXT NOT NULL,
        line TEXT NOT NULL,
        PRIMARY KEY (output, sequence)
    ) WITHOUT ROWID;
    CREATE INDEX outbox_verdict ON outbox (output, verdict, sequence);
    CREATE TABLE refused (
        output TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        id TEXT NOT NULL,
        verdict TEXT NOT NULL,
        line TEXT NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (output, sequence)
    ) WITHOUT ROWID;
    CREATE TABLE outlet (
        output TEXT NOT NULL PRIMARY KEY,
        waiting INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,
        refused INTEGER NOT NULL DEFAULT 0,
        dropped_OK INTEGER NOT NULL DEFAULT 0,
        dropped_WARN INTEGER NOT NULL DEFAULT 0,
        dropped_NONE INTEGER NOT NULL DEFAULT 0,
        dropped_NG INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE mark (
        event TEXT NOT NULL PRIMARY KEY,
        mark TEXT NOT NULL CHECK (mark IN ('good', 'bad')),
        by TEXT NOT NULL,
        time REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE image (
        path TEXT NOT NULL PRIMARY KEY,
        event TEXT NOT NULL,
        verdict TEXT NOT NULL,
        time REAL NOT NULL,
        bytes INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX image_event ON image (event);
    CREATE INDEX image_order ON image (verdict = 'OK', time);
    CREATE TABLE fact (
        name TEXT NOT NULL PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX event_part ON event (part);
    """,
    """
    ALTER TABLE event ADD COLUMN pose TEXT;
    """,
    """
    ALTER TABLE event ADD COLUMN product TEXT;
    ALTER TABLE event ADD COLUMN bundle TEXT;
    """,
    """
    ALTER TABLE event ADD COLUMN zone TEXT;
    """,
    """
    ALTER TABLE event ADD COLUMN peak TEXT;
    CREATE TABLE alarm (
        camera TEXT NOT NULL,
        number INTEGER NOT NULL,
        time REAL NOT NULL,
        PRIMARY KEY (camera, number)
    ) WITHOUT ROWID;
    CREATE INDEX alarm_time ON alarm (time);
    """,
    """
    ALTER TABLE event ADD COLUMN views TEXT;
    """,
    """
    ALTER TABLE mark ADD COLUMN name TEXT;
    """,
)


WAIT_S = 5.0  # for another process that writes


def connect(path: Path) -> sqlite3.Connection:
    """Open the file (made where there is none) in WAL mode with synchronous=FULL, at the newest version.

    A file that is no store, is damaged or comes from a newer version raises BadInput; it is never changed or deleted.
    DeviceFault when the disk is full or does not answer, or another process holds the file for 5 s.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # isolation_level None: transactions are begun and ended by us alone.
        connection = sqlite3.connect(path, isolation_level=None, timeout=WAIT_S, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        _raise_if_refused(path, error)
        raise BadInput(
            f"the store {path} cannot be opened: {error}; name a file in a folder that can be written"
        ) from error
    try:
        _check(connection, path)
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()
        _raise_if_refused(path, error)
        raise BadInput(
            f"the store {path} cannot be read: {error}; move it away and keep it, a new one is made then"
        ) from error
    except BadInput:
        connection.close()
        raise
    return connection


def open_existing(path: Path, options: str) -> sqlite3.Connection:
    """Open a store that is there, as SQLite's URI ``options`` say: making and mending one is left to the store itself.
    """
    address = f"file:{quote(str(path))}?{options}"  # quote: a question mark in the path would begin the options
    return sqlite3.connect(address, uri=True, isolation_level=None, timeout=5.0, check_same_thread=False)


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells this file from another of the same name, None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _raise_if_refused(path: Path, error: Exception) -> None:
    """Raise DeviceFault for what the disk or another process does, which may be over in a moment."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    # Python 3.10 tells no code of SQLite's errors.
    if full or any(word in str(error) for word in ("disk is full", "disk I/O error", "locked")):
        raise DeviceFault(f"the store {path} cannot be opened now: {error}; free some space or try again") from error


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Hold the write lock; commit at the end, undo everything after an exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to the newest version, each step in a transaction of its own."""
    connection.execute("CREATE TABLE IF NOT EXISTS migration (version INTEGER PRIMARY KEY, applied REAL NOT NULL)")
    version = version_of(connection)
    if version > len(MIGRATIONS):
        raise BadInput(
            f"the store {path} has version {version}, but this edge-ad knows versions up to {len(MIGRATIONS)}: install "
            "a newer edge-ad or name another file"
        )
    for number in range(version + 1, len(MIGRATIONS) + 1):
        with transaction(connection):
            if version_of(connection) >= number:  # another process was faster: two first starts on one new store
                continue
            for statement in MIGRATIONS[number - 1].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute("INSERT INTO migration VALUES (?, ?)", (number, time.time()))
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION,):  # a full disk can still be read
        connection.execute(f"PRAGMA application_id = {APPLICATION}")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode; SQLite does not wait by itself where another process is about to do the same."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of the tables, 0 for an empty file."""
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM migration").fetchone()[0])


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that somebody else made."""
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if application not in (0, APPLICATION) or (application == 0 and tables and "migration" not in tables):
        raise BadInput(f"{path} is a database of another program; name another file for the store")


COLUMNS = FIELDS


@dataclass(frozen=True)
class StoredEvent(Event):
    """An event as it was stored, and what was added to it since.

    ``sequence`` grows with every event; ``mark_name`` is the name of the defect that a person gave. ``images`` are paths of images
    below the evidence folder, the crop first; ``lossless`` is that of the region without loss, None where none is kept.
    """

    sequence: int = 0
    mark: Mark | None = None
    mark_name: str | None = None
    images: tuple[str, ...] = ()
    lossless: str | None = None


@dataclass(frozen=True)
class StoredImage:
    """An image of an event: ``path`` below the evidence folder, ``bytes`` of its file, verdict and time of the event.
    """

    path: str
    event: str
    verdict: str
    time: float
    bytes: int


def row_of(event: Event) -> tuple[Any, ...]:
    """Return the values of COLUMNS."""
    z = {name: round(value, DIGITS["z"]) for name, value in event.z.items()}
    record = event.record()
    peak = None if event.peak is None else json.dumps([round(value, 4) for value in event.peak])
    texts = {name: None if record[name] is None else compact(record[name]) for name in ("pose", "views")}
    texts |= {"z": compact(z), "peak": peak}
    return tuple(texts[name] if name in texts else getattr(event, name) for name in COLUMNS)


def event_of(row: tuple[Any, ...]) -> Event:
    """Build the event from the values of COLUMNS."""
    return Event(**fields_of(row))


def fields_of(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return the fields of an event from the values of COLUMNS."""
    values = dict(zip(COLUMNS, row, strict=True))
    decoded = {name: json.loads(values[name] or "null") for name in ("z", "pose", "views")}
    peak = json.loads(values["peak"] or "null")
    return {**values, **decoded, "peak": None if peak is None else (float(peak[0]), float(peak[1]))}


MAX_LENGTH = 65_533  # bytes: the length of a segment has 16 bits and counts itself

_START, _COMMENT, _SCAN = b"\xff\xd8", 0xFE, 0xDA


def with_comment(jpeg: bytes, text: str) -> bytes:
    """Return the JPEG file with ``text`` as its first segment; BadInput for no JPEG or more than 65,533 bytes of UTF-8.
    """
    data = text.encode()
    if not jpeg.startswith(_START) or len(data) > MAX_LENGTH:
        raise BadInput(f"a comment of {len(data)} bytes needs a JPEG file and at most {MAX_LENGTH} bytes")
    return _START + bytes((0xFF, _COMMENT)) + (len(data) + 2).to_bytes(2, "big") + data + jpeg[2:]


_PNG, _PNG_HEADER = b"\x89PNG\r\n\x1a\n", 33  # signature, and where its first chunk ends
_PNG_TEXT = b"iTXtedge-ad\0\0\0\0\0"  # type, keyword, no compression, no language, no translation


def with_png_text(png: bytes, text: str) -> bytes:
    """Return the PNG file with ``text`` as a chunk behind its header; BadInput for no PNG or more than 65,533 bytes of UTF-8."""
    data = text.encode()
    if not png.startswith(_PNG) or len(data) > MAX_LENGTH:
        raise BadInput(f"a text of {len(data)} bytes needs a PNG file and at most {MAX_LENGTH} bytes")
    chunk = _PNG_TEXT + data
    check = zlib.crc32(chunk).to_bytes(4, "big")
    return png[:_PNG_HEADER] + (len(chunk) - 4).to_bytes(4, "big") + chunk + check + png[_PNG_HEADER:]


def text_of_image(head: bytes) -> str | None:
    """Return the comment of a JPEG file or the text of a PNG file of ours, from its beginning; None without one."""
    if not head.startswith(_PNG):
        return comment_of(head)
    first, start = _PNG_HEADER + 4, _PNG_HEADER + 4 + len(_PNG_TEXT)
    end = first + 4 + int.from_bytes(head[_PNG_HEADER:first], "big")
    if head[first:start] != _PNG_TEXT or end > len(head):
        return None
    with contextlib.suppress(UnicodeDecodeError):
        return head[start:end].decode()
    return None


def comment_of(jpeg: bytes) -> str | None:
    """Return the first comment before the image itself; None without one, and for a damaged or cut off beginning."""
    offset = 2 if jpeg.startswith(_START) else len(jpeg)
    while offset + 4 <= len(jpeg) and jpeg[offset] == 0xFF and jpeg[offset + 1] != _SCAN:
        length = int.from_bytes(jpeg[offset + 2 : offset + 4], "big")
        if length < 2 or offset + 2 + length > len(jpeg):
            return None
        if jpeg[offset + 1] == _COMMENT:
            try:
                return jpeg[offset + 4 : offset + 2 + length].decode()
            except UnicodeDecodeError:
                return None
        offset += 2 + length
    return None
