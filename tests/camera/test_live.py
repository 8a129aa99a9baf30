"""The restart ladder: a camera that fails, hangs, comes back, or never does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from edge_ad.camera.driver import Failure, Grab, RawFrame
from edge_ad.camera.frames import BadFrame, End, Frame, Read, SourceError, Timeout
from edge_ad.camera.live import MAX_ABANDONED, Live, Patience
from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import BadInput, DeviceFault
from tests.camera.pictures import noise

QUICK = Patience(open_s=0.3, first_s=0.3, read_s=0.2, stable_s=0.0, retry_first_s=0.01, retry_cap_s=0.02)


class Scripted:
    """A driver that does what it is told, one word a grab: shot, fail, hang, wait, empty, break."""

    fps: float | None = None
    settings = CameraSettings(gain=3.0)

    def __init__(self, *script: str) -> None:
        self._script = iter(script)
        self.released = threading.Event()
        self.closed = threading.Event()

    def grab(self) -> Grab:
        word = next(self._script, "fail")
        if word == "hang":
            self.released.wait()
            return Failure("released")
        if word == "break":
            raise RuntimeError("user:secret")
        if word == "wait":
            time.sleep(0.01)
            return None
        if word == "empty":
            return RawFrame(None, 1.0, 2.0)
        return RawFrame(noise(1), 1.0, 2.0, 3.0) if word == "shot" else Failure("the cable is out")

    def abort(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


class Shelf:
    """Gives one driver after the other; a string instead of a driver is a refusal."""

    def __init__(self, *entries: Scripted | str) -> None:
        self.entries = list(entries)
        self.opened = 0

    def __call__(self) -> Scripted:
        entry = self.entries[min(self.opened, len(self.entries) - 1)]
        self.opened += 1
        if isinstance(entry, str):
            raise DeviceFault(entry)
        return entry


def read_until(source: Live, wanted: Callable[[Read], bool], limit_s: float = 20.0) -> list[Read]:
    results: list[Read] = []
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        results.append(source.read(0.05))
        if wanted(results[-1]):
            return results
    raise AssertionError(f"not within {limit_s} s: {results[-3:]}")


def is_frame(result: Read) -> bool:
    return isinstance(result, (Frame, BadFrame))


def test_frames_have_numbers_stamps_and_the_settings_found() -> None:
    source = Live(Shelf(Scripted("shot", "wait", "shot", "empty", "hang")), "cam", QUICK)
    source.open()
    results = [read_until(source, is_frame)[-1] for _ in range(3)]
    frames = [result for result in results if isinstance(result, Frame)]
    assert [frame.index for frame in frames] == [0, 1]
    assert (frames[0].stamp, frames[0].captured_at, frames[0].captured_wall, frames[0].part) == (3.0, 1.0, 2.0, "0")
    assert isinstance(results[2], BadFrame)
    assert results[2].reason.startswith("corrupt")
    assert source.settings == CameraSettings(gain=3.0)
    source.close()
    assert isinstance(source.read(0.01), End)


def test_a_camera_that_fails_is_opened_again_and_numbers_go_on() -> None:
    shelf = Shelf(Scripted("shot"), "still away", "still away", Scripted("shot", "hang"))
    source = Live(shelf, "cam", QUICK)
    source.open()
    read_until(source, is_frame)
    results = read_until(source, is_frame)
    message = {result.reason for result in results if isinstance(result, SourceError)}
    assert message == {"camera lost: the cable is out", "camera lost: still away"}
    assert isinstance(results[-1], Frame)
    assert results[-1].index == 1
    assert (source.restarts.attempts, source.restarts.reconnects) == (4, 1)
    assert shelf.entries[0].closed.wait(5.0)  # type: ignore[union-attr]
    source.close()


def test_a_read_that_hangs_is_left_behind_and_released_later() -> None:
    stuck = Scripted("shot", "hang")
    source = Live(Shelf(stuck, Scripted("shot", "hang")), "cam", QUICK)
    source.open()
    read_until(source, is_frame)
    results = read_until(source, is_frame)
    assert any(isinstance(result, SourceError) and "gave no frame within 0.2 s" in result.reason for result in results)
    assert (source.restarts.stalls, source.restarts.abandoned) == (1, 1)
    assert not stuck.closed.is_set()
    stuck.released.set()
    assert stuck.closed.wait(5.0), "the thread that was left behind closes its handle"
    source.close()


def test_no_more_than_a_few_threads_are_left_behind() -> None:
    stuck = [Scripted("shot", "hang") for _ in range(10)]
    shelf = Shelf(*stuck)
    source = Live(shelf, "cam", QUICK)
    source.open()
    read_until(source, lambda result: isinstance(result, SourceError) and "hang in the driver" in result.reason)
    assert shelf.opened == MAX_ABANDONED == source.restarts.abandoned
    stuck[0].released.set()
    read_until(source, is_frame)
    assert shelf.opened == MAX_ABANDONED + 1
    source.close()
    for driver in stuck:
        driver.released.set()


def test_a_hundred_losses_leave_no_thread_and_no_handle() -> None:
    drivers = [Scripted("shot") for _ in range(100)]
    source = Live(Shelf(*drivers, Scripted("shot", "hang")), "cam", QUICK)
    source.open()
    before = set(threading.enumerate())
    for _ in range(101):
        read_until(source, is_frame)
    assert len(set(threading.enumerate()) - before) <= 1  # that of the driver in use
    assert source.restarts.reconnects == 100
    assert all(driver.closed.is_set() for driver in drivers)
    source.close()


def test_waiting_for_a_trigger_is_no_stall() -> None:
    source = Live(Shelf(Scripted("shot", *["wait"] * 60, "shot", "hang")), "cam", QUICK)
    source.open()
    read_until(source, is_frame)
    results = read_until(source, is_frame)
    assert all(isinstance(result, (Timeout, Frame)) for result in results)
    assert source.restarts.stalls == 0
    source.close()


def test_a_driver_that_breaks_is_a_failure_without_its_words() -> None:
    source = Live(Shelf(Scripted("shot", "break"), Scripted("shot", "hang")), "cam", QUICK)
    source.open()
    read_until(source, is_frame)
    results = read_until(source, is_frame)
    messages = [result.reason for result in results if isinstance(result, SourceError)]
    assert messages[0] == "camera lost: the driver broke (RuntimeError)"
    assert "secret" not in repr(results[:-1])
    source.close()


def test_opening_reports_the_driver_s_own_error() -> None:
    with pytest.raises(DeviceFault, match="in use"):
        Live(Shelf("in use"), "cam", QUICK).open()

    def wrong() -> Scripted:
        raise BadInput("no such setting")

    with pytest.raises(BadInput, match="no such setting"):
        Live(wrong, "cam", QUICK).open()


def test_opening_that_hangs_is_given_up() -> None:
    free = threading.Event()

    def hanging() -> Scripted:
        free.wait()
        return Scripted()

    source = Live(hanging, "cam", QUICK)
    with pytest.raises(DeviceFault, match="did not open in time"):
        source.open()
    assert source.restarts.stalls == 1
    free.set()
