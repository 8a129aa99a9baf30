"""What lies between a camera's reader thread and the loop: the freshest frame, or a short queue.

The thread that owns a source and fills its mailbox.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_ad.camera.frames import BadFrame, Delivered, End, Frame, Source, SourceError
from edge_ad.errors import is_out_of_memory
from edge_ad.utils.supervision import SupervisedThread

MAX_WAITING = 1024


@dataclass(frozen=True, eq=False)
class Delivery:
    """A frame, the monotonic time at which it reached the mailbox, how many frames went missing before it, and the
    first.

    Frames that were overwritten may lie between the missing ones and this one.
    """

    frame: Delivered
    arrived_at: float
    missing: int
    first_missing: int = 0


class Mailbox:
    """A slot for one frame, or a queue. ``freshest``: a new frame replaces one nobody took (counted); else the writer
    waits until there is room.

    With ``deadline_s`` (a line where every frame is a part that was called for) frames come out in their order, up to
    ``depth`` images wait and the writer never does: a frame that waited longer than ``deadline_s`` since its capture,
    or whose image had to make room, comes out as a BadFrame with its part, so that the part gets a NONE in its turn.

    No frame comes out twice: one whose index is not above the last one's is counted as overwritten. Errors and the end
    have places of their own: they never replace a frame, and all come out in the order they happened; of several errors
    in a row the first stays. Several mailboxes may share one condition, so that a reader can wait for all of them.
    ``lost`` counts the gaps in the index of what was put in: frames that never arrived.
    """

    def __init__(
        self,
        freshest: bool,
        changed: threading.Condition | None = None,
        *,
        deadline_s: float | None = None,
        depth: int = 8,
    ) -> None:
        self.freshest = freshest and deadline_s is None
        self.changed = changed or threading.Condition()
        self.captured = 0
        self.overwritten = 0
        self.errors = 0
        self.lost = 0
        self._deadline_s = deadline_s
        self._depth = depth if deadline_s is not None else 1
        self._queue: deque[Delivery] = deque()
        self._error: tuple[SourceError, float] | None = None
        self._end: End | None = None
        self._closed = False
        self._next_index = 0

    def put(self, frame: Delivered) -> bool:
        """Put a frame in; False when the mailbox is closed and the frame was not taken over."""
        arrived_at = time.monotonic()
        with self.changed:
            while self._queue and not self.freshest and self._deadline_s is None and not self._closed:
                self.changed.wait()
            if self._closed:
                return False
            self.captured += 1
            if frame.index < self._next_index:
                self.overwritten += 1
                return True
            first, missing = self._next_index, frame.index - self._next_index
            self._next_index = frame.index + 1
            self.lost += missing
            replaced = self._make_room()
            if replaced is not None and replaced.missing:
                first, missing = replaced.first_missing, missing + replaced.missing
            self._queue.append(Delivery(frame, arrived_at, missing, first))
            self.changed.notify_all()
            return True

    def _make_room(self) -> Delivery | None:
        """Give way to a new frame; return what it replaces in a slot for one."""
        if self.freshest and self._queue:
            self.overwritten += 1
            return self._queue.popleft()
        if self._deadline_s is None or len(self._queue) < self._depth:
            return None
        index = len(self._queue) - self._depth
        self._queue[index] = _corrupted(self._queue[index], f"late: {self._depth} parts that came after it were waiting")
        if len(self._queue) >= MAX_WAITING:
            self._queue.popleft()
            self.overwritten += 1
        return None

    def fail(self, error: SourceError) -> None:
        """Tell an error; it stays until it is taken, and more of them are only counted."""
        with self.changed:
            self._error = self._error or (error, time.monotonic())
            self.errors += 1
            self.changed.notify_all()

    def finish(self, end: End) -> None:
        """Tell that nothing more will come."""
        with self.changed:
            self._end = end
            self.changed.notify_all()

    @property
    def ready(self) -> bool:
        """Whether ``take`` would give something."""
        return bool(self._queue) or self._error is not None or self._end is not None

    def take(self) -> Delivery | SourceError | End | None:
        """Take the oldest of what is there, without waiting: a frame, an error (once), the end, or None."""
        with self.changed:
            if self._error is not None and (not self._queue or self._error[1] < self._queue[0].arrived_at):
                error, self._error = self._error[0], None
                return error
            if self._queue:
                delivery = self._queue.popleft()
                self.changed.notify_all()
                return self._in_time(delivery)
            return self._end

    def _in_time(self, delivery: Delivery) -> Delivery:
        waited = time.monotonic() - delivery.frame.captured_at
        if self._deadline_s is None or waited <= self._deadline_s:
            return delivery
        return _corrupted(
            delivery, f"late: taken {waited * 1000:.0f} ms after the capture, {self._deadline_s * 1000:g} ms allowed"
        )

    def close(self) -> None:
        """Take no more frames; a waiting writer goes on. A frame already here can still be taken."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def discard(self) -> None:
        """Throw untaken frames away: dropped where frames may be dropped, else as if they had never been read."""
        with self.changed:
            count = len(self._queue)
            self._queue.clear()
            if self.freshest or self._deadline_s is not None:
                self.overwritten += count
            else:
                self.captured -= count
            self.changed.notify_all()


def _corrupted(delivery: Delivery, reason: str) -> Delivery:
    """Return the delivery without its image; one that has none already keeps its reason."""
    frame = delivery.frame
    if isinstance(frame, BadFrame):
        return delivery
    bad = BadFrame(reason, frame.index, frame.captured_at, frame.captured_wall, frame.source, frame.part)
    return replace(delivery, frame=bad)


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
