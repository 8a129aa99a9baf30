"""What was buffered while a stream was opened is dropped, however busy the machine is."""

from __future__ import annotations

import time

import cv2
import pytest

from edge_ad.camera.rtsp import CATCH_UP_S, RtspHandle
from edge_ad.errors import DeviceFault

PERIOD_S = 0.04


class Backlog:
    """A capture that begins ``behind_s`` late and takes ``cost_s`` for every picture that waits already."""

    def __init__(self, behind_s: float, cost_s: float, clock: bool = True) -> None:
        self._began, self._cost_s, self._clock = time.monotonic() - behind_s, cost_s, clock
        self._count = 0

    @property
    def behind_s(self) -> float:
        """How old the picture is that was grabbed last."""
        return time.monotonic() - self._began - self._count * PERIOD_S

    def grab(self) -> bool:
        self._count += 1
        time.sleep(max(-self.behind_s, self._cost_s))
        return True

    def get(self, code: int) -> float:
        return self._count * PERIOD_S * 1000.0 if code == cv2.CAP_PROP_POS_MSEC and self._clock else 0.0


def caught_up(capture: Backlog) -> bool:
    handle = object.__new__(RtspHandle)
    handle._name, handle._capture, handle.fps = "cam", capture, 1.0 / PERIOD_S  # type: ignore[assignment]
    return handle._caught_up()


@pytest.mark.parametrize("cost_s", [0.0, 0.02, 0.03])
def test_old_pictures_are_dropped_on_a_busy_machine(cost_s: float) -> None:
    """With 20 ms of work a picture looks as if it had been waited for; a second of old ones is dropped all the same."""
    capture = Backlog(0.4 if cost_s > 0.02 else 1.0, cost_s)
    assert caught_up(capture)
    assert capture.behind_s < 0.25


def test_a_fresh_stream_is_taken_within_a_second() -> None:
    began = time.monotonic()
    assert caught_up(Backlog(0.0, 0.0))
    assert time.monotonic() - began < CATCH_UP_S + 1.0


def test_a_stream_without_a_clock_is_taken_when_pictures_are_waited_for() -> None:
    assert caught_up(Backlog(0.2, 0.0, clock=False))


def test_old_pictures_without_end_are_refused() -> None:
    with pytest.raises(DeviceFault, match="old pictures"):
        caught_up(Backlog(60.0, 0.002))
