"""How a pipeline's process is ended: interrupted so that it takes itself down, once, and killed only when it hangs."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_ad.camera import gstreamer
from edge_ad.camera.frames import Frame
from edge_ad.camera.gstreamer import LAUNCHER, PipelineProcess, registry_path
from edge_ad.camera.sources import open_source
from edge_ad.errors import DeviceFault
from tests.camera.test_gstreamer import TEST, frame_of, gone, pid, wait_gone

pytestmark = pytest.mark.any_version

real = pytest.mark.skipif(shutil.which(LAUNCHER) is None, reason=f"{LAUNCHER} is not installed")

# Stands in where Argus is needed: gives images, and writes down which signals it got. Like gst-launch it takes its
# pipeline down at the first SIGINT and dies at the second.
STAND_IN = """#!{python}
import os, signal, sys, time
log = open({log!r}, "a", buffering=1)
log.write("words " + " ".join(sys.argv[1:]) + "\\n")
log.write("registry " + os.environ.get("GST_REGISTRY", "") + "\\n")
stop = []
def interrupted(number, frame):
    log.write("SIGINT\\n")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stop.append(number)
def terminated(number, frame):
    log.write("SIGTERM\\n")
    os._exit(1)
signal.signal(signal.SIGINT, signal.SIG_IGN if {stubborn!r} else interrupted)
signal.signal(signal.SIGTERM, terminated)
time.sleep({wait})
fd = int(sys.argv[-1].partition("=")[2])
try:
    while not stop:
        os.write(fd, b"P6\\n4 2\\n255\\n" + bytes(24))
        time.sleep(0.01)
except BrokenPipeError:
    log.write("EPIPE\\n")
time.sleep(0.2)
log.write("taken down\\n")
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool = False, wait: float = 0.0) -> Path:
    """Put a recording gst-launch-1.0 first on the path, and return its log."""
    log = folder / "signals.log"
    script = folder / "bin" / LAUNCHER
    script.parent.mkdir()
    script.write_text(STAND_IN.format(python=sys.executable, log=str(log), stubborn=stubborn, wait=wait))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return log


def events(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if not line.startswith(("words", "registry"))]


def test_argus_is_taken_down_when_the_source_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = stand_in(tmp_path, monkeypatch)
    source = open_source("csi://0")
    assert isinstance(frame_of(source), Frame)  # type: ignore[arg-type]
    source.close()
    wait_for(log, "taken down")
    assert events(log) == ["SIGINT", "taken down"]
    assert "nvarguscamerasrc sensor-id=0" in log.read_text()


def test_argus_is_taken_down_when_the_program_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that holds the camera is a daemon: nobody else would wait for it."""
    log = stand_in(tmp_path, monkeypatch)
    program = "from edge_ad.camera.sources import open_source; open_source('csi://0').read(1.0)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert events(log) == ["SIGINT", "taken down"]


def test_a_ctrl_c_of_the_terminal_reaches_the_pipeline_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to the whole foreground group; gst-launch dies at its second SIGINT without taking anything down."""
    log = stand_in(tmp_path, monkeypatch)
    program = (
        "from edge_ad.camera.sources import open_source\nsource = open_source('csi://0')\n"
        "try:\n    print('open', flush=True)\n    while True: source.read(0.2)\nexcept KeyboardInterrupt: source.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    assert events(log) == ["SIGINT", "taken down"]


def test_argus_is_taken_down_when_the_program_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = stand_in(tmp_path, monkeypatch)
    program = (
        "import os; from edge_ad.camera.sources import open_source; open_source('csi://0'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    wait_for(log, "taken down")
    assert events(log) == ["EPIPE", "taken down"]


def test_a_pipeline_that_ignores_the_interrupt_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = stand_in(tmp_path, monkeypatch, stubborn=True)
    monkeypatch.setattr(gstreamer, "STOP_S", 0.3)
    handle = PipelineProcess("nvarguscamerasrc", "csi")
    handle.close()
    assert gone(pid(handle))
    assert events(log) == []
    other = PipelineProcess("nvarguscamerasrc", "csi")
    other.abort()
    end = time.monotonic() + 30.0
    while other._process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert other._process.returncode == -signal.SIGKILL
    other.close()


def test_a_sensor_may_take_longer_to_start_than_another_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, wait=1.5)
    monkeypatch.setattr(gstreamer, "OPEN_S", 0.5)
    with pytest.raises(DeviceFault, match="no image within 0.5 s"):
        open_source("gst:videotestsrc")
    open_source("csi://0").close()


def test_a_sensor_that_gives_nothing_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, wait=60.0)
    monkeypatch.setattr(gstreamer, "CSI_OPEN_S", 0.5)
    monkeypatch.setattr(gstreamer, "STOP_S", 0.2)
    with pytest.raises(DeviceFault, match=r"no image within 0.5 s.*systemctl restart nvargus-daemon"):
        open_source("csi://0")


def test_a_registry_that_cannot_be_kept_at_home_goes_into_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GST_REGISTRY", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    assert registry_path() == {}, "a cache that can be made is left to GStreamer"
    (tmp_path / "file").touch()  # no folder can be made below a file, not even by root
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert registry_path() == {"GST_REGISTRY": str(tmp_path / ".cache/gstreamer-1.0/registry.bin")}
    monkeypatch.setenv("GST_REGISTRY", "/elsewhere")
    assert registry_path() == {}


@real
def test_gstreamer_makes_the_registry_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GST_REGISTRY", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.chdir(tmp_path)
    PipelineProcess(TEST, "gst", open_s=60.0).close()
    assert (tmp_path / ".cache/gstreamer-1.0/registry.bin").stat().st_size > 0


@real
def test_a_real_pipeline_takes_itself_down() -> None:
    handle = PipelineProcess(TEST, "gst")
    handle.close()
    assert gone(pid(handle))
    assert handle._process.returncode >= 0, "it left by itself and was not ended by a signal"


@real
def test_a_real_pipeline_whose_reader_is_gone_takes_itself_down() -> None:
    handle = PipelineProcess(TEST, "gst")
    handle._pipe.close()
    assert handle._process.wait(30) > 0, "an error of its sink, not SIGPIPE"
    handle.close()


@real
def test_a_real_pipeline_that_stands_still_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "STOP_S", 0.3)
    handle = PipelineProcess(TEST, "gst")
    os.kill(pid(handle), signal.SIGSTOP)
    handle.close()
    wait_gone(pid(handle))


def wait_for(log: Path, word: str) -> None:
    end = time.monotonic() + 30.0
    while word not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
