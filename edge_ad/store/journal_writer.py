"""Follows the index into the journal: every committed event, in order, whatever was cut off before."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_ad.store.journal import Journal, event_line, files, mark_line, state_line
from edge_ad.store.recovery import metadata
from edge_ad.store.schema import COLUMNS, event_of

_log = logging.getLogger(__name__)

SYNC_S = 1.0
LOOK_S = 5.0  # between two looks whether the journal is still there
DAY_S = 86_400.0
STATE_S = 60.0
PAGE = 1000

_AFTER = f"SELECT sequence, {', '.join(COLUMNS)} FROM event WHERE sequence > ? ORDER BY sequence LIMIT {PAGE}"


class JournalWriter:
    """Copies events from the index to the journal after their commit; for one thread.

    A line is handed to the operating system at once and synced to the disk within a second: a power cut can cost the
    journal its last second. The index remembers up to where the journal is on the disk (``synced``, its fact
    ``journalled``), and everything behind that is appended again by the next run; the same line twice is harmless.
    ``fault`` says why the journal cannot be written; it catches up when that is over.
    """

    def __init__(self, evidence: Path) -> None:
        self._evidence = evidence
        self._journal = Journal(evidence)
        self.written = self.synced = 0
        self.fault: str | None = None
        self._synced_at = time.monotonic()
        self._reported_at = -STATE_S
        self._alarms: Mapping[str, Any] = {}
        self._behind = True
        self._marks_due = False  # they are in the journal from elsewhere, so only a new journal lacks them

    def begin(self, connection: sqlite3.Connection) -> None:
        """Go on where the journal ended for this index; from the beginning where there is no journal any more."""
        existing = bool(files(self._evidence))
        self.written = self.synced = int(metadata(connection, "journalled") or 0) if existing else 0
        self._behind, self._marks_due = True, self._marks_due or not existing

    def wait_s(self) -> float:
        """Return in how many seconds there is something to do."""
        if self._behind:
            return 0.0 if self.fault is None else SYNC_S
        return LOOK_S if self.synced == self.written else max(0.0, self._synced_at + SYNC_S - time.monotonic())

    def follow(
        self, connection: sqlite3.Connection, counters: Mapping[str, Mapping[str, int]], latches: Mapping[str, Any]
    ) -> None:
        """Append the next thousand events that the journal lacks, and sync when it is time.

        A state goes in once a minute and when an alarm changes.
        """
        self._look_after(connection)
        rows = connection.execute(_AFTER, (self.written,)).fetchall()
        lines = [line for row in rows if (line := _line(row)) is not None]
        if self._marks_due:
            marks = connection.execute("SELECT event, mark, by, time, name FROM mark")
            lines += [mark_line(*mark, name=name) for *mark, name in marks]
        now = time.monotonic()
        alarms = {camera: (state.get("phase"), state.get("number")) for camera, state in latches.items()}
        telling = bool(counters or latches) and (now - self._reported_at >= STATE_S or alarms != self._alarms)
        if telling:
            lines.append(state_line(counters, latches, time.time()))
        try:
            if lines:
                self._journal.append(lines)
            self.written, self._marks_due = rows[-1][0] if rows else self.written, False
            if telling:
                self._reported_at, self._alarms = now, alarms
            if now - self._synced_at >= SYNC_S:
                self._journal.sync()
                self.synced, self._synced_at = self.written, now
        except OSError as error:
            self._failed(error)
        else:
            self.fault = None
            self._behind = len(rows) == PAGE

    def _look_after(self, connection: sqlite3.Connection) -> None:
        """Begin the journal anew where somebody has removed it, from the index, which has every event."""
        if not self._journal.removed():
            return
        with contextlib.suppress(OSError):
            self._journal.close()
        before = min((path.stem for path in files(self._evidence)), default=None)
        # Older days that are still there hold what is older; all of the day that is missing goes in again.
        lost_from = 0.0 if before is None else time.time() // DAY_S * DAY_S
        first = connection.execute("SELECT min(sequence) FROM event WHERE time >= ?", (lost_from,)).fetchone()[0]
        self.written = self.synced = 0 if before is None else min(self.written, (first or self.written + 1) - 1)
        self._reported_at, self._behind, self._marks_due = -STATE_S, True, True
        _log.warning(
            "the journal in %s was removed while it was in use: it is made again from the index; "
            "images that were removed with it are gone",
            self._journal.folder,
        )

    def end(self, counters: Mapping[str, Mapping[str, int]], latches: Mapping[str, Any]) -> None:
        """Append the last state, sync and close."""
        try:
            if counters or latches:
                self._journal.append([state_line(counters, latches, time.time())])
            self._journal.sync()
            self.synced = self.written
        except OSError as error:
            self._failed(error)
        finally:
            try:
                self._journal.close()
            except OSError as error:
                self._failed(error)

    def _failed(self, error: OSError) -> None:
        self._behind = True
        self.fault = f"the journal {self._journal.folder} cannot be written: {error.strerror or error}; the index has every event"


def _line(row: tuple[Any, ...]) -> str | None:
    """Return the line of an event; None where the index holds what is no event: it must not hold up those behind it."""
    try:
        return event_line(row[0], event_of(row[1:]))
    except (ValueError, TypeError):
        return None
