"""The thread that owns a source and fills its mailbox."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from edge_ad.camera.frames import BadFrame, End, Frame, Source, SourceError
from edge_ad.camera.mailbox import Mailbox
from edge_ad.errors import is_out_of_memory
from edge_ad.supervision import SupervisedThread

READ_TIMEOUT_S = 1.0
RETRY_S = 0.2


class Reader:
    """Reads ``source`` in a thread until its end or ``close``; a crash in the source becomes an error, then the end.

    ``prepare`` is called with a frame that waits in the mailbox: work that the loop is spared while it infers another.
    """

    def __init__(self, source: Source, mailbox: Mailbox, prepare: Callable[[Frame], object] | None = None) -> None:
        self._source = source
        self._mailbox = mailbox
        self._prepare = prepare
        self._stop = threading.Event()
        # A daemon, because a read that hangs in a driver cannot be ended: the thread is left behind.
        self._thread = SupervisedThread(f"reader {source.name}", self._run, restart=False)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def close(self, wait_s: float = 0.5) -> bool:
        """Stop reading and release the source; False when the read hangs, so that its thread had to be abandoned.

        Only the first call waits for the thread.
        """
        waited = self._stop.is_set()
        self._stop.set()
        self._mailbox.close()
        if not waited:
            self._thread.join(wait_s)
        if not self._thread.is_alive():
            self._source.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and self._step():
                pass
        except Exception as error:
            what = "out of memory" if is_out_of_memory(error) else "camera lost"
            self._mailbox.finish(End(f"{what}: the source broke ({type(error).__name__}: {error})", broken=True))

    def _step(self) -> bool:
        result = self._source.read(READ_TIMEOUT_S)
        if isinstance(result, (Frame, BadFrame)):
            before = self._mailbox.overwritten
            open_still = self._mailbox.put(result)
            # A camera that is faster than the loop would be prepared in vain: its frames replace each other.
            if self._prepare is not None and isinstance(result, Frame) and self._mailbox.overwritten == before:
                with contextlib.suppress(Exception):  # the loop meets it again, and tells it
                    self._prepare(result)
            return open_still
        if isinstance(result, End):
            self._mailbox.finish(result)
            return False
        if isinstance(result, SourceError):
            self._mailbox.fail(result)
            if self._source.kind == "live":
                self._stop.wait(RETRY_S)
        return True
