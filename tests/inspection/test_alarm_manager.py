"""The desk: what the guard is told, and that alarms outlive a process and an acknowledge."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from edge_ad.camera.frames import Source
from edge_ad.config import AlarmTable, Config, RecordTable, RunTable
from edge_ad.events import Event, Verdict
from edge_ad.inspection.alarm_manager import AlarmManager
from edge_ad.inspection.assembly import Wiring
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.part_views import PartView
from edge_ad.inspection.view import View
from edge_ad.outputs.guard_state import Message
from tests.inspection.line import Script

RULE = AlarmTable(raise_parts="2/3", clear_after=2, min_on_s=5.0, latch=True)


class Board:
    """Takes down what the guard is told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.lamps: list[tuple[bool, bool, int]] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def lamp(self, lit: bool, waiting: bool, number: int) -> None:
        self.lamps.append((lit, waiting, number))

    def check(self) -> None:
        pass


class Bench:
    """A desk of two cameras with a clock that stands still and a store that is a dictionary."""

    def __init__(self, rule: AlarmTable = RULE, latches: dict[str, Any] | None = None) -> None:
        self.now = 100.0
        self.board = Board()
        self.saved: dict[str, Any] = {}
        self.desk = AlarmManager(["a", "b"], rule, self.board, latches=latches, save=self.saved.__setitem__, clock=lambda: self.now)
        self._sources: dict[str, Source] = {name: Script([], name=name) for name in "ab"}

    def part(self, camera: str, verdict: Verdict, times: int = 1, reason: str | None = None) -> None:
        score = None if verdict == "NONE" else 1.0
        event = Event(camera, 1, "7", 0.0, verdict, score, {}, 1.0, reason)
        for _ in range(times):
            self.desk.on_result(InspectionResult(event), self._sources[camera])


@pytest.mark.parametrize(
    ("reason", "lit"),
    [
        ("product: changing to cap-blue", False),
        ("product: the bundle is being replaced", False),
        ("product: seen before cap-blue was chosen", False),
        ("product: this part may have been there before the change", False),
        ("product: the PLC asks for code 9, which no product has; codes are 1 (cap-red)", True),
        ("product: part '4711' matches no product; there are cap-red", True),
        ("frozen: the same image 5 times", True),
    ],
)
def test_parts_of_a_change_are_rejected_and_raise_no_alarm_while_faults_do(reason: str, lit: bool) -> None:
    bench = Bench()
    bench.part("a", "NONE", 3, reason)
    assert not any(message.passed for message in bench.board.messages)
    assert bench.desk.lit == lit
    if not lit:  # nor does it end the count of what was bad before
        bench.part("a", "NG")
        bench.part("a", "NONE", 5, reason)
        bench.part("a", "NG")
        assert bench.desk.lit


@pytest.mark.parametrize(
    ("verdict", "warn_rejects", "passed"),
    [("OK", False, True), ("WARN", False, True), ("WARN", True, False), ("NG", False, False), ("NONE", False, False)],
)
def test_what_passes(verdict: Verdict, warn_rejects: bool, passed: bool) -> None:
    bench = Bench(AlarmTable(warn_rejects=warn_rejects))
    bench.part("b", verdict)
    assert bench.board.messages == [Message("verdict", 100.0, 1, verdict, passed, "7")]


def test_cycles_are_passed_on() -> None:
    bench = Bench()
    bench.desk.on_cycle("b", "busy")
    assert bench.board.messages == [Message("busy", 100.0, 1)]


def test_the_lamp_follows_all_cameras_and_numbers_count_over_them() -> None:
    bench = Bench()
    bench.part("a", "NG", 2)
    bench.part("b", "NONE", 2)
    assert bench.board.lamps == [(False, False, 0), (True, True, 1), (True, True, 2)]
    bench.part("a", "OK", 2)
    bench.part("b", "OK", 2)
    bench.now += 60
    bench.desk.on_tick()
    assert bench.desk.lit  # latched
    bench.desk.acknowledge(2)
    bench.desk.on_tick()
    assert bench.board.lamps[-1] == (False, False, 2)


def test_an_alarm_of_a_camera_that_was_lost_is_ended_by_parts_that_several_cameras_see() -> None:
    bench = Bench(AlarmTable(raise_parts="1/1", clear_after=2, min_on_s=5.0, latch=False))
    bench.part("b", "NONE", reason="camera lost: no frame")  # between two parts

    def seen(verdict: Verdict) -> None:
        view = PartView("top", Script([], name="a"), InspectionResult(Event("a", 1, "7", 0.0, verdict, 1.0, {}, 1.0, None)), View())
        bench.desk.on_result(InspectionResult(view.result.event, views=(view,)), view.source)

    for verdict in ("OK", "NG", "OK"):
        seen(verdict)  # type: ignore[arg-type]
    assert [bench.desk.states[name].phase for name in "ab"] == ["alarm", "alarm"]
    assert bench.desk.number == 2
    seen("OK")
    bench.now += 6.0
    bench.desk.on_tick()
    assert not bench.desk.lit


def test_an_acknowledge_of_an_older_alarm_leaves_the_newer_one() -> None:
    bench = Bench()
    bench.part("a", "NG", 2)
    shown = bench.desk.number
    bench.part("b", "NG", 2)
    bench.desk.acknowledge(shown)
    bench.desk.on_tick()
    assert [bench.desk.states[name].phase for name in "ab"] == ["acknowledged", "alarm"]
    assert bench.board.lamps[-1] == (True, True, 2)


def test_a_latched_alarm_is_there_again_after_a_restart() -> None:
    bench = Bench()
    bench.part("a", "NG", 2)
    bench.part("a", "OK", 2)
    assert bench.saved["a"]["phase"] == "latched"
    again = Bench(latches=bench.saved)
    assert again.board.lamps == [(True, True, 1)]
    again.part("b", "NG", 2)
    assert again.desk.states["b"].number == 2


def test_nothing_passes_while_it_is_withheld() -> None:
    """A record that is required and cannot be written holds every pass back, and no longer than that."""
    board = Board()
    fault: list[str | None] = [None]
    desk = AlarmManager(["a"], AlarmTable(), board, withheld=lambda: fault[0])
    for reason in (None, "the disk is full", None):
        fault[0] = reason
        desk.on_result(InspectionResult(Event("a", 0, "0", 0.0, "OK", 0.0, {}, 1.0, None)), Script([], name="a"))
    assert [message.passed for message in board.messages] == [True, False, True]


@pytest.mark.parametrize("required", [False, True])
def test_a_required_record_withholds_the_pass(tmp_path: Path, required: bool) -> None:
    settings = Config(run=RunTable(store=tmp_path / "line.sqlite"), record=RecordTable(required=required))
    wiring = Wiring(["a"], settings, threading.Condition())
    try:
        assert wiring.store is not None
        wiring.store._refused = "the disk is full"
        assert wiring.alarm_manager._withheld() == ("the disk is full" if required else None)
    finally:
        wiring.close()
