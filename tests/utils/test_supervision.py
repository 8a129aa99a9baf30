"""Supervised threads: an exception in one is told and counted, and the thread is started again or stays away."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_ad.utils import supervision
from edge_ad.utils.supervision import MAX_RESTARTS, SupervisedThread, ThreadFaults, describe
from tests.fixtures.loopback import until

PACKAGE = Path(supervision.__file__).parents[1]
# Where a thread may be made: here, and around TensorRT's builder, which hands every exception to its caller.
ALLOWED = {"utils/supervision.py", "engines/tensorrt/progress.py"}


pytestmark = pytest.mark.usefixtures("stderr_log")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "RESTART_PAUSE_S", 0.0)


class Failing:
    """Work that raises the first ``times`` times."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.done = threading.Event()

    def __call__(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError("injected")
        self.done.set()


def test_a_thread_is_started_again_and_its_fault_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    faults, work = ThreadFaults(), Failing(2)
    thread = SupervisedThread("worker", work, faults, essential=True)
    thread.start()
    assert work.done.wait(10)
    thread.join(10)
    assert faults.counts == {"worker": 2}
    assert faults.fault is None
    assert faults.fatal is None
    assert faults.summary() == ("the thread worker had 2 unforeseen faults and went on",)
    log = capsys.readouterr().err
    assert " ERROR the thread worker ended (RuntimeError: injected in __call__" in log
    assert log.count("Traceback (most recent call last):") == 2


@pytest.mark.parametrize("essential", [False, True])
def test_a_thread_that_keeps_ending_stays_away(essential: bool) -> None:
    faults = ThreadFaults()
    thread = SupervisedThread("worker", Failing(1000), faults, essential=essential)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert faults.counts == {"worker": MAX_RESTARTS + 1}
    assert faults.fault is not None
    assert faults.fault.endswith("it stays away")
    assert (faults.fatal is not None) is essential


def test_a_thread_that_must_not_be_started_again_calls_its_owner() -> None:
    faults, heard = ThreadFaults(), []
    thread = SupervisedThread("worker", Failing(1), faults, restart=False, on_fault=heard.append)
    thread.start()
    thread.join(10)
    assert [str(error) for error in heard] == ["injected"]
    assert faults.fault is not None


def test_an_exit_in_a_thread_is_a_fault_too() -> None:
    faults = ThreadFaults()
    thread = SupervisedThread("worker", sys.exit, faults, restart=False)
    thread.start()
    thread.join(10)
    assert faults.counts == {"worker": 1}


def test_a_stderr_that_is_gone_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Broken())
    faults, work = ThreadFaults(), Failing(1)
    SupervisedThread("worker", work, faults).start()
    assert until(work.done.is_set)
    assert faults.counts == {"worker": 1}


def test_a_fault_in_every_event_does_not_flood_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    faults = ThreadFaults()
    for _ in range(1000):
        with faults.caught("worker"):
            raise ValueError("again")
    assert faults.counts["worker"] == 1000
    assert capsys.readouterr().err.count(" ERROR fault of the thread worker") == 10  # the 1st, 2nd, 4th, ... 512th


def test_an_exception_is_reported_in_one_line_that_can_be_stored() -> None:
    assert describe(ValueError("a\nb\udce4")) == "ValueError: a b\\xe4"


def test_every_thread_of_the_package_is_supervised() -> None:
    result = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "threading.Thread(" in path.read_text()
    }
    assert result == ALLOWED


def test_a_process_with_a_thread_that_is_left_behind_ends_with_its_code() -> None:
    code = """
import sys, threading
from edge_ad.utils.supervision import leave
threading.Thread(target=sys.stdin.buffer.readline, daemon=True).start()
print("told", end="")
leave(3)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read(), process.wait(60)) == (b"told", b"", 3)
