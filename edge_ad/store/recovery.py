"""Open a store so that a lost or damaged index never stops a line: it is moved aside, never deleted, and made anew from
journal and images.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event
from edge_ad.store.journal import Entry, Tail, event_from_text, files, locked, parse, tail
from edge_ad.store.schema import APPLICATION, COLUMNS, MAX_LENGTH, connect, row_of, text_of_image, transaction

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


BATCH = 500
WHOLE_CHECK_S = 24 * 3600.0
HEADER_BYTES = MAX_LENGTH + 64
IMAGES = (".jpg", ".png")

T = TypeVar("T")

_NAMES = ", ".join(COLUMNS)
_HOLDERS = ", ".join("?" * len(COLUMNS))
_IN_PLACE = f"INSERT OR IGNORE INTO event (sequence, {_NAMES}) VALUES (?, {_HOLDERS})"
_AT_END = f"INSERT OR IGNORE INTO event ({_NAMES}) VALUES ({_HOLDERS})"
_MARK = (
    "INSERT OR IGNORE INTO mark (event, mark, by, time, name) SELECT ?, ?, ?, ?, ? "
    "WHERE EXISTS (SELECT 1 FROM event WHERE id = ?)"
)
_INSERT_IMAGE = "INSERT OR IGNORE INTO image (path, event, verdict, time, bytes) VALUES (?, ?, ?, ?, ?)"


@dataclass
class Rebuilt:
    """What was brought into the index, and how many lines and images could not be read."""

    events: int = 0
    marks: int = 0
    images: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        message = f"{self.events} events, {self.marks} marks and {self.images} images brought back"
        return f"{message}; {self.unreadable} lines or files could not be read" if self.unreadable else message


def rebuild(path: Path, evidence: Path, stop: threading.Event | None = None) -> Rebuilt:
    """Bring into the index what the journal has and it lacks, the newest day first, then what images alone tell.

    `edge-ad run` may write the same index meanwhile: each transaction holds at most 500 rows. Events keep their old
    sequence, so that they stand in their old order. With ``stop`` set it ends early and goes on where it was called
    again. Raises sqlite3.Error and OSError when the disk refuses.
    """
    stop = stop or threading.Event()
    result = Rebuilt()
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")  # what a power cut undoes is done again
        _events_and_marks(connection, evidence, result, stop)
        for day in reversed(image_days(evidence)):
            insert_day(connection, evidence, day, result, stop=stop)
        if not stop.is_set():
            connection.execute("DELETE FROM fact WHERE name = 'rebuild'")
    return result


def remake(path: Path, evidence: Path) -> tuple[str | None, Rebuilt]:
    """Check the whole index, move it aside where it is damaged, and rebuild it; returns what was found and what was
    done.

    BadInput where there is nothing to make it from; DeviceFault when it is damaged while `edge-ad run` has it open.
    """
    if not files(evidence) and not image_days(evidence):
        raise BadInput(f"there is neither journal nor image in {evidence}: name the folder with --evidence")
    damage = damage_of(path, WHOLE_CHECK_S)
    with locked(evidence) as alone:
        if alone:
            connection, message = open_store(path, evidence, damage)
            connection.close()
        elif damage is not None or not path.exists():
            raise DeviceFault(
                f"the index {path} is {'damaged' if damage else 'lost'} and in use: stop `edge-ad run`, or restart it, "
                "then it makes the index anew by itself"
            )
        else:
            message = None
    return message, rebuild(path, evidence)


def image_days(evidence: Path) -> list[Path]:
    """Return the folders of images, the newest day first."""
    return sorted((day for day in evidence.glob("????-??-??") if day.is_dir()), reverse=True)


def images_of(day: Path) -> list[Path]:
    """Return the images of a day, the oldest first: a name begins with the time."""
    return sorted((path for ending in IMAGES for path in day.rglob(f"*{ending}")), key=lambda path: path.name)


def insert_day(
    connection: sqlite3.Connection, evidence: Path, day: Path, rebuilt: Rebuilt, *, stop: threading.Event | None = None
) -> None:
    """Bring the images of one day into the index that it lacks, and their events."""
    for paths in _batches(images_of(day)):
        if stop is not None and stop.is_set():
            return
        names = [str(path.relative_to(evidence)) for path in paths]
        holders = ", ".join("?" * len(names))
        known = {name for (name,) in connection.execute(f"SELECT path FROM image WHERE path IN ({holders})", names)}
        _store_images(connection, evidence, [name for name in names if name not in known], rebuilt)


def _store_images(connection: sqlite3.Connection, evidence: Path, names: Sequence[str], rebuilt: Rebuilt) -> None:
    read = [(name, *_image_event(evidence / name)) for name in names]
    rebuilt.unreadable += sum(event is None for _, event, _ in read)
    with transaction(connection):
        for name, event, size in read:
            if event is not None:
                rebuilt.events += connection.execute(_AT_END, row_of(event)).rowcount
                values = (name, event.id, event.verdict, event.time, size)
                rebuilt.images += connection.execute(_INSERT_IMAGE, values).rowcount


def _image_event(path: Path) -> tuple[Event | None, int]:
    try:
        with path.open("rb") as stream:
            return event_from_text(text_of_image(stream.read(HEADER_BYTES)) or ""), path.stat().st_size
    except OSError:
        return None, 0


def _events_and_marks(connection: sqlite3.Connection, evidence: Path, rebuilt: Rebuilt, stop: threading.Event) -> None:
    """Read the journal, the newest day first; of an event's marks the last one counts."""
    marks: dict[str, tuple[object, ...] | None] = {}
    for path in files(evidence):
        of_day: dict[str, tuple[object, ...] | None] = {}
        for entries in _batches(_entries(path, rebuilt)):
            if stop.is_set():
                return
            with transaction(connection):
                rebuilt.events += _store_events(connection, entries)
            for entry in entries:
                if entry.mark is not None:
                    mark = entry.mark
                    values = (mark["event"], mark["mark"], mark["by"], mark["at"], mark.get("name"), mark["event"])
                    of_day[mark["event"]] = values if mark["mark"] is not None else None
        marks = {**of_day, **marks}
    with transaction(connection):
        rebuilt.marks += sum(connection.execute(_MARK, values).rowcount for values in marks.values() if values)


def _store_events(connection: sqlite3.Connection, entries: Sequence[Entry]) -> int:
    rows = [(entry.sequence, row_of(entry.event)) for entry in entries if entry.event is not None]
    added = 0
    for sequence, values in rows:
        if sequence > 0:
            added += connection.execute(_IN_PLACE, (sequence, *values)).rowcount
        # Where another event stands in its place already, it goes to the end; where it is there, nothing happens.
        added += connection.execute(_AT_END, values).rowcount
    return added


def _entries(path: Path, rebuilt: Rebuilt) -> Iterator[Entry]:
    with path.open("rb") as stream:
        for line in stream:
            entry = parse(line)
            if entry == Entry() and line.strip():
                rebuilt.unreadable += 1
            yield entry


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
