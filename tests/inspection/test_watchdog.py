"""The watchdog over a real datagram socket, on a clock of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.errors import DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.watchdog import Notifier, Watchdog, golden_test
from tests.inspection.line import Script
from tests.inspection.manager import Manager

SOURCE = Script([])
OK = InspectionResult(Event("cam", 1, "1", 0.0, "OK", 1.0, {}, 12.5, None))
NONE = InspectionResult(Event("cam", None, None, 0.0, "NONE", None, {}, None, "stalled: no frame"))


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@edge-ad-test-{os.getpid()}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    manager = Manager(address)
    yield manager
    manager.close()


def make(address: str, tests: list[float], clock: list[float]) -> Watchdog:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())})
    return Watchdog(notifier, lambda: tests.append(clock[0]), lambda: clock[0])


def test_verdicts_feed_and_nothing_else_does(manager: Manager, address: str) -> None:
    tests: list[float] = []
    clock = [100.0]
    watchdog = make(address, tests, clock)
    watchdog.ready()
    assert manager.received() == ["READY=1", "STATUS=ready; no verdict yet", "WATCHDOG=1"]
    for _ in range(5):
        clock[0] += 0.125
        watchdog.on_result(OK, SOURCE)
    assert manager.received() == []  # once in an eighth of the time is enough
    clock[0] += 1.0
    watchdog.on_cycle("cam", "idle")
    assert manager.received() == []
    watchdog.on_result(NONE, SOURCE)
    assert manager.received() == ["WATCHDOG=1", "STATUS=NONE; 4.0 fps, p99 12.5 ms"]
    assert tests == []
    watchdog.close()
    assert manager.received() == ["STOPPING=1"]


def test_when_idle_the_engines_are_proved(manager: Manager, address: str) -> None:
    tests: list[float] = []
    clock = [100.0]
    watchdog = make(address, tests, clock)
    for _ in range(40):
        clock[0] += 0.125
        watchdog.on_tick()
    assert tests == pytest.approx([102.0, 104.0])  # a quarter of 8 s
    assert [line for line in manager.received() if line == "WATCHDOG=1"] == ["WATCHDOG=1"] * 2


def test_a_failed_self_test_feeds_nothing(manager: Manager, address: str) -> None:
    clock = [0.0]
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8000000"})
    watchdog = Watchdog(notifier, golden_test(lambda: 1.1, 1.0, 0.01), lambda: clock[0])
    clock[0] = 3.0
    with pytest.raises(DeviceFault, match=r"1\.1000 instead of 1\.0000"):
        watchdog.on_tick()
    assert "WATCHDOG=1" not in manager.received()


@pytest.mark.parametrize(("score", "fine"), [(1.0, True), (1.009, True), (0.98, False), (float("nan"), False)])
def test_golden(score: float, fine: bool) -> None:
    test = golden_test(lambda: score, 1.0, 0.01)
    if fine:
        test()
    else:
        with pytest.raises(DeviceFault):
            test()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "5000000"}, None),
        ({"NOTIFY_SOCKET": "/x"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5000000"}, 5.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_what_the_manager_asks_for(environment: dict[str, str], seconds: float | None) -> None:
    notifier = Notifier(environment)
    assert notifier.watchdog_s == seconds
    notifier.send("READY=1")  # nobody there: no error
    notifier.close()


def test_without_a_manager_there_is_no_self_test() -> None:
    clock = [0.0]
    watchdog = Watchdog(Notifier({}), lambda: pytest.fail("nobody asked"), lambda: clock[0])
    clock[0] = 1e6
    watchdog.on_tick()
