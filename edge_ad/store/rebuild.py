"""Makes the index anew from journal and images; harmless, and does nothing, where it is complete."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event
from edge_ad.store.journal import Entry, event_from_text, files, locked, parse
from edge_ad.store.jpeg import MAX_LENGTH, comment_of
from edge_ad.store.recovery import damage_of, open_store
from edge_ad.store.rows import COLUMNS, row_of
from edge_ad.store.schema import connect, transaction

BATCH = 500
WHOLE_CHECK_S = 24 * 3600.0
HEADER_BYTES = MAX_LENGTH + 64

T = TypeVar("T")

_NAMES = ", ".join(COLUMNS)
_HOLDERS = ", ".join("?" * len(COLUMNS))
_IN_PLACE = f"INSERT OR IGNORE INTO event (sequence, {_NAMES}) VALUES (?, {_HOLDERS})"
_AT_END = f"INSERT OR IGNORE INTO event ({_NAMES}) VALUES ({_HOLDERS})"
_MARK = "INSERT OR IGNORE INTO mark SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM event WHERE id = ?)"
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
            insert_day(connection, evidence, day, result, stop)
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


def insert_day(
    connection: sqlite3.Connection, evidence: Path, day: Path, rebuilt: Rebuilt, stop: threading.Event | None = None
) -> None:
    """Bring the images of one day into the index that it lacks, and their events."""
    for paths in _batches(sorted(day.rglob("*.jpg"), key=lambda path: path.name)):  # a name begins with the time
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
            return event_from_text(comment_of(stream.read(HEADER_BYTES)) or ""), path.stat().st_size
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
                    values = (mark["event"], mark["mark"], mark["by"], mark["at"], mark["event"])
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
