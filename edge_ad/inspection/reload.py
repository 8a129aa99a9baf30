"""New thresholds while the line runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from edge_ad.errors import EdgeAdError
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.observers import Observer
from edge_ad.scoring import Thresholds
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults

_log = logging.getLogger(__name__)

LoadThresholds = Callable[[Path], Thresholds]


class Reloader(Observer):
    """On ``ask`` reads the thresholds in a bundle's file again, in a thread, and gives them to the judge between two
    frames.

    What cannot be read changes nothing; both are logged.
    """

    def __init__(self, judge: Judge, load: LoadThresholds, path: Path, faults: ThreadFaults | None = None) -> None:
        self._judge = judge
        self._load = load
        self._path = path
        self._faults = faults
        self._asked = threading.Event()
        self._fresh: Thresholds | None = None
        self._thread: SupervisedThread | None = None

    def ask(self) -> None:
        """Ask for it; safe in a signal handler."""
        self._asked.set()

    def take_over(self, path: str) -> None:
        """Ask for the thresholds of another file, from now on."""
        self._path = Path(path)
        self.ask()

    def on_tick(self) -> None:
        """Start reading when asked, and take over what was read."""
        if self._thread is None and self._asked.is_set():
            self._asked.clear()
            self._thread = SupervisedThread("reload", self._read, self._faults, restart=False)
            self._thread.start()
        elif self._thread is not None and not self._thread.is_alive():
            self._thread = None
            if self._fresh is not None:
                self._judge.thresholds, self._fresh = self._fresh, None
                limits = self._judge.thresholds
                _log.info("thresholds reloaded: WARN above %.4g, NG above %.4g", limits.warn, limits.ng)

    def _read(self) -> None:
        try:
            self._fresh = self._load(self._path)
        except EdgeAdError as error:
            _log.warning("the thresholds stay as they are: %s", error)
