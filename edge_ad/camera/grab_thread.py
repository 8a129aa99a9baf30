"""One thread that opens a camera and hands over its images one by one; it can be left behind."""

from __future__ import annotations

import threading
import time

from edge_ad.camera.driver import Driver, Failure, Opener, RawFrame
from edge_ad.errors import EdgeAdError, is_out_of_memory
from edge_ad.utils.supervision import SupervisedThread


class GrabThread:
    """Opens a camera and grabs in a thread of its own until it fails or is abandoned; then it closes the handle.

    The image is handed over, not replaced: the thread waits until it was taken. ``busy_s`` tells for how long the
    driver has not answered.
    """

    def __init__(self, opener: Opener, name: str) -> None:
        self._opener = opener
        self._changed = threading.Condition()
        self._item: RawFrame | Failure | None = None
        self._abandoned = False
        self._asked_at: float | None = time.monotonic()
        self.handle: Driver | None = None
        self.failure: Exception | None = None
        # A daemon, because a driver that hangs cannot be ended.
        self._thread = SupervisedThread(f"camera {name}", self._run, restart=False)
        self._thread.start()

    @property
    def busy_s(self) -> float:
        """Seconds for which the driver has been at work on the present call; 0 while it waits for us."""
        asked_at = self._asked_at
        return time.monotonic() - asked_at if asked_at is not None else 0.0

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def wait_open(self, timeout_s: float) -> bool:
        """Wait until the camera is open or has failed; False when neither happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.handle is not None or self._item is not None, timeout_s)

    def take(self, timeout_s: float) -> RawFrame | Failure | None:
        """Return the next image or the failure; None when nothing came within ``timeout_s`` seconds."""
        with self._changed:
            if self._item is None:
                self._changed.wait_for(lambda: self._item is not None, timeout_s)
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def abandon(self, wait_s: float = 0.0) -> bool:
        """Stop the thread if it lets itself be stopped; False when it hangs and is left behind."""
        with self._changed:
            self._abandoned = True
            self._item = None
            self._changed.notify_all()
        if self.handle is not None:
            self.handle.abort()
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            handle = self._opener()
        except EdgeAdError as error:
            self._fail(error, str(error))
            return
        except Exception as error:
            self._fail(error, _error_text(error))
            return
        try:
            with self._changed:
                self.handle = handle
                self._changed.notify_all()
            while not self._abandoned and self._step(handle):
                pass
        except Exception as error:
            self._fail(error, _error_text(error))
        finally:
            handle.close()

    def _step(self, handle: Driver) -> bool:
        self._asked_at = time.monotonic()
        item = handle.grab()
        self._asked_at = None
        if item is not None:
            self._offer(item)
        return not isinstance(item, Failure)

    def _offer(self, item: RawFrame | Failure) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._item is None or self._abandoned)
            if not self._abandoned:
                self._item = item
                self._changed.notify_all()

    def _fail(self, error: Exception, reason: str) -> None:
        self.failure = error
        self._asked_at = None
        self._offer(Failure(reason))


def _error_text(error: Exception) -> str:
    return f"{'out of memory' if is_out_of_memory(error) else 'the driver broke'} ({type(error).__name__})"
