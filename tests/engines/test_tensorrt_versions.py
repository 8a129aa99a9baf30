"""Versions of TensorRT, how its absence is told, the progress of a build and the logger."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edge_ad.engines.backends import default_backend
from edge_ad.engines.tensorrt import versions
from edge_ad.engines.tensorrt.build import MIN_FREE, WORKSPACE, free_memory, workspace
from edge_ad.engines.tensorrt.progress import Phases, Progress, duration_text, logger_for, reason, run_interruptibly
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.utils.board import board, l4t
from tests.fixtures.tensorrt_double import make_tensorrt

HERE = f"python{sys.version_info.major}.{sys.version_info.minor}"
UNTIL = 30.0  # seconds that a thread may take; a loaded machine is slow, not wrong


def module(version: str, name: str = "tensorrt") -> Any:
    flags = SimpleNamespace(STRONGLY_TYPED=1)
    return SimpleNamespace(__version__=version, __name__=name, NetworkDefinitionCreationFlag=flags)


@pytest.mark.parametrize(
    ("trt", "old", "flags", "cache"),
    [
        (module("8.6.2.3"), True, 0, True),
        (module("10.3.0"), False, 0, True),
        (module("10.11.0.33"), False, 0, True),
        (module("10.12.0"), False, 2, True),
        (module("11.4.1"), False, 2, True),
        (module("1.7.1.116", "tensorrt_rtx"), False, 2, False),
    ],
)
def test_what_differs(trt: Any, old: bool, flags: int, cache: bool) -> None:
    assert versions.too_old(trt) is old
    assert versions.network_flags(trt) == flags
    assert versions.keeps_timing_cache(trt) is cache


def test_a_version_that_dropped_the_flag() -> None:
    trt = module("12.0")
    trt.NetworkDefinitionCreationFlag = SimpleNamespace()
    assert versions.network_flags(trt) == 0


@pytest.mark.parametrize(
    ("pythons", "error", "message"),
    [
        ([], ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), r"pip install 'edge-ad\[gpu\]'"),
        (["python3.99"], ModuleNotFoundError("No module", name="tensorrt"), "made for python3.99, but this is python3"),
        (
            ["python3.99"],
            ImportError("tensorrt.so: undefined symbol: _Py"),
            r"/usr/bin/python3.99 -m venv --system-site",
        ),
        (
            [HERE],
            ImportError("libnvinfer.so.10: cannot open"),
            f"{HERE} cannot import it .libnvinfer.so.10: cannot open",
        ),
        ([], ModuleNotFoundError("No module named 'tensorrt.tensorrt'", name="tensorrt.tensorrt"), "cannot import it"),
        ([], OSError("libcudart.so.12: no such file"), "cannot load its libraries .libcudart"),
    ],
)
def test_a_tensorrt_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pythons: list[str], error: Exception, message: str
) -> None:
    for name in pythons:
        (tmp_path / "usr/lib" / name / "dist-packages/tensorrt").mkdir(parents=True)

    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(BadInput, match=message) as caught:
        versions.import_tensorrt(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["8.5.2", "8.6.2.3", "10.0.1"])
def test_for_an_old_one_the_advice_is_to_upgrade(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version))
    with pytest.raises(BadInput, match=f"TensorRT {version} is too old.*JetPack 6.1"):
        versions.import_tensorrt()


def test_what_is_built_for_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_backend(tmp_path) == "onnxruntime"
    package = ModuleType("pycuda")
    package.__spec__ = ModuleSpec("pycuda", None)
    with monkeypatch.context() as patch:
        for module in (make_tensorrt(), package):
            patch.setitem(sys.modules, module.__name__, module)
        assert default_backend(tmp_path) == "tensorrt"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")
    assert default_backend(tmp_path) == "tensorrt"
    assert (l4t(tmp_path), board(tmp_path)) == ("36.4.3", "")


@pytest.mark.parametrize(("free", "bytes_"), [(MIN_FREE, MIN_FREE // 2), (1 << 30, 1 << 29), (1 << 34, WORKSPACE)])
def test_the_workspace_is_capped_by_what_is_free(free: int, bytes_: int) -> None:
    assert workspace(free) == bytes_


def test_too_little_memory() -> None:
    with pytest.raises(DeviceFault, match="only 255 MiB of memory are free, but a build needs 256 MiB"):
        workspace(MIN_FREE - 1)


def test_free_memory_is_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  8 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n")
    assert free_memory(tmp_path / "meminfo") == 2 << 20
    assert free_memory(tmp_path / "absent") == 2 * WORKSPACE


def test_phases_inside_phases() -> None:
    """Two of four steps, and within the third one of two: (2 + 1/2) / 4."""
    phases = Phases()
    assert phases.share == 0
    phases.start("build", None, 4)
    phases.step("build", 0)
    phases.step("build", 1)
    assert phases.share == pytest.approx(0.5)
    phases.start("tactics", "build", 2)
    phases.step("tactics", 0)
    assert phases.share == pytest.approx(0.625)
    phases.finish("tactics")
    assert phases.share == pytest.approx(0.625)  # it never goes back


def test_the_time_left() -> None:
    """After 10 s a quarter is done (half of the first graph, which is half of the work): 30 s are left."""
    outputs: list[str] = []
    progress = Progress(200.0, outputs.append)
    progress.begin("teacher", 100.0)
    start = progress._since
    progress.tick(start + 10)
    assert outputs == ["building teacher: 0% of all graphs, 10 s so far"]
    progress.phases.start("build", None, 2)
    progress.phases.step("build", 0)
    progress.tick(start + 12)
    assert len(outputs) == 1  # not more often than every few seconds
    progress.tick(start + 20)
    assert outputs[1:] == ["building teacher: 25% of all graphs, about 60 s left"]
    progress.begin("lavit", 100.0)
    progress.tick(start + 300)
    assert outputs[2:] == ["building lavit: 50% of all graphs, about 5 min left"]


@pytest.mark.parametrize(("seconds", "message"), [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (600, "10 min")])
def test_durations(seconds: float, message: str) -> None:
    assert duration_text(seconds) == message


def test_work_in_a_thread_gives_its_result_or_its_error() -> None:
    progress = Progress(1.0, lambda text: None)
    assert run_interruptibly(lambda: threading.current_thread().name, progress) == "edge-ad-build"

    def fail() -> None:
        raise DeviceFault("no")

    with pytest.raises(DeviceFault, match="no"):
        run_interruptibly(fail, progress)


def test_ctrl_c_cancels_and_waits_for_the_step() -> None:
    outputs: list[str] = []
    progress = Progress(1.0, outputs.append)
    ended: list[bool] = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        until = time.monotonic() + UNTIL
        while not progress.cancelled.is_set() and time.monotonic() < until:
            time.sleep(0.01)
        ended.append(progress.cancelled.is_set())

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work, progress)
    assert ended == [True]
    assert outputs == ["stopping after this step; press Ctrl-C again to stop at once"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def tensorrt_rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is made for x86-64 alone")


def test_the_logger_keeps_errors_only(tensorrt_rtx: Any) -> None:
    logger = logger_for(tensorrt_rtx)
    assert reason(logger, "nothing") == "nothing"
    logger.log(tensorrt_rtx.ILogger.WARNING, "a warning")
    logger.log(tensorrt_rtx.ILogger.ERROR, "one\n  two")
    assert logger.errors == ["one two"]
    for number in range(100):
        logger.log(tensorrt_rtx.ILogger.ERROR, str(number))
    assert len(logger.errors) == 20
    assert reason(logger, "nothing") == "99"


@pytest.mark.parametrize(
    "words", ["[defaultAllocator.cpp] Cuda Runtime (out of memory)", "Error Code 2: OutOfMemory", "insufficient memory"]
)
def test_errors_of_memory_are_reported_as_such(words: str, tensorrt_rtx: Any) -> None:
    logger = logger_for(tensorrt_rtx)
    logger.log(tensorrt_rtx.ILogger.ERROR, words)
    logger.log(tensorrt_rtx.ILogger.ERROR, "something that follows from it")
    assert "too little free memory" in reason(logger, "nothing")
