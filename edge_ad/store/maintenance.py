"""The keeper: a thread that makes a lost index anew, takes in stray images and keeps to the limits."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from pathlib import Path

from edge_ad.config import RecordTable
from edge_ad.errors import EdgeAdError
from edge_ad.store.recovery import Rebuilt, image_days, insert_day, metadata, rebuild
from edge_ad.store.retention import steady_s, sweep
from edge_ad.store.schema import connect
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults

_log = logging.getLogger(__name__)

EVERY_S = 60.0
MIN_S = 2.0
CHECK_EVERY_S = 3600.0
CLOSE_S = 1.0
STRAY_DAYS = 2  # a kill can leave images behind that the index does not know yet, or half written ones
HALF_WRITTEN_S = 3600.0


def yield_to_others() -> None:
    """Let the other threads of this process go first, where the system (Linux) knows priorities of threads."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class MaintenanceThread:
    """Looks after a store beside the thread that writes it, once a minute and when it is woken.

    What it cannot do is in ``fault`` and logged once; then nothing is deleted, and it tries again.
    """

    def __init__(self, path: Path, evidence: Path, limits: RecordTable, faults: ThreadFaults | None = None) -> None:
        self._path = path
        self._evidence = evidence
        self._limits = limits
        self._stop = threading.Event()
        self._wake = threading.Event()
        self.fault: str | None = None
        self.rounds = 0
        self._swept_at: float | None = None
        self._checked_at: float | None = time.monotonic()  # the store has just looked
        self._thread = SupervisedThread("keeper", self._run, faults)
        self._thread.start()

    def wake(self) -> None:
        """Ask for a round now: space is short."""
        self._wake.set()

    def close(self) -> None:
        """Stop, at the next step of what is under way."""
        self._stop.set()
        self._wake.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        yield_to_others()
        while not self._stop.is_set():
            self._wake.clear()
            fault: str | None
            try:
                fault = self._round()
            except (sqlite3.Error, OSError, EdgeAdError) as error:
                fault = f"the record cannot be tidied up: {error}"
            if fault is not None and fault != self.fault:
                _log.warning("%s", fault)
            self.fault = fault
            self.rounds += 1
            self._wake.wait(EVERY_S)
            self._stop.wait(MIN_S)

    def _round(self) -> str | None:
        with contextlib.closing(connect(self._path)) as connection:
            incomplete = metadata(connection, "rebuild") is not None
            if not incomplete and self.rounds == 0:
                result = Rebuilt()
                for day in reversed(image_days(self._evidence)[:STRAY_DAYS]):
                    insert_day(connection, self._evidence, day, result, stop=self._stop)
                    _clear(day)
        if incomplete:
            rebuilt = rebuild(self._path, self._evidence, self._stop)
            if not self._stop.is_set():
                _log.info("the index %s is complete again: %s", self._path, rebuilt)
        if self._stop.is_set():
            return None
        # A check reads much: once an hour, and until it is passed.
        check = self._checked_at is None or time.monotonic() - self._checked_at >= CHECK_EVERY_S
        self._checked_at = None if check else self._checked_at
        now, before = steady_s(), self._swept_at
        swept = sweep(self._path, self._evidence, self._limits, check=check, elapsed_s=None if before is None else now - before)
        self._swept_at = now
        self._checked_at = self._checked_at or time.monotonic()
        return swept.short or swept.clock


def _clear(day: Path) -> None:
    """Delete what `atomic_write` had begun when a process was killed."""
    for path in day.rglob(".*.jpg.*"):
        if time.time() - path.stat().st_mtime > HALF_WRITTEN_S:
            path.unlink(missing_ok=True)
