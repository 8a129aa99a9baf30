"""What people and PLCs did to a line, such as a pause: one JSON line each, in a file beside the store.

The file is the state too: the last line of a kind says how the line stands, after a restart and after a kill. Its lines
are the audit trail: each is linked to the one before it (edge_ad/store/audit.py), whichever process writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from edge_ad.errors import BadInput
from edge_ad.store.audit import CHAIN, REMOVED, Head, first_head, keep_head, lines_backwards, link_of, linked, tail_head
from edge_ad.store.schema import open_existing
from edge_ad.utils.files import atomic_write, is_at, sync_folder
from edge_ad.utils.text import printable

_log = logging.getLogger(__name__)

STATES = (  # the newest action of each group says how the line stands
    ("pause", "resume"),
    ("challenge started", "challenge passed", "challenge failed", "challenge overridden"),
    ("settings",),
)


@dataclass(frozen=True)
class Action:
    """What was done, by whom, from where, why, and when (seconds since 1970 UTC); ``details`` belong to the kind."""

    kind: str
    by: str
    origin: str
    reason: str
    time: float = field(default_factory=time.time)
    details: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Return who and why, for people."""
        origin = f" ({self.origin})" if self.origin and self.origin != self.by.lower() else ""
        return f"by {self.by}{origin}{f': {self.reason}' if self.reason else ''}"


def actions_path(store: Path) -> Path:
    """Return the file of actions of a store: ``line.actions.jsonl`` beside ``line.sqlite``."""
    return store.with_suffix(".actions.jsonl")


def evidence_of(store: Path) -> Path:
    """Return the evidence folder of a store as its index names it; the one beside it where it names none."""
    beside = store.with_suffix(".evidence")
    try:
        with contextlib.closing(open_existing(store, "mode=ro")) as connection:
            row = connection.execute("SELECT value FROM fact WHERE name = 'evidence'").fetchone()
    except sqlite3.Error:
        return beside
    return beside if row is None else store.parent / str(row[0])


def action_log(store: Path, evidence: Path | None = None) -> ActionLog:
    """Return the log of a store, whose heads are noted in its evidence folder too."""
    return ActionLog(actions_path(store), evidence if evidence is not None else evidence_of(store))


class ActionLog:
    """Appends actions from any thread and process; each is on the disk when ``append`` returns.

    ``heads`` is a folder in which the newest hash of the chain is noted too, where it exists.
    """

    def __init__(self, path: Path, heads: Path | None = None) -> None:
        self.path = path
        self.heads = heads
        self._lock = threading.Lock()

    def append(self, action: Action) -> None:
        """Write one action; OSError where the disk refuses. A line that an earlier crash tore is closed first."""
        with self._lock:
            new = not self.path.exists()
            with _locked(self.path) as handle:
                head = _append(handle, asdict(action))
                os.fsync(handle)
                if not is_at(handle, self.path):
                    raise OSError(None, "it was removed meanwhile")
                if self.heads is not None:
                    keep_head(self.heads, head)
            if new:
                sync_folder(self.path.parent)
        _log.debug("audit record %s: %s %s", head, action.kind, action.describe())

    def head(self) -> Head | None:
        """Return number and hash of the newest record, None without one. BadInput where it cannot be read."""
        with self._reading() as stream:
            return None if stream is None else tail_head(stream.fileno())

    def keep(self, action: Action) -> bool:
        """Write one action; False, logged, where the disk refuses."""
        try:
            self.append(action)
        except (OSError, ValueError) as error:  # a number that JSON does not know, too: what was done must not fail for its record
            _log.error("a %s cannot be stored in %s: %s", action.kind, self.path, getattr(error, "strerror", None) or error)
            return False
        return True

    def actions(self) -> Iterator[Action]:
        """Yield all actions, the oldest first; lines that are torn or foreign count for nothing. BadInput where they
        cannot be read.
        """
        with self._reading() as stream:
            yield from (action for line in stream or () if (action := _parsed(line)) is not None)

    def last(self, kinds: Collection[str]) -> Action | None:
        """Return the newest action of some kinds; reads from the end, as a trail of years is long."""
        with self._reading() as stream:
            lines = () if stream is None else lines_backwards(stream.fileno())
            return next((one for line in lines if (one := _parsed(line)) is not None and one.kind in kinds), None)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[IO[bytes] | None]:
        """Give the open file, None where there is none; BadInput where it cannot be read."""
        try:
            with contextlib.ExitStack() as stack:
                yield stack.enter_context(self.path.open("rb")) if self.path.exists() else None
        except OSError as error:
            raise BadInput(f"the actions {self.path} cannot be read: {error.strerror}; let this user read them") from error

    def remove_before(self, limit: float) -> int:
        """Take away the records before ``limit`` (seconds since 1970 UTC) and return how many; the chain goes on.

        A record of what goes is appended first. Nothing goes from the newest action of each of STATES on: the line stands
        by them. OSError or BadInput where the disk refuses; then all stays.
        """
        with self._lock:
            if not self.path.exists():
                return 0
            with _locked(self.path) as handle:
                lines = os.pread(handle, os.fstat(handle).st_size, 0).splitlines(keepends=True)
                count = _removable([_parsed(line) for line in lines], limit)
                links = [link for line in lines[:count] if (link := link_of(line)) is not None]
                if not links:
                    return 0
                first, last = links[0][1], links[-1][1]
                removed = {"first": first.number, "last": last.number, "hash": last.hash, "until": links[-1][0]["time"]}
                reason = f"retention: records {first.number} to {last.number}"
                head = _append(handle, asdict(Action(REMOVED, "station", "station", reason, details={"removed": removed})))
                os.fsync(handle)
                whole = os.pread(handle, os.fstat(handle).st_size, 0)
                atomic_write(self.path, whole[sum(map(len, lines[:count])) :])
                sync_folder(self.path.parent)
                if self.heads is not None:
                    keep_head(self.heads, head)
            return len(links)


def _parsed(line: bytes) -> Action | None:
    """Return the action of a line, None for one that is torn or foreign."""
    try:
        action = Action(**json.loads(line))
        fields = {name: value for name, value in action.details.items() if name != CHAIN}
        return replace(action, details=fields) if isinstance(action.time, (int, float)) else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _removable(actions: Sequence[Action | None], limit: float) -> int:
    """Return how many of the first lines may go: those before ``limit``, and before what says how the line stands."""
    ends = [number for number, one in enumerate(actions) if one is not None and one.time >= limit]
    for kinds in STATES:
        ends += [number for number, one in enumerate(actions) if one is not None and one.kind in kinds][-1:]
    return min(ends, default=len(actions))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Give the file, made where there is none, for this process alone; OSError where the disk refuses."""
    for _ in range(100):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if is_at(handle, path):  # not one that retention has just replaced
                yield handle
                return
        finally:
            os.close(handle)
    raise OSError(None, "it is replaced again and again")


def _append(handle: int, record: Mapping[str, Any]) -> Head:
    """Write a record as the next link, with one call, and return its head."""
    size = os.fstat(handle).st_size
    torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
    previous = tail_head(handle) or first_head(os.pread(handle, size, 0) + b"\n" * torn)
    whole, head = linked(record, previous)
    line = json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
    data = b"\n" + line if torn else line
    if os.write(handle, data) != len(data):
        raise OSError(None, "the disk took only a part of it")
    return head


def action_row(action: Action) -> str:
    """Return an action as a line of the table of events: its kind stands in the place of the verdict."""
    moment = datetime.fromtimestamp(action.time).isoformat(" ", "milliseconds")
    return f"{'':<8}  {moment:<23}  {action.kind:<7}  {printable(action.describe())[:110]}"
