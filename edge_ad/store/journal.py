"""The journal: every event once more as a JSON line, one file a day, so that the index can be lost and made anew.

Lines are of three kinds: an event (the fields of Event and its ``sequence``), a mark (``event``, ``mark``, ``by``,
``at``) and a state (``counters`` and ``latches`` of all cameras as they stood). A line that cannot be read is passed
over: an append that a power cut tore costs itself alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_ad.events import FIELDS, LATER, MARKS, VERDICTS, VIEW, Event, compact
from edge_ad.utils.files import is_at, sync_folder

FOLDER = "journal"
TAIL_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One line: an event with its sequence (0 where it has none), or a mark, or a state, or nothing that can be read.
    """

    event: Event | None = None
    sequence: int = 0
    mark: Mapping[str, Any] | None = None
    state: Mapping[str, Any] | None = None


@dataclass
class Tail:
    """What the end of a journal tells: the highest sequence, and the last counters and latches by camera."""

    sequence: int = 0
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    latches: dict[str, dict[str, Any]] = field(default_factory=dict)


class Journal:
    """Appends lines to the file of the day (UTC) under ``evidence``/journal. For one thread; OSError when the disk
    refuses.

    While it is open no other process may move the index aside (``locked``).
    """

    def __init__(self, evidence: Path) -> None:
        self.folder = evidence / FOLDER
        self._handle: int | None = None
        self._day = ""
        self._lock: int | None = None
        self._dirty = False

    def removed(self) -> bool:
        """Whether the file that is open, or its folder, is no longer where it was: what is appended would be lost."""
        if self._handle is None or self._lock is None:
            return False
        path = self.folder / f"{self._day}.jsonl"
        return not (is_at(self._handle, path) and is_at(self._lock, self.folder))

    def append(self, lines: Sequence[str]) -> None:
        """Hand the lines to the operating system: from now on they outlive this process."""
        append_lines(self._open(), lines)
        self._dirty = True

    def sync(self) -> None:
        """Bring what was appended to the disk: from now on it outlives a power cut."""
        if self._dirty and self._handle is not None:
            os.fdatasync(self._handle)
            self._dirty = False

    def close(self) -> None:
        """Sync and close; OSError when that fails, closed all the same."""
        try:
            self.sync()
        finally:
            for handle in (self._handle, self._lock):
                if handle is not None:
                    os.close(handle)
            self._handle = self._lock = None

    def _open(self) -> int:
        day = day_of(time.time())
        if self._handle is None or day != self._day:
            if self._lock is None:
                make_folder(self.folder)
                self._lock = _lock(self.folder, fcntl.LOCK_SH)
            if self._handle is not None:
                self.sync()
                os.close(self._handle)
                self._handle = None
            self._handle = open_day(self.folder, day)
            self._day = day
        return self._handle


def open_day(folder: Path, day: str) -> int:
    """Open the file of a day for appending, made where there is none, its name synced to the disk."""
    path = folder / f"{day}.jsonl"
    fresh = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    if fresh:
        sync_folder(folder)
    return handle


def append_lines(handle: int, lines: Iterable[str]) -> None:
    """Append with one write; begins a line of its own where an earlier append was torn."""
    size = os.fstat(handle).st_size
    torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
    data = memoryview(("\n" * torn + "".join(f"{line}\n" for line in lines)).encode())
    while data:
        data = data[os.write(handle, data) :]


def journalise(evidence: Path, lines: Sequence[str]) -> None:
    """Append lines to the file of today from any process, and sync them to the disk."""
    folder = evidence / FOLDER
    make_folder(folder)
    handle = open_day(folder, day_of(time.time()))
    try:
        append_lines(handle, lines)
        os.fdatasync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, and bring their names to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


@contextlib.contextmanager
def locked(evidence: Path) -> Iterator[bool]:
    """Hold the journal for this process alone; yields False when another process has it open."""
    folder = evidence / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = _lock(folder, fcntl.LOCK_EX)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def day_of(moment: float) -> str:
    """Return the UTC date of a wall-clock time, as in 2026-03-01."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def files(evidence: Path) -> list[Path]:
    """Return the files of the journal, the newest day first."""
    return sorted((evidence / FOLDER).glob("????-??-??.jsonl"), reverse=True)


def event_line(sequence: int, event: Event) -> str:
    """Return the line of an event, z, pose and views at its end; a number that is not finite becomes null."""
    record = event.record()
    last = {name: record.pop(name) for name in ("z", "pose", "views")}
    return compact({"sequence": sequence, **record, **last})


def mark_line(event: str, mark: str | None, by: str, at: float, *, name: str | None = None) -> str:
    """Return the line of a mark; ``name`` is that of the defect."""
    return compact({"event": event, "mark": mark, "by": by, "at": at, **({} if name is None else {"name": name})})


def state_line(counters: Mapping[str, Mapping[str, int]], latches: Mapping[str, Any], at: float) -> str:
    """Return the line of a state."""
    return compact({"counters": counters, "latches": latches, "at": at})


def parse(line: bytes) -> Entry:
    """Return what a line says; an empty Entry for one that is damaged or of another program."""
    try:
        entry = json.loads(line)
        if "sequence" in entry:
            return Entry(_event(entry), int(entry["sequence"]))
        if "mark" in entry and isinstance(entry["event"], str) and entry["mark"] in (*MARKS, None):
            named = {} if entry.get("name") is None else {"name": str(entry["name"])}
            return Entry(
                mark={"event": entry["event"], "mark": entry["mark"], "by": str(entry["by"]), "at": entry["at"], **named}
            )
        if isinstance(entry["counters"], dict) and isinstance(entry["latches"], dict):
            return Entry(state=entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return Entry()


def event_from_text(text: str) -> Event | None:
    """Return the event in a line or in the comment of an image; None for anything else."""
    return parse(text.encode()).event


def tail(evidence: Path) -> Tail | None:
    """Read the end of the newest files of the journal; None where there is no journal."""
    result = Tail()
    days = files(evidence)
    if not any(path.stat().st_size for path in days):
        return None
    for path in days[:2]:  # the newest may be a minute old
        states: Mapping[str, Any] = {}
        for line in _last_lines(path):
            entry = parse(line)
            result.sequence = max(result.sequence, entry.sequence)
            states = entry.state or states
        if states and not result.counters:
            result.counters = dict(states["counters"])
            result.latches = dict(states["latches"])
    return result


def _event(entry: Mapping[str, Any]) -> Event:
    z = {name: value for name, value in entry["z"].items() if value is not None}
    pose, peak = entry.get("pose"), entry.get("peak")
    known: dict[str, Any] = {name: entry.get(name) if name in LATER else entry[name] for name in FIELDS}
    if peak is not None:
        peak = float(peak[0]), float(peak[1])
    row = Event(**{**known, "z": z, "pose": pose, "peak": peak})
    numbers = (row.time, *z.values())
    optional = (row.score, row.latency_ms)
    texts = (row.id, row.camera, row.verdict)
    if not all(isinstance(value, (int, float)) for value in numbers) or not all(
        isinstance(text, str) for text in texts
    ):
        raise ValueError("no event")
    if not all(isinstance(text, (str, type(None))) for text in (row.product, row.bundle, row.zone)):
        raise ValueError("no event")
    if not all(value is None or isinstance(value, (int, float)) for value in optional):
        raise ValueError("no event")
    if row.verdict not in VERDICTS or not isinstance(pose, (dict, type(None))):
        raise ValueError("no event")
    if row.views is not None and not all(set(VIEW) <= set(view) and isinstance(view["z"], dict) for view in row.views):
        raise ValueError("no event")
    return row


def _last_lines(path: Path) -> list[bytes]:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return stream.read().split(b"\n")


def _lock(folder: Path, how: int) -> int:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
