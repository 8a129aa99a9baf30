"""The lag of a camera by its own clock: on numbers worked out by hand, and on the ladder of a scripted driver."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edge_ad.camera.driver import Failure, Grab, RawFrame
from edge_ad.camera.frames import Frame, SourceError
from edge_ad.camera.live import LagMeter, Live, Patience
from edge_ad.camera.settings import CameraSettings
from tests.camera.pictures import noise


def lags(meter: LagMeter, pairs: list[tuple[float, float]]) -> list[float]:
    return [round(meter.see(stamp, arrived) or 0.0, 3) for stamp, arrived in pairs]


def test_a_delay_that_grows_without_a_gap_is_seen() -> None:
    # 10 images a second, each 0.05 s later than it should be: the tenth is 0.45 s late.
    result = lags(LagMeter(), [(0.1 * step, 1000.0 + 0.15 * step) for step in range(10)])
    assert result == pytest.approx([0.05 * step for step in range(10)], abs=2e-3)


def test_the_best_frame_counts_not_the_first() -> None:
    # The first two come from a queue: 0.3 and 0.2 s late, which is known once a fresh one has come.
    assert lags(LagMeter(), [(0.0, 5.3), (0.1, 5.3), (0.2, 5.2), (0.3, 5.3), (0.4, 5.6)])[2:] == [0.0, 0.0, 0.2]


def test_a_delay_that_is_known_is_the_least_there_is() -> None:
    assert lags(LagMeter(0.7), [(0.0, 5.0), (0.1, 5.1), (0.2, 5.5), (0.5, 5.3)]) == [0.7, 0.7, 1.0, 0.7]


@pytest.mark.parametrize("drift", [-200e-6, -20e-6, 0.0, 20e-6, 190e-6])
def test_clocks_that_run_apart_are_no_lag(drift: float) -> None:
    """A day at 10 frames a second, delivered with up to 30 ms of delay: never more than that, whatever the clocks do."""
    meter, rng = LagMeter(), np.random.default_rng(1)
    real = np.arange(0.0, 86_400.0, 0.5)
    arrived = real + rng.uniform(0.0, 0.03, len(real))
    worst = max(meter.see(s, a) or 0.0 for s, a in zip((real * (1.0 - drift)).tolist(), arrived.tolist(), strict=True))
    assert worst < 0.05
    assert meter.jumps == 0


@pytest.mark.parametrize("jump", [-90_000.0, -47_721.0, -0.3, 0.6, 3600.0])
def test_a_jump_of_the_clock_is_no_lag_and_hides_none(jump: float) -> None:
    meter = LagMeter()
    steady = [(0.1 * step, 10.0 + 0.1 * step) for step in range(50)]
    assert max(lags(meter, steady)) == 0.0
    after = [(jump + 0.1 * step, 10.0 + 0.1 * step) for step in range(50, 100)]
    assert max(lags(meter, after)) < 0.01
    late = [(jump + 0.1 * step, 12.0 + 0.1 * step) for step in range(100, 110)]
    assert lags(meter, late)[0] == pytest.approx(2.0, abs=0.01)
    back = [(0.1 * step, 12.0 + 0.1 * step) for step in range(120, 130)]  # the clock jumps back while the lag goes on
    assert lags(meter, back)[-1] >= 2.0 - 0.5, "no jump makes a lag forgotten by more than half a second"


def test_a_single_wrong_stamp_does_no_lasting_harm() -> None:
    pairs = [(0.1 * step + (5.0 if step == 20 else 0.0), 0.1 * step + 7.0) for step in range(60)]
    assert max(lags(LagMeter(), pairs)) < 0.01


def test_a_frame_without_a_stamp_is_as_late_as_the_one_before() -> None:
    meter = LagMeter()
    lags(meter, [(0.0, 1.0), (0.1, 1.6)])
    assert meter.see(None, 1.7) == pytest.approx(0.5, abs=0.01)
    assert LagMeter().see(None, 1.0) is None


def test_a_clock_that_counts_something_else_is_not_used() -> None:
    meter = LagMeter()  # ticks of 8 ns taken for nanoseconds: an eighth of the time
    results = [meter.see(0.0125 * step, 3.0 + 0.1 * step) for step in range(60)]
    assert not meter.usable
    assert results[-1] is None


def test_stamps_of_our_own_clock_tell_the_whole_age() -> None:
    meter = LagMeter(shared=True)
    assert [meter.see(50.0, 50.02), meter.see(50.1, 52.1)] == pytest.approx([0.02, 2.0])
    far = LagMeter(shared=True)  # a driver that stamps by the wall clock
    assert [far.see(1.7e9, 50.0), far.see(1.7e9 + 0.1, 50.1), far.see(1.7e9 + 0.2, 51.2)] == pytest.approx(
        [0.0, 0.0, 1.0], abs=1e-3
    )


class Delayed:
    """A driver with a clock: 50 images a second, whose way takes ``delay`` seconds of what was opened first."""

    fps: float | None = 50.0
    settings = CameraSettings()

    def __init__(self, delays: list[float]) -> None:
        self._delays = iter(delays)
        self._count = 0

    def grab(self) -> Grab:
        delay = next(self._delays, None)
        if delay is None:
            return Failure("the script is over")
        time.sleep(0.002)
        self._count += 1
        # Clocks of the script: 0.02 s an image, and arrival as late as the script says.
        return RawFrame(noise(self._count), 100.0 + 0.02 * self._count + delay, 1e9, 0.02 * self._count)

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_late_pictures_count_as_captured_earlier_and_a_lasting_lag_opens_the_camera_again() -> None:
    opened: list[Delayed] = []

    def opener() -> Delayed:
        opened.append(Delayed([0.0] * 10 + [1.5] * 200) if not opened else Delayed([0.0] * 10))
        return opened[-1]

    source = Live(opener, "cam", Patience(retry_first_s=0.01, retry_cap_s=0.02))
    source.open()
    frames: list[Frame] = []
    while not isinstance(result := source.read(0.2), SourceError):
        if isinstance(result, Frame):
            frames.append(result)
    assert result.reason == "camera lost: its images arrive 1.5 s late; it is opened again to drop what waits"
    assert [frame.captured_at for frame in frames[:60]] == pytest.approx(
        [100.0 + 0.02 * count for count in range(1, 61)], abs=0.01
    )
    assert [round(frame.lag_s or 0.0, 1) for frame in frames[9:11]] == [0.0, 1.5]
    assert 50 <= len(frames) <= 62, "a second of late images, then the camera is opened again"
    while not isinstance(result := source.read(0.2), Frame):
        pass
    assert (result.index, result.lag_s) == (len(frames), 0.0)
    assert source.restarts.lags == 1
    source.close()


def test_without_the_check_nothing_is_taken_off() -> None:
    source = Live(lambda: Delayed([0.0, 5.0]), "cam", Patience(lag_s=None))
    source.open()
    frames = [result for _ in range(20) if isinstance(result := source.read(0.1), Frame)]
    assert frames[1].captured_at == pytest.approx(105.04)
    assert frames[1].lag_s is None
    source.close()
