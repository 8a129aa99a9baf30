"""GStreamer pipelines as cameras: real processes, killed, stopped and wrong."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from edge_ad.camera.driver import Failure, RawFrame
from edge_ad.camera.frames import Frame, SourceError
from edge_ad.camera.gstreamer import LAUNCHER, PipelineProcess, open_pipeline
from edge_ad.camera.live import Live, Patience
from edge_ad.camera.sources import open_source
from edge_ad.errors import BadInput, DeviceFault, EdgeAdError

TEST = "videotestsrc is-live=true pattern=solid-color foreground-color=0xffe02010 ! video/x-raw,width=64,height=48"
real = pytest.mark.skipif(shutil.which(LAUNCHER) is None, reason=f"{LAUNCHER} is not installed")


def pid(handle: PipelineProcess) -> int:
    return handle._process.pid


def children(number: int) -> list[int]:
    """Return the processes that a process has started; others on this machine may run the same test."""
    lists = [path.read_text() for path in Path(f"/proc/{number}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


def gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


@real
@pytest.mark.parametrize("tail", ["", " ! videoconvert ! appsink drop=true", " !"])
def test_pictures_in_rgb(tail: str) -> None:
    handle = open_pipeline(TEST + tail, "gst")
    shots = [handle.grab() for _ in range(3)]
    number = pid(handle)  # type: ignore[arg-type]
    handle.close()
    assert gone(number)
    for shot in shots:
        assert isinstance(shot, RawFrame)
        assert shot.image is not None
        assert shot.image.shape == (48, 64, 3)
        red, green, blue = shot.image.reshape(-1, 3).mean(axis=0)
        assert red > 200 > 60 > green >= 0
        assert blue < 60


@real
def test_the_end_of_a_pipeline_is_a_failure_that_reports_it() -> None:
    handle = open_pipeline("videotestsrc num-buffers=2 ! video/x-raw,width=64,height=48", "gst")
    results = [handle.grab() for _ in range(3)]
    handle.close()
    assert [type(result) for result in results[:2]] == [RawFrame, RawFrame] or isinstance(results[1], Failure)
    assert isinstance(results[-1], Failure)
    assert "the pipeline ended" in results[-1].reason


@real
@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("no_such_element", "no_such_element"),
        ("filesrc location=/no/such/file ! decodebin", "/no/such/file|No such file"),
        ("videotestsrc ! 'unclosed", "not well quoted"),
    ],
)
def test_wrong_pipelines_give_the_words_of_gstreamer(pipeline: str, words: str) -> None:
    with pytest.raises(EdgeAdError, match=words):
        open_source(f"gst:{pipeline}")


@real
@pytest.mark.slow
def test_a_killed_pipeline_starts_again() -> None:
    handles: list[PipelineProcess] = []

    def opener() -> PipelineProcess:
        handles.append(PipelineProcess(TEST, "gst"))
        return handles[-1]

    source = Live(opener, "gst", Patience(read_s=1.0))
    source.open()
    assert isinstance(frame_of(source), Frame)
    os.kill(pid(handles[0]), signal.SIGKILL)
    assert isinstance(error_of(source), SourceError)
    assert isinstance(frame_of(source), Frame)
    # A process that stands still is a stall: it is killed, so that nothing is left behind.
    os.kill(pid(handles[1]), signal.SIGSTOP)
    assert isinstance(error_of(source), SourceError)
    assert isinstance(frame_of(source), Frame)
    assert (source.restarts.reconnects, source.restarts.stalls) == (2, 1)
    source.close()
    for handle in handles:
        wait_gone(pid(handle))
    assert source.restarts.abandoned == 0 or not any(grab_thread.alive for grab_thread in source._hanging)


def frame_of(source: Live, limit_s: float = 20.0) -> object:
    return _until(source, Frame, limit_s)


def error_of(source: Live, limit_s: float = 20.0) -> object:
    return _until(source, SourceError, limit_s)


def _until(source: Live, kind: type, limit_s: float) -> object:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        result = source.read(0.1)
        if isinstance(result, kind):
            return result
    raise AssertionError(f"no {kind.__name__} within {limit_s} s")


def wait_gone(number: int) -> None:
    end = time.monotonic() + 10.0
    while not gone(number):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_csi_without_gstreamer_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_ad.camera.opencv import has_gstreamer

    if has_gstreamer():
        pytest.skip("this OpenCV has GStreamer")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BadInput, match="needs GStreamer, which is not here: OpenCV .* built without GStreamer"):
        open_source("csi://0")


@real
def test_csi_without_argus_reports_it() -> None:
    if shutil.which("gst-inspect-1.0") and not os.system("gst-inspect-1.0 nvarguscamerasrc >/dev/null 2>&1"):
        pytest.skip("this machine has Argus")
    with pytest.raises(DeviceFault, match="nvarguscamerasrc"):
        open_source("csi://0")


SECRET = "zq-Secret-7"


@real
@pytest.mark.parametrize("pipeline", [TEST.replace("videotestsrc", f"videotestsrc name=password={SECRET}"), TEST])
def test_no_process_shows_a_password(pipeline: str) -> None:
    """A pipeline with a password gives images as any other, and ends as it does."""
    handle = open_pipeline(pipeline, "gst")
    assert isinstance(handle, PipelineProcess)
    shot = handle.grab()
    assert isinstance(shot, RawFrame)
    assert shot.image is not None
    assert shot.image.shape == (48, 64, 3)
    number = pid(handle)
    arguments = [Path(f"/proc/{one}/cmdline").read_bytes() for one in (number, *children(number))]
    assert any(b"fdsink" in result for result in arguments) == (SECRET not in pipeline)
    assert not any(SECRET.encode() in result for result in arguments)
    handle.close()
    assert gone(number)


@real
@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        (f"filesrc location=/no/such/file ! decodebin name=pw={SECRET}", "No such file|not found|/no/such/file"),
        (f"no_such_element user-pw={SECRET}", "no_such_element"),
        (f"videotestsrc num-buffers=0 name=pw={SECRET}", "ended"),
    ],
)
def test_a_wrong_pipeline_with_a_password_gives_the_words_of_gstreamer(pipeline: str, words: str) -> None:
    with pytest.raises(DeviceFault, match=words) as caught:
        open_pipeline(pipeline, "gst")
    assert SECRET not in str(caught.value)
