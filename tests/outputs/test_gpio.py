"""Pins, on stand-ins for both libraries that fail when they are told to; the real gpiod takes settings and refuses a chip."""

from __future__ import annotations

import asyncio
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.outputs.gpio import Gpio
from edge_ad.outputs.jetson_gpio import JetsonGpio
from edge_ad.outputs.signals import (
    Acknowledge,
    ChannelHealth,
    OutputSignals,
    Released,
    Request,
    Taken,
    Trigger,
    Unavailable,
)
from tests.outputs.board import STANDIN, Board

PINS = {"pass": 29, "fault": 31, "acknowledge": 33, "trigger": 35}
GOOD = OutputSignals(passed=True, fault=False, alarm_number=7)


class Header:
    """A stand-in for Jetson.GPIO: what the pins show, and a way to raise an input."""

    BOARD, OUT, IN, LOW, HIGH, RISING, BOTH = "BOARD", "OUT", "IN", 0, 1, "RISING", "BOTH"

    def __init__(self) -> None:
        self.pins: dict[int, int] = {}
        self.inputs: dict[int, Callable[[int], None]] = {}
        self.mode = ""
        self.broken = False
        self.levels: dict[int, int] = {}

    def setwarnings(self, wanted: bool) -> None:
        pass

    def setmode(self, mode: str) -> None:
        self.mode = mode

    def setup(self, pins: int | list[int], direction: str, initial: int | None = None) -> None:
        if direction == self.OUT:
            assert isinstance(pins, list)
            if 4 in pins:
                raise ValueError("Channel 4 is invalid")
            self.pins.update(dict.fromkeys(pins, initial or 0))

    def output(self, pin: int, value: int) -> None:
        if self.broken:
            raise RuntimeError("Failed to set a value")
        self.pins[pin] = value

    def input(self, pin: int) -> int:
        return self.pins[pin] if pin in self.pins else self.levels.get(pin, 1)

    def add_event_detect(self, pin: int, edge: str, callback: Callable[[int], None], bouncetime: int) -> None:
        assert bouncetime == 5
        self.inputs[pin] = callback

    def cleanup(self, pin: int | None = None) -> None:
        if pin is None:
            self.pins.clear()
        else:
            self.pins.pop(pin, None)


@pytest.fixture
def header(monkeypatch: pytest.MonkeyPatch) -> Header:
    made = Header()
    monkeypatch.setitem(sys.modules, "Jetson", types.ModuleType("Jetson"))
    monkeypatch.setitem(sys.modules, "Jetson.GPIO", made)  # type: ignore[arg-type]
    return made


def test_the_header_of_a_jetson(header: Header) -> None:
    results: list[Request] = []

    async def cycle() -> None:
        channel = JetsonGpio(PINS, results.append)
        await channel.open()
        assert (header.mode, header.pins) == ("BOARD", {29: 0, 31: 1})  # a reject, and a fault, from the beginning
        channel.show(GOOD)
        assert header.pins == {29: 1, 31: 0}
        await asyncio.to_thread(header.inputs[33], 33)
        await asyncio.to_thread(header.inputs[35], 35)
        await asyncio.sleep(0)
        channel.show(OutputSignals())
        assert header.pins == {29: 0, 31: 1}
        channel.show(GOOD)
        await channel.close()
        assert header.pins == {}

    asyncio.run(cycle())
    assert [results[0], type(results[1])] == [Acknowledge(7), Trigger]


def test_a_verdict_that_the_pins_show_is_reported_once(header: Header) -> None:
    results: list[Request] = []

    async def cycle() -> None:
        channel = JetsonGpio({"pass": 29}, results.append)
        await channel.open()
        for at in (5.0, 5.0, 6.0):
            channel.show(OutputSignals(sent_at=at))
            await asyncio.sleep(0)
        header.broken = True
        channel.show(OutputSignals(sent_at=7.0))
        await asyncio.sleep(0)

    asyncio.run(cycle())
    assert results == [Taken(5.0), Taken(6.0)]


def test_a_pin_of_a_jetson_that_cannot_be_set_low_is_let_go_and_taken_again(header: Header) -> None:
    health = RecordedHealth()

    async def cycle() -> None:
        channel = JetsonGpio({"pass": 29}, lambda request: None, health.stats)
        await channel.open()
        channel.show(GOOD)
        header.broken = True
        channel.show(OutputSignals())
        assert header.pins == {}
        header.broken = False
        deadline = time.monotonic() + 20
        while header.pins.get(29) != 1 and time.monotonic() < deadline:
            channel.show(GOOD)
            await asyncio.sleep(0.05)
        assert header.pins == {29: 1}

    asyncio.run(cycle())
    assert health.faults[:2] == [None, "RuntimeError: Failed to set a value: the pins are let go"]


@pytest.mark.parametrize(("level", "expected"), [(1, Trigger), (0, Released)])
def test_a_strobe_of_a_jetson_follows_both_edges(header: Header, level: int, expected: type) -> None:
    results: list[Request] = []

    async def cycle() -> None:
        channel = JetsonGpio({"pass": 29, "strobe": 31, "trigger": 35}, results.append)
        await channel.open()
        header.levels[35] = level
        await asyncio.to_thread(header.inputs[35], 35)
        await asyncio.sleep(0)

    asyncio.run(cycle())
    assert [type(request) for request in results] == [expected]


def test_a_pin_that_is_none_and_a_board_that_is_no_jetson_are_reported(
    header: Header, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(DeviceFault, match="Channel 4 is invalid.*jetson-io"):
        asyncio.run(JetsonGpio({"pass": 4}, lambda request: None).open())
    for name in ("Jetson", "Jetson.GPIO"):
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "Jetson").mkdir()
    (tmp_path / "Jetson" / "GPIO.py").write_text("raise RuntimeError('Could not determine Jetson model')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DeviceFault, match="Could not determine Jetson model; is this a Jetson"):
        asyncio.run(JetsonGpio({"pass": 29}, lambda request: None).open())
    (tmp_path / "Jetson" / "GPIO.py").write_text("import no_such_package_of_a_board")
    with pytest.raises(BadInput, match="jetson"):
        asyncio.run(JetsonGpio({"pass": 29}, lambda request: None).open())


class RecordedHealth:
    """Takes down what is told of an output."""

    def __init__(self) -> None:
        self.faults: list[str | None] = []
        self.stats = ChannelHealth(self.faults.append)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    made = Board(tmp_path / "board")
    for name in ("gpiod", "gpiod.line"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("STANDIN_GPIO", made.environment["STANDIN_GPIO"])
    monkeypatch.syspath_prepend(str(STANDIN))
    yield made
    made.close()
    for name in ("gpiod", "gpiod.line"):
        sys.modules.pop(name, None)


def drive(pins: dict[str, int], act: Callable[[Gpio], None], health: RecordedHealth | None = None) -> list[Request]:
    """Open a channel on the board, act, close; return what was asked through it."""
    results: list[Request] = []

    async def cycle() -> None:
        channel = Gpio("/dev/gpiochip0", pins, results.append, (health or RecordedHealth()).stats)
        await channel.open()
        act(channel)
        await channel.close()

    asyncio.run(cycle())
    return results


def test_lines_begin_with_a_reject_and_rest_at_the_end(board: Board) -> None:
    def act(channel: Gpio) -> None:
        assert (board.level(17), board.level(27)) == (False, True)
        channel.show(GOOD)
        assert (board.level(17), board.level(27)) == (True, False)

    drive({"pass": 17, "fault": 27}, act)
    assert not board.level(17)


@pytest.mark.parametrize("fault", ["set", "get", "stuck"])
def test_a_line_that_cannot_be_set_low_is_let_go_reported_and_taken_again(fault: str, board: Board) -> None:
    health = RecordedHealth()

    def act(channel: Gpio) -> None:
        channel.show(GOOD)
        assert board.level(17)
        board.fail(fault, -1)
        channel.show(OutputSignals())
        assert not board.level(17)  # nothing drives it any more
        channel.show(GOOD)
        assert not board.level(17)
        board.fail(fault, 0)
        deadline = time.monotonic() + 20
        while not board.level(17) and time.monotonic() < deadline:
            channel.show(GOOD)
            time.sleep(0.05)
        assert board.level(17)

    drive({"pass": 17, "fault": 27}, act, health)
    assert health.faults[0] is None
    assert health.faults[1] is not None
    assert "let go" in health.faults[1]


def test_lines_stay_let_go_while_the_chip_refuses_everything(board: Board) -> None:
    def act(channel: Gpio) -> None:
        channel.show(GOOD)
        for fault in ("set", "get", "request", "reconfigure"):
            board.fail(fault, -1)
        for _ in range(3):
            channel.show(OutputSignals())
            assert not board.level(17)

    drive({"pass": 17}, act)


def test_a_level_that_changed_by_itself_is_set_right_by_the_next_show(board: Board) -> None:
    def act(channel: Gpio) -> None:
        channel.show(OutputSignals())
        board.force(17, True)
        channel.show(OutputSignals())  # the same lines as before
        assert not board.level(17)

    drive({"pass": 17}, act)


def test_edges_that_wait_are_taken_in_before_a_pass_with_the_time_of_the_kernel(board: Board) -> None:
    def act(channel: Gpio) -> None:
        board.edge(4, at=12.5)
        board.edge(4, rising=False, at=12.6)
        board.edge(5, at=12.7)
        channel.look()

    result = drive({"pass": 17, "strobe": 18, "trigger": 4, "acknowledge": 5}, act)
    assert result == [Trigger("", 12.5), Released(), Acknowledge(0)]


def test_without_a_strobe_only_rising_edges_count(board: Board) -> None:
    def act(channel: Gpio) -> None:
        board.edge(4, rising=False, at=12.4)
        board.edge(4, at=12.5)
        channel.look()

    assert drive({"pass": 17, "trigger": 4}, act) == [Trigger("", 12.5)]


def test_inputs_that_cannot_be_read_call_for_nothing_and_are_reported(board: Board) -> None:
    health = RecordedHealth()

    def act(channel: Gpio) -> None:
        def broken(count: int) -> list[Any]:
            raise OSError(5, "Input/output error")

        channel._inputs.read_edge_events = broken
        board.edge(4)
        channel.look()
        channel.look()

    assert drive({"pass": 17, "trigger": 4}, act, health) == [Unavailable()]
    assert [fault for fault in health.faults if fault] == [
        "Input/output error: the inputs cannot be read, no part is called for any more"
    ]


def test_the_real_settings_of_gpiod(monkeypatch: pytest.MonkeyPatch) -> None:
    gpiod = pytest.importorskip("gpiod")
    from gpiod.line import Direction, Value

    asked: list[tuple[str, str, dict[int, Any]]] = []

    class Request_:
        def set_values(self, values: dict[int, Any]) -> None:
            self.values = {**getattr(self, "values", {}), **values}

        def get_values(self, pins: list[int]) -> list[Any]:
            return [self.values[pin] for pin in pins]

        def release(self) -> None:
            self.released = True

    def request_lines(path: str, consumer: str, config: dict[int, Any]) -> Request_:
        asked.append((path, consumer, config))
        return made

    made = Request_()
    monkeypatch.setattr(gpiod, "request_lines", request_lines)

    def act(channel: Gpio) -> None:
        [(path, consumer, config)] = asked
        assert (path, consumer) == ("/dev/gpiochip0", "edge-ad")
        assert {pin: (one.direction, one.output_value) for pin, one in config.items()} == {
            17: (Direction.OUTPUT, Value.INACTIVE),
            27: (Direction.OUTPUT, Value.INACTIVE),
        }
        assert made.values == {17: Value.INACTIVE, 27: Value.ACTIVE}
        channel.show(GOOD)
        assert made.values == {17: Value.ACTIVE, 27: Value.INACTIVE}

    drive({"pass": 17, "fault": 27}, act)
    assert made.values[17] == Value.INACTIVE
    assert made.released


def test_a_chip_that_is_not_there_is_reported() -> None:
    pytest.importorskip("gpiod")
    with pytest.raises(DeviceFault, match="gpiochip99.*gpioinfo"):
        asyncio.run(Gpio("/dev/gpiochip99", {"pass": 1}, lambda request: None).open())


def test_lines_that_an_earlier_guard_still_holds_are_waited_for(board: Board) -> None:
    async def cycle() -> None:
        first, second = (Gpio("/dev/gpiochip0", {"pass": 17}, lambda request: None) for _ in range(2))
        await first.open()
        opening = asyncio.create_task(second.open())
        await asyncio.sleep(0.15)
        assert not opening.done()
        await first.close()
        await opening
        second.show(GOOD)
        assert board.level(17)
        await second.close()

    asyncio.run(cycle())
