"""Signals: how a run ends in good order, and how it is told to read its thresholds again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from edge_ad.inspection.loop import Loop

DRAIN_S = 2.0


class Stop:
    """Turns the first SIGTERM or Ctrl-C into an orderly end; a second Ctrl-C ends at once.

    A run that is not over 2 s after SIGTERM, because an engine or a disk hangs, is ended the hard way (exit 3); its
    outputs reject by themselves. SIGHUP calls ``on_reload``.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.on_reload: Callable[[], None] | None = None
        self._asked = False
        self._loop: Loop | None = None
        self._timer: threading.Timer | None = None

    def attach(self, loop: Loop) -> None:
        """Name the loop to stop; one that is asked for already stops before its first frame."""
        self._loop = loop
        if self._asked:
            loop.stop()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside this context; elsewhere than in the main thread do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal.SIGTERM: self._handle, signal.SIGINT: self._handle, signal.SIGHUP: self._reload}
        kept = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = self.interrupted or number == signal.SIGINT
        self._asked = True
        if number == signal.SIGTERM and self._timer is None:
            self._timer = threading.Timer(DRAIN_S, _end)
            self._timer.daemon = True
            self._timer.start()
        if self._loop is not None:
            self._loop.stop()

    def _reload(self, number: int, frame: FrameType | None) -> None:
        if self.on_reload is not None:
            self.on_reload()


def _end() -> None:
    print(f"error: the run did not end within {DRAIN_S:g} s of SIGTERM and was cut off", file=sys.stderr, flush=True)
    os._exit(3)
