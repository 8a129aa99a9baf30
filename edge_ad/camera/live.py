"""A camera that may hang, fail and come back: one thread opens it and hands over its images, and a restart policy stands
round any driver. How late images arrive is told by the camera's own clock.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from edge_ad.camera.driver import Adjustable, Driver, Failure, Opener, RawFrame
from edge_ad.camera.frames import BadFrame, End, Frame, Read, SourceError, SourceKind, Timeout
from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import DeviceFault, EdgeAdError, is_out_of_memory
from edge_ad.utils.supervision import Backoff, SupervisedThread

TAKES_OVER = "settings: the camera takes over those of another product"  # no fault of the camera
SETTLE_FRAMES = 6
"""So many images may have been exposed before a change of settings: in buffers of the driver, in the sensor."""


@dataclass(eq=False)
class Adjustment:
    """A change of settings while a camera gives images; ``done`` is set when an image shows it, or ``fault`` says why none will."""

    settings: CameraSettings
    number: int
    fault: str | None = None
    done: threading.Event = field(default_factory=threading.Event)


class GrabThread:
    """Opens a camera and grabs in a thread of its own until it fails or is abandoned; then it closes the handle.

    The image is handed over, not replaced: the thread waits until it was taken. ``busy_s`` tells for how long the
    driver has not answered. ``asked`` are settings that the camera gets before its first image.
    """

    def __init__(self, opener: Opener, name: str, asked: Adjustment | None = None) -> None:
        self._opener = opener
        self._adjustment, self._applied = asked, 0
        self._frames = 0  # since settings were applied
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

    def adjust(self, asked: Adjustment) -> None:
        """Set the camera before the next image; from any thread."""
        self._adjustment = asked

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
        asked = self._adjustment
        if asked is not None and asked.number != self._applied:
            self._apply(handle, asked)
        item = handle.grab()
        self._asked_at = None
        if isinstance(item, RawFrame) and asked is not None and asked.fault is None:
            self._frames += 1
            item = replace(item, adjustment=asked.number if self._frames > SETTLE_FRAMES else 0)
        if item is not None:
            self._offer(item)
        return not isinstance(item, Failure)

    def _apply(self, handle: Driver, asked: Adjustment) -> None:
        """Set the camera; what it does not take is a fault of the adjustment, not of the camera."""
        self._applied, self._frames = asked.number, 0
        asked.fault = None
        try:
            if not isinstance(handle, Adjustable):
                raise DeviceFault("it cannot be set while it gives images")
            handle.adjust(asked.settings)
        except Exception as error:
            asked.fault = str(error) if isinstance(error, EdgeAdError) else _error_text(error)
            asked.done.set()

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


_log = logging.getLogger(__name__)

MAX_ABANDONED = 3


@dataclass
class Restarts:
    """Counts of one camera: ``attempts`` to open it, ``reconnects`` after a loss, ``stalls`` (reads given up because
    they took too long), ``lags`` (opened again because images came too late) and ``abandoned`` reads that still hang
    now.
    """

    attempts: int = 0
    reconnects: int = 0
    stalls: int = 0
    abandoned: int = 0
    lags: int = 0

    @property
    def stuck(self) -> bool:
        """Whether so many calls hang that no further one is begun: only a new process frees them."""
        return self.abandoned >= MAX_ABANDONED


@runtime_checkable
class Restarting(Protocol):
    """A source that opens its camera again by itself, and counts that."""

    restarts: Restarts


DRIFT = 200e-6
"""By so much per second the two clocks may run apart; a delay that grows more slowly cannot be told from that."""
JUMP_S = 0.5
SHARED_S = 30.0
NO_CLOCK = 0.2
PROBE_S = 3.0
PROBE_FRAMES = 8


class LagMeter:
    """Compares the advance of a camera's clock with ours, from the frame that came with the least delay so far.

    The stamp of a frame subtracted from the time of its arrival is an offset; the least offset is that of the frame
    with the least delay, and the lag of a frame is how far its offset lies above. The least offset may rise by
    ``DRIFT``, so that clocks which run apart do not add up. ``known_s`` is a delay that the best frame is known to have
    had, such as the answering time of the camera. With ``shared`` stamps are of our own monotonic clock, and the lag is
    absolute.

    A stamp that goes back, or ahead by more than ``JUMP_S`` of what is possible, is a jump of the camera's clock (a
    reset, a wrap, another time base): the lag before it is kept, because nothing says that it has gone. A clock that
    advances less than ``NO_CLOCK`` of ours from nearly every frame to the next, over three seconds, is none: ``usable``
    is False from then on and no lag is told.
    """

    def __init__(self, known_s: float = 0.0, *, shared: bool = False) -> None:
        self.lag_s: float | None = None
        self.jumps = 0
        self.usable = True
        self._known_s = known_s
        self._shared = shared
        self._least = 0.0
        self._began: float | None = None
        self._last: tuple[float, float] = (0.0, 0.0)
        self._steps = self._slow_steps = 0

    def see(self, stamp: float | None, arrived: float) -> float | None:
        """Take in a frame by its ``stamp`` and its arrival, in seconds; return its lag, or None without a clock.

        A frame without a stamp is as late as the one before.
        """
        if stamp is None or not self.usable:
            return self.lag_s
        if self._shared and -JUMP_S <= arrived - stamp <= SHARED_S:
            self.lag_s = max(arrived - stamp, 0.0)
            return self.lag_s
        if self._began is None:
            self._began, self._least = arrived, arrived - stamp - self._known_s
        else:
            self._follow(stamp, arrived)
            self._probe(stamp - self._last[0], arrived - self._last[1])
        self._last = (stamp, arrived)
        self.lag_s = arrived - stamp - self._least if self.usable else None
        return self.lag_s

    def _follow(self, stamp: float, arrived: float) -> None:
        offset, before = arrived - stamp, self._last
        minimum = self._least + DRIFT * max(arrived - before[1], 0.0)
        if stamp < before[0] or offset < self._least - JUMP_S:
            self.jumps += 1
            minimum = offset - max(self.lag_s or 0.0, 0.0)
        self._least = min(minimum, offset - self._known_s)

    def _probe(self, advanced: float, passed: float) -> None:
        """Count the first steps of a clock that hardly advances; one that stands still is a fault of its own."""
        assert self._began is not None
        if self._last[1] - self._began > PROBE_S and self._steps >= PROBE_FRAMES:
            return
        self._steps += 1
        self._slow_steps += 0.0 < advanced < NO_CLOCK * passed
        if self._last[1] + passed - self._began > PROBE_S and self._steps >= PROBE_FRAMES:
            self.usable = self._slow_steps < 0.9 * self._steps


_HALF_OF_16_BITS = 1 << 15
LAG_HOLD_S = 1.0
SLICE_S = 0.25
"""A read returns at least so often, so that whoever reads can be stopped."""


@dataclass(frozen=True)
class Patience:
    """How long a driver may take, in seconds: to open, to give its first image, and to give each later one.

    ``read_s`` is the least limit of a read; with a known rate it is two frame times if they are longer. A camera that
    gave images for ``stable_s`` starts with the shortest wait when it is lost again. A camera whose images arrive
    more than ``lag_s`` late for a second is opened again, which drops what waits on the way; None: its clock is not
    used.
    """

    open_s: float = 10.0
    first_s: float = 10.0
    read_s: float = 2.0
    stable_s: float = 5.0
    retry_first_s: float = 0.2
    retry_cap_s: float = 1.5
    lag_s: float | None = 1.0


class Live:
    """A live camera. Its driver runs in a thread of its own, which is left behind when a call takes too long.

    A camera that fails or stalls is opened again after 0.2, 0.4 ... at most 1.5 s (with jitter), without end;
    ``restarts`` counts it. While ``MAX_ABANDONED`` calls hang in the driver no further one is begun. The numbers of
    the frames go on over a restart. ``lag_s`` is how late the last image arrived, by the camera's own clock; frames
    count as captured so much earlier.
    """

    kind: SourceKind = "live"

    def __init__(self, opener: Opener, name: str, patience: Patience | None = None) -> None:
        self.name = name
        self.fps: float | None = None
        self.settings = CameraSettings()
        self.restarts = Restarts()
        self._opener = opener
        self._patience = patience or Patience()
        seed = zlib.crc32(name.encode())
        self._backoff = Backoff(self._patience.retry_first_s, self._patience.retry_cap_s, seed)
        self._grab_thread: GrabThread | None = None
        self._hanging: list[GrabThread] = []
        self._index = 0
        self._openings = 0
        self._first = True
        self._since = 0.0
        self._next_try = 0.0
        self._reason = f"camera lost: {name} was not opened yet"
        self._was_open = False
        self._closed = False
        self._meter: LagMeter | None = None
        self._adjustment: Adjustment | None = None
        self._number: int | None = None
        self._counts = False  # whether the camera's frame numbers were seen to go on
        self._late_since: float | None = None

    @property
    def lag_s(self) -> float | None:
        """How late the last image arrived, in seconds; None where the camera has no clock."""
        return self._meter.lag_s if self._meter is not None else None

    def open(self) -> None:
        """Open the camera now; BadInput or DeviceFault when it cannot be opened in time."""
        grab_thread = self._start()
        opened = grab_thread.wait_open(self._patience.open_s)
        if grab_thread.handle is not None:
            self._take_over(grab_thread)
            return
        self._drop(grab_thread, hanging=not opened)
        if isinstance(grab_thread.failure, EdgeAdError):
            raise grab_thread.failure
        why = f"the driver broke: {type(grab_thread.failure).__name__}" if grab_thread.failure else "it did not open in time"
        raise DeviceFault(f"camera {self.name!r} cannot be opened: {why} ({self._patience.open_s:g} s allowed)")

    def read(self, timeout_s: float) -> Read:
        """Return the next frame; Timeout when none came yet, SourceError while the camera is lost."""
        if self._closed:
            return End()
        timeout_s = min(timeout_s, SLICE_S)
        if self._grab_thread is None:
            wait = self._next_try - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, timeout_s))
                return SourceError(self._reason)
            if not self._may_start():
                time.sleep(timeout_s)
                return SourceError(self._reason)
            self._start()
        return self._take(timeout_s)

    def adjust(self, settings: CameraSettings) -> Adjustment:
        """Set the camera while it gives images, from any thread, and again after every loss of it; does not wait.

        Until an image shows the settings for certain every one is a BadFrame.
        """
        number = 1 if self._adjustment is None else self._adjustment.number + 1
        self._adjustment = asked = Adjustment(settings, number)
        grab_thread = self._grab_thread
        if grab_thread is not None:
            grab_thread.adjust(asked)
        return asked

    def close(self) -> None:
        """Release the camera; a driver that hangs is left behind."""
        self._closed = True
        grab_thread, self._grab_thread = self._grab_thread, None
        if grab_thread is not None:
            grab_thread.abandon(wait_s=0.5)

    def _start(self) -> GrabThread:
        self.restarts.attempts += 1
        self._grab_thread = GrabThread(self._opener, self.name, self._adjustment)
        if self._adjustment is not None:  # one that came meanwhile
            self._grab_thread.adjust(self._adjustment)
        return self._grab_thread

    def _may_start(self) -> bool:
        self._hanging = [grab_thread for grab_thread in self._hanging if grab_thread.alive]
        self.restarts.abandoned = len(self._hanging)
        if not self.restarts.stuck:
            return True
        self._reason = f"camera lost: {len(self._hanging)} calls hang in the driver; end the program to free them"
        return False

    def _take_over(self, grab_thread: GrabThread) -> None:
        """Take over what the camera says of itself, once after each opening."""
        if grab_thread.handle is None or self._was_open:
            return
        self._was_open, self._first, self._since = True, True, time.monotonic()
        self._openings += 1
        _log.debug("camera %s: opened (%d so far)", self.name, self._openings)
        self.fps, self.settings = grab_thread.handle.fps, grab_thread.handle.settings
        self._late_since, self._number, self._counts = None, None, False
        if self._patience.lag_s is not None:
            known, shared = getattr(grab_thread.handle, "delay_s", 0.0), getattr(grab_thread.handle, "shared_clock", False)
            self._meter = LagMeter(known, shared=shared)

    def _take(self, timeout_s: float) -> Read:
        grab_thread = self._grab_thread
        assert grab_thread is not None
        item = grab_thread.take(min(timeout_s, max(self._limit_s(grab_thread) - grab_thread.busy_s, 0.0) + 0.01))
        self._take_over(grab_thread)
        if isinstance(item, RawFrame):
            return self._behind(grab_thread, item) or self._frame(item)
        if isinstance(item, Failure):
            return self._lost(grab_thread, item.reason, hanging=False)
        limit = self._limit_s(grab_thread)
        if grab_thread.busy_s > limit:
            message = "gave no frame" if grab_thread.handle is not None else "did not open"
            return self._lost(grab_thread, f"{self.name} {message} within {limit:g} s", hanging=True)
        return Timeout(timeout_s)

    def _behind(self, grab_thread: GrabThread, raw: RawFrame) -> Read | None:
        """Measure how late an image is; give the camera up when that has been too much for a while."""
        lag = self._meter.see(raw.stamp, raw.captured_at) if self._meter is not None else None
        allowed = self._patience.lag_s
        if lag is None or allowed is None or lag <= allowed:
            self._late_since = None
            return None
        self._late_since = raw.captured_at if self._late_since is None else self._late_since
        if raw.captured_at - self._late_since < LAG_HOLD_S:
            return None
        self.restarts.lags += 1
        return self._lost(grab_thread, f"its images arrive {lag:.1f} s late; it is opened again to drop what waits", False)

    def _stale(self, number: int | None) -> str | None:
        """Return why the camera's own number tells that an image is not new, or None."""
        before, self._number = self._number, number
        if number is None or before is None:
            return None
        # Numbers of 16 bits begin again.
        if number > before or before - number > _HALF_OF_16_BITS:
            self._counts = True
            return None
        if not self._counts:
            return None
        return f"frozen: the camera's frame number is {number} after {before}: an image that was there before"

    def _unsettled(self, raw: RawFrame) -> str | None:
        """Return why an image may not show the settings that were asked for last, or None."""
        asked = self._adjustment
        if asked is None:
            return None
        if asked.fault is not None:
            return f"settings: {asked.fault}"
        if raw.adjustment != asked.number:
            return TAKES_OVER
        handle = None if self._grab_thread is None else self._grab_thread.handle
        if handle is not None and handle.settings is not self.settings:
            self.settings = handle.settings
        asked.done.set()
        return None

    def _limit_s(self, grab_thread: GrabThread) -> float:
        if grab_thread.handle is None:
            return self._patience.open_s
        if self._first:
            return self._patience.first_s
        return max(self._patience.read_s, 2.0 / self.fps if self.fps else 0.0)

    def _lost(self, grab_thread: GrabThread, reason: str, hanging: bool) -> Read:
        if self._was_open and not self._first and time.monotonic() - self._since > self._patience.stable_s:
            self._backoff.reset()
        self._drop(grab_thread, hanging)
        _log.debug("camera %s: lost: %s", self.name, reason)
        self._reason = f"camera lost: {reason}"
        return SourceError(self._reason)

    def _drop(self, grab_thread: GrabThread, hanging: bool) -> None:
        self._grab_thread, self._was_open = None, False
        self._next_try = time.monotonic() + self._backoff.next_s()
        self.restarts.stalls += hanging
        if not grab_thread.abandon(wait_s=0.05 if hanging else 1.0):
            self._hanging.append(grab_thread)
        self.restarts.abandoned = len(self._hanging)

    def _frame(self, raw: RawFrame) -> Read:
        if self._first and self._index:
            self.restarts.reconnects += 1
        self._first = False
        index, self._index = self._index, self._index + 1
        lag = self.lag_s
        captured_at, wall = raw.captured_at - (lag or 0.0), raw.captured_wall - (lag or 0.0)
        stale = self._stale(raw.number) or self._unsettled(raw)
        if raw.image is None or stale:
            reason = stale or f"corrupt: {raw.corrupt or 'the camera gave an empty frame'}"
            return BadFrame(reason, index, captured_at, wall, self.name, str(index))
        return Frame(
            raw.image, index, captured_at, wall, self.name, str(index), raw.stamp,
            lag_s=lag, number=raw.number, opening=self._openings,
        )  # fmt: skip
