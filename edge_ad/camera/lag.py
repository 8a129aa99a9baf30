"""How late pictures arrive, told by the camera's own clock: the network, a driver's queue or a slow decoder hold them back."""

from __future__ import annotations

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
