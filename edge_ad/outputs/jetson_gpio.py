"""Output lines on the 40-pin header of a Jetson by its own library, which knows which line of which chip a pin is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from edge_ad.errors import DeviceFault, require
from edge_ad.outputs.gpio import AGAIN_S, INPUTS, OUTPUTS, line_values
from edge_ad.outputs.signals import Acknowledge, ChannelHealth, OnRequest, OutputSignals, Released, Taken, Trigger

BOUNCE_MS = 5


class JetsonGpio:
    """Drives named pins by their numbers on the header; energised means good, and the pins fall back on exit.

    ``pins`` maps names of OUTPUTS and INPUTS to pin numbers (BOARD). Inputs count at their rising edge. Every ``show``
    sets all pins and reads them back; when that fails the pins are let go and taken again twice a second. DeviceFault
    when this is no Jetson or a pin cannot be had at the start.
    """

    name = "gpio://jetson"

    def __init__(self, pins: Mapping[str, int], on_request: OnRequest, stats: ChannelHealth | None = None) -> None:
        self._pins = dict(pins)
        self._on_request = on_request
        self._health = stats or ChannelHealth(lambda fault: None)
        self._signals = OutputSignals()
        self._gpio: Any = None
        self._taken = False
        self._taken_at = 0.0
        self._next_try = 0.0

    async def open(self) -> None:
        """Take the pins; outputs begin de-energised."""
        try:
            gpio = require("Jetson.GPIO", extra="jetson", needed_by=f"--alarm {self.name}")
            gpio.setwarnings(False)
            gpio.setmode(gpio.BOARD)
            gpio.setup(self._output_pins(), gpio.OUT, initial=gpio.LOW)
            self._gpio, self._taken = gpio, True
            self._listen(gpio)
        except (RuntimeError, ValueError, OSError) as error:  # what the library raises elsewhere than on a Jetson, too
            raise DeviceFault(
                f"{self.name}: {error}; is this a Jetson, is the user in the group gpio, and is the pin set to GPIO in the "
                "device tree (`sudo /opt/nvidia/jetson-io/jetson-io.py`)? Other boards: gpio:///dev/gpiochip0"
            ) from error
        self.show(self._signals)

    def look(self) -> None:
        """Edges come from a thread of the library, by themselves."""

    def show(self, signals: OutputSignals) -> None:
        """Set all pins and read them back; never raises for a pin that fails."""
        self._signals = signals
        if not self._taken and not self._take_again():
            return
        values = {name: value for name, value in line_values(signals).items() if name in self._pins}
        try:
            for name in sorted(values, key=lambda name: values[name]):  # what falls goes first
                self._gpio.output(self._pins[name], self._gpio.HIGH if values[name] else self._gpio.LOW)
            wrong = [name for name, value in values.items() if bool(self._gpio.input(self._pins[name])) != value]
        except Exception as error:  # the library raises what it likes
            self._let_go(f"{type(error).__name__}: {error}: the pins are let go")
            return
        if wrong:
            self._let_go(f"pin {self._pins[wrong[0]]} ({wrong[0]}) does not read as it was set: the pins are let go")
        else:
            self._health.well()
            if signals.sent_at != self._taken_at:
                self._taken_at = signals.sent_at
                asyncio.get_running_loop().call_soon(self._on_request, Taken(signals.sent_at))  # not within what shows it

    async def close(self) -> None:
        """De-energise and let go of the pins."""
        if self._gpio is not None:
            if self._taken:
                self.show(OutputSignals())
            with contextlib.suppress(Exception):
                self._gpio.cleanup()

    def _output_pins(self) -> list[int]:
        return [self._pins[name] for name in OUTPUTS if name in self._pins]

    def _let_go(self, why: str) -> None:
        self._health.failed(why)
        self._taken = False
        self._next_try = time.monotonic() + AGAIN_S
        for pin in self._output_pins():  # one by one: a pin that fails must not keep the others
            with contextlib.suppress(Exception):
                self._gpio.cleanup(pin)

    def _take_again(self) -> bool:
        if self._gpio is None or time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + AGAIN_S
        try:
            self._gpio.setup(self._output_pins(), self._gpio.OUT, initial=self._gpio.LOW)
        except Exception as error:
            self._health.failed(f"{type(error).__name__}: {error}: the pins cannot be had")
            return False
        self._taken = True
        return True

    def _listen(self, gpio: Any) -> None:
        """The library calls from a thread of its own."""
        loop = asyncio.get_running_loop()
        for name in INPUTS:
            if name in self._pins:
                gpio.setup(self._pins[name], gpio.IN)
                edges = gpio.BOTH if name == "trigger" and "strobe" in self._pins else gpio.RISING
                gpio.add_event_detect(
                    self._pins[name],
                    edges,
                    callback=lambda pin, name=name: loop.call_soon_threadsafe(self._edge, name, time.monotonic()),
                    bouncetime=BOUNCE_MS,
                )

    def _edge(self, name: str, at: float) -> None:
        if name == "acknowledge":
            self._on_request(Acknowledge(self._signals.alarm_number))
            return
        if "strobe" not in self._pins:
            self._on_request(Trigger("", at))
            return
        try:
            up = bool(self._gpio.input(self._pins[name]))
        except Exception as error:
            self._health.failed(f"{type(error).__name__}: {error}: the trigger cannot be read")
            return
        self._on_request(Trigger("", at) if up else Released())
