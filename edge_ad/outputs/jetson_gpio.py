"""Output lines on the 40-pin header of a Jetson by its own library, which knows which line of which chip a pin is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from edge_ad.errors import DeviceFault, require
from edge_ad.outputs.gpio import INPUTS, OUTPUTS, line_values
from edge_ad.outputs.lines import Lines
from edge_ad.outputs.requests import Acknowledge, OnRequest, Trigger

BOUNCE_MS = 5


class JetsonGpio:
    """Drives named pins by their numbers on the header; energised means good, and the pins fall back on exit.

    ``pins`` maps names of OUTPUTS and INPUTS to pin numbers (BOARD). Inputs count at their rising edge. DeviceFault when
    this is no Jetson or a pin cannot be had.
    """

    name = "gpio://jetson"

    def __init__(self, pins: Mapping[str, int], on_request: OnRequest) -> None:
        self._pins = dict(pins)
        self._on_request = on_request
        self._lines = Lines()
        self._shown: dict[str, bool] = {}
        self._gpio: Any = None

    async def open(self) -> None:
        """Take the pins; outputs begin de-energised."""
        try:
            gpio = require("Jetson.GPIO", extra="jetson", needed_by=f"--alarm {self.name}")
            gpio.setwarnings(False)
            gpio.setmode(gpio.BOARD)
            gpio.setup([self._pins[name] for name in OUTPUTS if name in self._pins], gpio.OUT, initial=gpio.LOW)
            self._gpio = gpio
            self._listen(gpio)
        except (RuntimeError, ValueError, OSError) as error:  # what the library raises elsewhere than on a Jetson, too
            raise DeviceFault(
                f"{self.name}: {error}; is this a Jetson, is the user in the group gpio, and is the pin set to GPIO in the "
                "device tree (`sudo /opt/nvidia/jetson-io/jetson-io.py`)? Other boards: gpio:///dev/gpiochip0"
            ) from error

    def show(self, lines: Lines) -> None:
        """Set the pins that changed."""
        self._lines = lines
        for name, value in line_values(lines).items():
            if name in self._pins and self._shown.get(name) != value:
                self._gpio.output(self._pins[name], self._gpio.HIGH if value else self._gpio.LOW)
                self._shown[name] = value

    async def close(self) -> None:
        """De-energise and let go of the pins."""
        if self._gpio is not None:
            self.show(Lines())
            with contextlib.suppress(RuntimeError):
                self._gpio.cleanup()

    def _listen(self, gpio: Any) -> None:
        """The library calls from a thread of its own."""
        loop = asyncio.get_running_loop()
        for name in INPUTS:
            if name in self._pins:
                gpio.setup(self._pins[name], gpio.IN)
                gpio.add_event_detect(
                    self._pins[name],
                    gpio.RISING,
                    callback=lambda pin, name=name: loop.call_soon_threadsafe(self._edge, name),
                    bouncetime=BOUNCE_MS,
                )

    def _edge(self, name: str) -> None:
        self._on_request(Acknowledge(self._lines.alarm_number) if name == "acknowledge" else Trigger(""))
