"""Output lines on the pins of the board, through the kernel's character device (libgpiod 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from edge_ad.errors import DeviceFault, require
from edge_ad.outputs.lines import Lines
from edge_ad.outputs.requests import Acknowledge, OnRequest, Trigger

OUTPUTS = ("pass", "fault", "alarm", "ready", "result_valid", "busy", "heartbeat")
INPUTS = ("acknowledge", "trigger")


def line_values(lines: Lines) -> dict[str, bool]:
    """Return the outputs by name."""
    return {
        "pass": lines.passed,
        "fault": lines.fault,
        "alarm": lines.alarm,
        "ready": lines.ready,
        "result_valid": lines.result_valid,
        "busy": lines.busy,
        "heartbeat": lines.heartbeat,
    }


class Gpio:
    """Drives the named lines of one chip; energised means good, and the kernel lets go of the lines on exit.

    ``pins`` maps names of OUTPUTS and INPUTS to line offsets. Inputs count at their rising edge, 5 ms debounced.
    DeviceFault when the chip or a line cannot be had.
    """

    def __init__(self, chip: str, pins: Mapping[str, int], on_request: OnRequest) -> None:
        self._chip = chip
        self._pins = dict(pins)
        self._on_request = on_request
        self._values: Any = None
        self._outputs: Any = None
        self._inputs: Any = None
        self._lines = Lines()
        self._shown: dict[str, bool] = {}

    @property
    def name(self) -> str:
        """The address for people."""
        return f"gpio://{self._chip}"

    async def open(self) -> None:
        """Ask the kernel for the lines; outputs begin de-energised."""
        gpiod = require("gpiod", extra="line", needed_by=f"--alarm {self.name}")
        line = require("gpiod.line", extra="line", needed_by=f"--alarm {self.name}")
        self._values = line.Value
        low = gpiod.LineSettings(direction=line.Direction.OUTPUT, output_value=line.Value.INACTIVE)
        outputs = {self._pins[name]: low for name in OUTPUTS if name in self._pins}
        try:
            self._outputs = gpiod.request_lines(self._chip, consumer="edge-ad", config=outputs)
            self._listen(gpiod, line)
        except OSError as error:
            raise DeviceFault(
                f"{self.name}: {error.strerror or error}; `gpioinfo` lists the chips and lines, and the user needs the "
                "group that may use them"
            ) from error
        self.show(self._lines)

    def show(self, lines: Lines) -> None:
        """Set the lines that changed."""
        self._lines = lines
        values = line_values(lines)
        changed = {
            self._pins[name]: self._values.ACTIVE if value else self._values.INACTIVE
            for name, value in values.items()
            if name in self._pins and self._shown.get(name) != value
        }
        self._shown = values
        if changed:
            self._outputs.set_values(changed)

    async def close(self) -> None:
        """De-energise and let go of the lines."""
        if self._outputs is not None:
            self.show(Lines())
            self._outputs.release()

    def _listen(self, gpiod: Any, line: Any) -> None:
        """Have the event loop read the inputs whenever the kernel reports an edge."""
        wanted = {self._pins[name]: name for name in INPUTS if name in self._pins}
        if not wanted:
            return
        settings = gpiod.LineSettings(
            direction=line.Direction.INPUT, edge_detection=line.Edge.RISING, debounce_period=timedelta(milliseconds=5)
        )
        self._inputs = gpiod.request_lines(self._chip, consumer="edge-ad", config=dict.fromkeys(wanted, settings))
        asyncio.get_running_loop().add_reader(self._inputs.fd, self._edges, wanted)

    def _edges(self, wanted: Mapping[int, str]) -> None:
        for event in self._inputs.read_edge_events():
            acknowledge = wanted[event.line_offset] == "acknowledge"
            self._on_request(Acknowledge(self._lines.alarm_number) if acknowledge else Trigger(""))
