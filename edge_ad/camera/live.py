"""A camera that may hang, fail and come back: the restart ladder round any driver.

How often a lost camera was tried again, and what hangs.

How late pictures arrive, told by the camera's own clock: the network, a driver's queue or a slow decoder hold them back.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass

from edge_ad.camera.driver import Failure, Opener, RawFrame
from edge_ad.camera.frames import BadFrame, End, Frame, Read, SourceError, SourceKind, Timeout
from edge_ad.camera.grab_thread import GrabThread
from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import DeviceFault, EdgeAdError
from edge_ad.utils.backoff import Backoff

MAX_ABANDONED = 3


@dataclass
class Restarts:
    """Counts of one camera: ``attempts`` to open it, ``reconnects`` after a loss, ``stalls`` (reads given up because
    they took too long), ``lags`` (opened again because pictures came too late) and ``abandoned`` reads that still hang now.
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


DRIFT = 200e-6
"""By so much per second the two clocks may run apart; a delay that grows more slowly cannot be told from that."""
JUMP_S = 0.5
SHARED_S = 30.0
NO_CLOCK = 0.2
PROBE_S = 3.0
PROBE_FRAMES = 8


class LagMeter:
    """Compares the advance of a camera's clock with ours, from the frame that came with the least delay so far.

    The stamp of a frame subtracted from the time of its arrival is an offset; the least offset is that of the frame with
    the least delay, and the lag of a frame is how far its offset lies above. The least offset may rise by ``DRIFT``, so that
    clocks which run apart do not add up. ``known_s`` is a delay that the best frame is known to have had, such as the
    answering time of the camera. With ``shared`` stamps are of our own monotonic clock, and the lag is absolute.

    A stamp that goes back, or ahead by more than ``JUMP_S`` of what is possible, is a jump of the camera's clock (a reset, a
    wrap, another time base): the lag before it is kept, because nothing says that it has gone. A clock that advances less
    than ``NO_CLOCK`` of ours from nearly every frame to the next, over three seconds, is none: ``usable`` is False from then
    on and no lag is told.
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
        self._steps = self._slow = 0

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
        least = self._least + DRIFT * max(arrived - before[1], 0.0)
        if stamp < before[0] or offset < self._least - JUMP_S:
            self.jumps += 1
            least = offset - max(self.lag_s or 0.0, 0.0)
        self._least = min(least, offset - self._known_s)

    def _probe(self, advanced: float, passed: float) -> None:
        """Count the first steps of a clock that hardly advances; one that stands still is a fault of its own."""
        assert self._began is not None
        if self._last[1] - self._began > PROBE_S and self._steps >= PROBE_FRAMES:
            return
        self._steps += 1
        self._slow += 0.0 < advanced < NO_CLOCK * passed
        if self._last[1] + passed - self._began > PROBE_S and self._steps >= PROBE_FRAMES:
            self.usable = self._slow < 0.9 * self._steps


_HALF_OF_16_BITS = 1 << 15
LAG_HOLD_S = 1.0
SLICE_S = 0.25
"""A read returns at least so often, so that whoever reads can be stopped."""


@dataclass(frozen=True)
class Patience:
    """How long a driver may take, in seconds: to open, to give its first picture, and to give each later one.

    ``read_s`` is the least limit of a read; with a known rate it is two frame times if they are longer. A camera that
    gave pictures for ``stable_s`` starts at the bottom of the ladder when it is lost again. A camera whose pictures arrive
    more than ``lag_s`` late for a second is opened again, which drops what waits on the way; None: its clock is not used.
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
    the frames go on over a restart. ``lag_s`` is how late the last picture arrived, by the camera's own clock; frames count
    as captured so much earlier.
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
        self._pump: GrabThread | None = None
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
        self._number: int | None = None
        self._counts = False  # whether the camera's frame numbers were seen to go on
        self._late_since: float | None = None

    @property
    def lag_s(self) -> float | None:
        """How late the last picture arrived, in seconds; None where the camera has no clock."""
        return self._meter.lag_s if self._meter is not None else None

    def open(self) -> None:
        """Open the camera now; BadInput or DeviceFault when it cannot be opened in time."""
        pump = self._start()
        opened = pump.wait_open(self._patience.open_s)
        if pump.handle is not None:
            self._adopt(pump)
            return
        self._drop(pump, hanging=not opened)
        if isinstance(pump.failure, EdgeAdError):
            raise pump.failure
        why = f"the driver broke: {type(pump.failure).__name__}" if pump.failure else "it did not open in time"
        raise DeviceFault(f"camera {self.name!r} cannot be opened: {why} ({self._patience.open_s:g} s allowed)")

    def read(self, timeout_s: float) -> Read:
        """Return the next frame; Timeout when none came yet, SourceError while the camera is lost."""
        if self._closed:
            return End()
        timeout_s = min(timeout_s, SLICE_S)
        if self._pump is None:
            wait = self._next_try - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, timeout_s))
                return SourceError(self._reason)
            if not self._may_start():
                time.sleep(timeout_s)
                return SourceError(self._reason)
            self._start()
        return self._take(timeout_s)

    def close(self) -> None:
        """Release the camera; a driver that hangs is left behind."""
        self._closed = True
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.abandon(wait_s=0.5)

    def _start(self) -> GrabThread:
        self.restarts.attempts += 1
        self._pump = GrabThread(self._opener, self.name)
        return self._pump

    def _may_start(self) -> bool:
        self._hanging = [pump for pump in self._hanging if pump.alive]
        self.restarts.abandoned = len(self._hanging)
        if not self.restarts.stuck:
            return True
        self._reason = f"camera lost: {len(self._hanging)} calls hang in the driver; end the program to free them"
        return False

    def _adopt(self, pump: GrabThread) -> None:
        """Take over what the camera says of itself, once after each opening."""
        if pump.handle is None or self._was_open:
            return
        self._was_open, self._first, self._since = True, True, time.monotonic()
        self._openings += 1
        self.fps, self.settings = pump.handle.fps, pump.handle.settings
        self._late_since, self._number, self._counts = None, None, False
        if self._patience.lag_s is not None:
            known, shared = getattr(pump.handle, "delay_s", 0.0), getattr(pump.handle, "shared_clock", False)
            self._meter = LagMeter(known, shared=shared)

    def _take(self, timeout_s: float) -> Read:
        pump = self._pump
        assert pump is not None
        item = pump.take(min(timeout_s, max(self._limit_s(pump) - pump.busy_s, 0.0) + 0.01))
        self._adopt(pump)
        if isinstance(item, RawFrame):
            return self._behind(pump, item) or self._frame(item)
        if isinstance(item, Failure):
            return self._lost(pump, item.reason, hanging=False)
        limit = self._limit_s(pump)
        if pump.busy_s > limit:
            message = "gave no frame" if pump.handle is not None else "did not open"
            return self._lost(pump, f"{self.name} {message} within {limit:g} s", hanging=True)
        return Timeout(timeout_s)

    def _behind(self, pump: GrabThread, shot: RawFrame) -> Read | None:
        """Measure how late a picture is; give the camera up when that has been too much for a while."""
        lag = self._meter.see(shot.stamp, shot.captured_at) if self._meter is not None else None
        allowed = self._patience.lag_s
        if lag is None or allowed is None or lag <= allowed:
            self._late_since = None
            return None
        self._late_since = shot.captured_at if self._late_since is None else self._late_since
        if shot.captured_at - self._late_since < LAG_HOLD_S:
            return None
        self.restarts.lags += 1
        return self._lost(pump, f"its pictures arrive {lag:.1f} s late; it is opened again to drop what waits", False)

    def _stale(self, number: int | None) -> str | None:
        """Return why the camera's own number tells that a picture is not new, or None."""
        before, self._number = self._number, number
        if number is None or before is None:
            return None
        # Numbers of 16 bits begin again.
        if number > before or before - number > _HALF_OF_16_BITS:
            self._counts = True
            return None
        if not self._counts:
            return None
        return f"frozen: the camera's frame number is {number} after {before}: a picture that was there before"

    def _limit_s(self, pump: GrabThread) -> float:
        if pump.handle is None:
            return self._patience.open_s
        if self._first:
            return self._patience.first_s
        return max(self._patience.read_s, 2.0 / self.fps if self.fps else 0.0)

    def _lost(self, pump: GrabThread, reason: str, hanging: bool) -> Read:
        if self._was_open and not self._first and time.monotonic() - self._since > self._patience.stable_s:
            self._backoff.reset()
        self._drop(pump, hanging)
        self._reason = f"camera lost: {reason}"
        return SourceError(self._reason)

    def _drop(self, pump: GrabThread, hanging: bool) -> None:
        self._pump, self._was_open = None, False
        self._next_try = time.monotonic() + self._backoff.next_s()
        self.restarts.stalls += hanging
        if not pump.abandon(wait_s=0.05 if hanging else 1.0):
            self._hanging.append(pump)
        self.restarts.abandoned = len(self._hanging)

    def _frame(self, shot: RawFrame) -> Read:
        if self._first and self._index:
            self.restarts.reconnects += 1
        self._first = False
        index, self._index = self._index, self._index + 1
        lag = self.lag_s
        captured_at, wall = shot.captured_at - (lag or 0.0), shot.captured_wall - (lag or 0.0)
        stale = self._stale(shot.number)
        if shot.image is None or stale:
            reason = stale or f"corrupt: {shot.corrupt or 'the camera gave an empty frame'}"
            return BadFrame(reason, index, captured_at, wall, self.name, str(index))
        return Frame(
            shot.image, index, captured_at, wall, self.name, str(index), shot.stamp,
            lag_s=lag, number=shot.number, opening=self._openings,
        )  # fmt: skip
