"""What was buffered while a stream was opened is dropped, however busy the machine is: on a clock of our own."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import pytest

from edge_ad.camera import rtsp
from edge_ad.camera.rtsp import CATCH_UP_S, RtspDriver
from edge_ad.errors import DeviceFault

PERIOD_S = 0.04


class Clock:
    """Seconds that pass only where a test lets them, but for a little at each look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += 1e-5
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    result = Clock()
    monkeypatch.setattr(rtsp, "time", SimpleNamespace(monotonic=result.monotonic))
    return result


class Backlog:
    """A capture that begins ``behind_s`` late and takes ``cost_s`` for every image that waits already."""

    def __init__(self, clock: Clock, behind_s: float, cost_s: float, stamped: bool = True) -> None:
        self._clock = clock
        self._began, self._cost_s, self._stamped = clock.now - behind_s, cost_s, stamped
        self._count = 0

    @property
    def behind_s(self) -> float:
        """How old the image is that was grabbed last."""
        return self._clock.now - self._began - self._count * PERIOD_S

    def grab(self) -> bool:
        self._count += 1
        self._clock.now += max(-self.behind_s, self._cost_s)
        return True

    def get(self, code: int) -> float:
        return self._count * PERIOD_S * 1000.0 if code == cv2.CAP_PROP_POS_MSEC and self._stamped else 0.0


def caught_up(capture: Backlog) -> bool:
    handle = object.__new__(RtspDriver)
    handle._name, handle._capture, handle.fps = "cam", capture, 1.0 / PERIOD_S  # type: ignore[assignment]
    return handle._caught_up()


@pytest.mark.parametrize("cost_s", [0.0, 0.02, 0.03])
def test_old_pictures_are_dropped_on_a_busy_machine(clock: Clock, cost_s: float) -> None:
    """With 20 ms of work an image looks as if it had been waited for; a second of old ones is dropped all the same."""
    capture = Backlog(clock, 0.4 if cost_s > 0.02 else 1.0, cost_s)
    assert caught_up(capture)
    assert capture.behind_s < 0.05


def test_a_fresh_stream_is_taken_within_a_second(clock: Clock) -> None:
    began = clock.now
    assert caught_up(Backlog(clock, 0.0, 0.0))
    assert clock.now - began < 1.0 < CATCH_UP_S


def test_a_stream_without_a_clock_is_taken_when_pictures_are_waited_for(clock: Clock) -> None:
    assert caught_up(Backlog(clock, 0.2, 0.0, stamped=False))


def test_old_pictures_without_end_are_refused(clock: Clock) -> None:
    with pytest.raises(DeviceFault, match="old images"):
        caught_up(Backlog(clock, 60.0, 0.002))
