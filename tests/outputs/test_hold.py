"""How long a verdict stands: by hand, and for any sequence of messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.outputs.guard_state import EVERY_CAMERA, GuardState, Message
from edge_ad.outputs.signals import REGISTERS, OutputSignals, registers_text, text_registers

HOLD = 0.5


def good(at: float, camera: int = 0, part: str = "7") -> Message:
    return Message("verdict", at, camera, "OK", True, part)


def bad(at: float, camera: int = 0, verdict: str = "NG") -> Message:
    return Message("verdict", at, camera, verdict, False, "8")


@pytest.mark.parametrize(
    ("messages", "now", "passed", "fault", "valid", "ready", "busy"),
    [
        ([], 0.0, False, True, False, False, False),
        ([good(1.0)], 1.0, True, False, True, True, False),
        ([good(1.0)], 1.5, True, False, True, True, False),
        ([good(1.0)], 1.5001, False, True, False, False, False),
        ([bad(1.0)], 1.1, False, False, True, True, False),
        ([bad(1.0, verdict="NONE")], 1.1, False, True, True, True, False),
        ([good(1.0), Message("held", 1.4)], 1.45, True, False, True, True, False),
        ([good(1.0), Message("held", 1.4)], 1.6, False, False, False, True, False),  # alive, but the verdict is old
        ([good(1.0), Message("idle", 1.1)], 1.2, False, False, False, True, False),
        ([good(1.0), Message("busy", 1.1)], 1.2, False, False, False, True, True),
        ([good(1.0), Message("busy", 1.1), good(1.3)], 1.3, True, False, True, True, False),
        ([good(0.2)], 1.0, False, True, False, False, False),  # a message that was on its way for too long
        ([good(1.0, camera=3)], 1.0, False, True, False, False, False),  # a camera that does not exist
    ],
)
def test_lines(
    messages: list[Message], now: float, passed: bool, fault: bool, valid: bool, ready: bool, busy: bool
) -> None:
    hold = GuardState(HOLD)
    for message in messages:
        hold.take(message)
    signals = hold.signals(now)
    assert (signals.passed, signals.fault, signals.result_valid, signals.ready, signals.busy) == (
        passed,
        fault,
        valid,
        ready,
        busy,
    )


def test_a_verdict_on_a_part_that_all_cameras_saw_is_one_result() -> None:
    hold = GuardState(HOLD, cameras=2, calls=True)
    hold.trigger(0.9)
    hold.take(Message("verdict", 1.0, EVERY_CAMERA, "OK", True, "7", 0.9))
    signals = hold.signals(1.1)
    assert (signals.passed, signals.busy, signals.sequence, signals.part) == (True, False, 1, "7")
    hold.take(Message("verdict", 1.2, EVERY_CAMERA, "NONE", False, "7", 0.9))
    assert (hold.signals(1.2).passed, hold.signals(1.2).fault) == (False, True)
    hold.take(Message("verdict", 1.3, EVERY_CAMERA, "OK", True, "6", 0.5))  # on an earlier call
    assert not hold.signals(1.3).passed


def test_one_camera_without_a_part_takes_back_what_all_saw() -> None:
    hold = GuardState(HOLD, cameras=2)
    hold.take(Message("verdict", 1.0, EVERY_CAMERA, "OK", True, "7"))
    assert hold.signals(1.0).passed
    hold.take(Message("idle", 1.1, 1))
    assert not hold.signals(1.1).passed


def test_all_cameras_must_live_and_pass() -> None:
    hold = GuardState(HOLD, cameras=2)
    hold.take(good(1.0, 0))
    assert not hold.signals(1.0).passed
    hold.take(good(1.1, 1))
    assert hold.signals(1.1).passed
    assert not hold.signals(1.55).passed  # the first one is old
    hold.take(bad(1.2, 0))
    assert not hold.signals(1.2).passed


def test_the_result_is_reported_with_its_part_and_a_number_that_changes() -> None:
    hold = GuardState(HOLD)
    hold.take(good(1.0, part="A-1"))
    first = hold.signals(1.0)
    hold.take(bad(1.1))
    second = hold.signals(9.0)
    assert (first.part, first.verdict, second.part, second.verdict) == ("A-1", "OK", "8", "NG")
    assert second.sequence == first.sequence + 1


def test_the_alarm_is_only_passed_on() -> None:
    hold = GuardState(HOLD)
    hold.lamp(True, True, 5)
    signals = hold.signals(0.0)
    assert (signals.alarm, signals.alarm_waiting, signals.alarm_number) == (True, True, 5)


KIND = st.sampled_from(["verdict", "idle", "busy", "held"])
STEP = st.tuples(KIND, st.integers(0, 2), st.booleans(), st.floats(0.0, 0.8))


@given(st.lists(STEP, max_size=40), st.integers(1, 3))
def test_good_never_outlives_its_verdict(steps: list[tuple[str, int, bool, float]], cameras: int) -> None:
    hold, now = GuardState(HOLD, cameras), 10.0
    last: dict[int, tuple[str, bool, float]] = {}
    for kind, camera, passed, wait in steps:
        hold.take(Message(kind, now, camera, "OK" if passed else "NG", passed))  # type: ignore[arg-type]
        if kind != "held" and camera < cameras:
            last[camera] = (kind, passed, now)
        now += wait
        due = len(last) == cameras and all(
            kind == "verdict" and passed and now - at <= HOLD for kind, passed, at in last.values()
        )
        signals = hold.signals(now)
        assert signals.passed == due
        later = now + hold.next_change(now) / 2
        assert hold.signals(later).bits() == signals.bits()  # nothing changes before it is said to


def test_a_dead_inspector_rejects() -> None:
    assert OutputSignals().bits() == (False, True, False, False, False, False, False, False)


def test_registers_carry_the_bits_and_the_part() -> None:
    signals = OutputSignals(passed=True, fault=False, ready=True, verdict="WARN", sequence=70_000, part="tray 7")
    registers = signals.registers()
    assert len(registers) == REGISTERS == 24
    assert registers[:4] == (0b1001, 2, 70_000 & 0xFFFF, 0)
    assert registers_text(registers[8:]) == "tray 7"


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_text_in_registers(text: str) -> None:
    assert registers_text(text_registers(text, 16)) == text[:32]


def test_what_stood_before_a_pause_stands_neither_in_it_nor_after_it() -> None:
    hold = GuardState(HOLD)
    hold.lamp(True, True, 3)
    hold.take(good(1.0))
    hold.pause(True)
    hold.take(good(1.05))  # was on its way
    signals = hold.signals(1.1)
    shown = OutputSignals(
        fault=False, alarm=True, alarm_waiting=True, alarm_number=3, verdict="OK", sequence=2, part="7", paused=True
    )
    assert signals == shown
    assert signals.registers()[4] == 1
    hold.pause(False)
    signals = hold.signals(1.2)
    assert (signals.passed, signals.result_valid, signals.ready, signals.paused) == (False, False, True, False)
    hold.take(good(1.3))
    assert hold.signals(1.3).passed


def test_a_silent_inspector_is_a_fault_in_a_pause_too() -> None:
    hold = GuardState(HOLD)
    hold.pause(True)
    hold.take(Message("idle", 1.0))
    assert not hold.signals(1.4).fault
    assert hold.signals(1.6).fault


def test_a_call_from_before_a_pause_is_answered_by_no_verdict_after_it() -> None:
    hold = GuardState(HOLD, calls=True)
    hold.trigger(1.0)
    hold.pause(True)
    hold.pause(False)
    hold.take(Message("verdict", 1.2, 0, "OK", True, "7", 1.0))
    assert not hold.signals(1.2).passed
    hold.trigger(1.3)
    hold.take(Message("verdict", 1.4, 0, "OK", True, "8", 1.3))
    assert hold.signals(1.4).passed


def test_nothing_passes_between_a_request_for_a_product_and_its_answer() -> None:
    hold = GuardState(HOLD)
    hold.show_product(1, "active", 0)
    hold.take(good(1.0))
    assert hold.signals(1.0).passed
    assert hold.signals(1.0).registers()[5:7] == (1, 1)
    hold.ask_product(7)
    assert not hold.signals(1.0).passed
    assert hold.signals(1.0).registers()[5:7] == (0, 2)
    hold.take(good(1.1))  # judged before the request was heard of
    assert not hold.signals(1.1).passed
    hold.show_product(1, "active", 6)  # an answer to an earlier request
    hold.take(good(1.2))
    assert not hold.signals(1.2).passed
    hold.show_product(2, "active", 7)
    assert not hold.signals(1.2).passed  # what stood is about the product before
    assert hold.signals(1.2).registers()[5:7] == (2, 1)
    hold.take(good(1.3))
    assert hold.signals(1.3).passed


@pytest.mark.parametrize(("state", "number"), [("changing", 2), ("fault", 3), ("none", 4)])
def test_nothing_passes_while_no_product_is_in_force(state: str, number: int) -> None:
    hold = GuardState(HOLD)
    hold.show_product(1, "active", 0)
    hold.take(good(1.0))
    hold.show_product(0, state, 0)
    assert not hold.signals(1.0).passed
    hold.take(good(1.1))
    assert not hold.signals(1.1).passed
    assert hold.signals(1.1).registers()[5:7] == (0, number)


def test_a_station_without_products_takes_no_request_for_one() -> None:
    hold = GuardState(HOLD)
    hold.ask_product(7)
    hold.take(good(1.0))
    assert hold.signals(1.0).passed
