"""Pins. No kernel with GPIO lines here: stand-ins for both libraries note the calls; the real gpiod refuses a chip."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.outputs.gpio import Gpio
from edge_ad.outputs.jetson_gpio import JetsonGpio
from edge_ad.outputs.lines import Lines
from edge_ad.outputs.requests import Acknowledge, Request, Trigger

PINS = {"pass": 29, "fault": 31, "acknowledge": 33, "trigger": 35}
GOOD = Lines(passed=True, fault=False, alarm_number=7)


class Header:
    """A stand-in for Jetson.GPIO: what the pins show, and a way to raise an input."""

    BOARD, OUT, IN, LOW, HIGH, RISING = "BOARD", "OUT", "IN", 0, 1, "RISING"

    def __init__(self) -> None:
        self.pins: dict[int, int] = {}
        self.inputs: dict[int, Callable[[int], None]] = {}
        self.mode = ""

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
        self.pins[pin] = value

    def add_event_detect(self, pin: int, edge: str, callback: Callable[[int], None], bouncetime: int) -> None:
        assert (edge, bouncetime) == ("RISING", 5)
        self.inputs[pin] = callback

    def cleanup(self) -> None:
        self.pins.clear()


@pytest.fixture
def header(monkeypatch: pytest.MonkeyPatch) -> Header:
    made = Header()
    monkeypatch.setitem(sys.modules, "Jetson", types.ModuleType("Jetson"))
    monkeypatch.setitem(sys.modules, "Jetson.GPIO", made)  # type: ignore[arg-type]
    return made


def test_the_header_of_a_jetson(header: Header) -> None:
    found: list[Request] = []

    async def cycle() -> None:
        channel = JetsonGpio(PINS, found.append)
        await channel.open()
        assert (header.mode, header.pins) == ("BOARD", {29: 0, 31: 0})
        channel.show(GOOD)
        assert header.pins == {29: 1, 31: 0}
        await asyncio.to_thread(header.inputs[33], 33)
        await asyncio.to_thread(header.inputs[35], 35)
        await asyncio.sleep(0)
        channel.show(Lines())
        assert header.pins == {29: 0, 31: 1}
        channel.show(GOOD)
        await channel.close()
        assert header.pins == {}

    asyncio.run(cycle())
    assert found == [Acknowledge(7), Trigger("")]


def test_a_pin_that_is_none_and_a_board_that_is_no_jetson_are_told(
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


class Chip:
    """A stand-in for a request of gpiod's lines."""

    def __init__(self, settings: dict[int, Any]) -> None:
        self.settings = settings
        self.values: dict[int, Any] = {}
        self.released = False

    def set_values(self, values: dict[int, Any]) -> None:
        self.values.update(values)

    def release(self) -> None:
        self.released = True


def test_lines_of_a_chip_by_the_real_settings_of_gpiod(monkeypatch: pytest.MonkeyPatch) -> None:
    gpiod = pytest.importorskip("gpiod")
    from gpiod.line import Direction, Value

    chips: list[Chip] = []

    def request_lines(path: str, consumer: str, config: dict[int, Any]) -> Chip:
        assert (path, consumer) == ("/dev/gpiochip0", "edge-ad")
        chips.append(Chip(config))
        return chips[-1]

    monkeypatch.setattr(gpiod, "request_lines", request_lines)
    channel = Gpio("/dev/gpiochip0", {"pass": 17, "fault": 27}, lambda request: None)

    async def cycle() -> None:
        await channel.open()
        [chip] = chips
        assert {pin: (one.direction, one.output_value) for pin, one in chip.settings.items()} == {
            17: (Direction.OUTPUT, Value.INACTIVE),
            27: (Direction.OUTPUT, Value.INACTIVE),
        }
        assert chip.values == {17: Value.INACTIVE, 27: Value.ACTIVE}  # a reject, and a fault, from the beginning
        channel.show(GOOD)
        assert chip.values == {17: Value.ACTIVE, 27: Value.INACTIVE}
        await channel.close()
        assert chip.values[17] == Value.INACTIVE
        assert chip.released

    asyncio.run(cycle())


def test_a_chip_that_is_not_there_is_told() -> None:
    pytest.importorskip("gpiod")
    with pytest.raises(DeviceFault, match="gpiochip99.*gpioinfo"):
        asyncio.run(Gpio("/dev/gpiochip99", {"pass": 1}, lambda request: None).open())
