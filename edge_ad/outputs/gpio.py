"""Output lines on the pins of the board, through the kernel's character device (libgpiod 2)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from edge_ad.errors import DeviceFault, require
from edge_ad.outputs.signals import (
    Acknowledge,
    ChannelHealth,
    OnRequest,
    OutputSignals,
    Released,
    Taken,
    Trigger,
    Unavailable,
)

OUTPUTS = ("pass", "fault", "alarm", "ready", "result_valid", "busy", "heartbeat", "strobe")
INPUTS = ("acknowledge", "trigger")
MAX_EVENTS = 64
AGAIN_S = 0.5
BUSY_FOR_S = 4.0


def line_values(signals: OutputSignals) -> dict[str, bool]:
    """Return the outputs by name, in the order in which they must be set: `pass` stands before it is said to be valid.
    """
    return {
        "pass": signals.passed,
        "fault": signals.fault,
        "alarm": signals.alarm,
        "ready": signals.ready,
        "busy": signals.busy,
        "heartbeat": signals.heartbeat,
        "result_valid": signals.result_valid,
        "strobe": signals.strobe,
    }


class Gpio:
    """Drives the named lines of one chip; energised means good, and the kernel lets go of the lines on exit.

    ``pins`` maps names of OUTPUTS and INPUTS to line offsets. Inputs count at their rising edge, 5 ms debounced. Every
    ``show`` sets all lines and reads them back. When that fails the lines are let go, so that none stays energised, and
    asked for again twice a second. DeviceFault when the chip or a line cannot be had at the start.
    """

    def __init__(
        self, chip: str, pins: Mapping[str, int], on_request: OnRequest, stats: ChannelHealth | None = None
    ) -> None:
        self._chip = chip
        self._pins = dict(pins)
        self._on_request = on_request
        self._health = stats or ChannelHealth(lambda fault: None)
        self._gpiod: Any = None
        self._line: Any = None
        self._outputs: Any = None
        self._inputs: Any = None
        self._signals = OutputSignals()
        self._taken_at = 0.0
        self._next_try = 0.0

    @property
    def name(self) -> str:
        """The address for people."""
        return f"gpio://{self._chip}"

    async def open(self) -> None:
        """Ask the kernel for the lines; outputs begin de-energised."""
        self._gpiod = require("gpiod", extra="line", needed_by=f"--alarm {self.name}")
        self._line = require("gpiod.line", extra="line", needed_by=f"--alarm {self.name}")
        try:
            self._outputs = await self._first_request()
            self._listen()
        except OSError as error:
            raise DeviceFault(
                f"{self.name}: {error.strerror or error}; `gpioinfo` lists the chips and lines, and the user needs the "
                "group that may use them"
            ) from error
        self.show(self._signals)

    def look(self) -> None:
        """Take in the edges that wait, so that no verdict is shown after a call that it is not about."""
        if self._inputs is None:
            return
        try:
            while self._inputs.wait_edge_events(timedelta(0)):
                self._take_edges(self._inputs.read_edge_events(MAX_EVENTS))
        except Exception as error:
            self._input_failed(error)

    def show(self, signals: OutputSignals) -> None:
        """Set all lines and read them back; never raises for a line that fails."""
        self._signals = signals
        if self._outputs is None and not self._ask_again():
            return
        values = {self._pins[name]: value for name, value in line_values(signals).items() if name in self._pins}
        try:
            self._set(values)
            wrong = self._misread(values)
        except Exception as error:  # a library that fails in its own way must leave no line energised either
            self._let_go(f"{_words(error)}: the lines are let go")
            return
        if wrong:
            self._let_go(f"{wrong}: the lines are let go")
        else:
            self._health.well()
            self._report(signals)

    def _report(self, signals: OutputSignals) -> None:
        """Report once that the pins show a verdict."""
        if signals.sent_at != self._taken_at:
            self._taken_at = signals.sent_at
            asyncio.get_running_loop().call_soon(self._on_request, Taken(signals.sent_at))  # not within what shows it

    async def close(self) -> None:
        """De-energise and let go of the lines."""
        if self._inputs is not None:
            asyncio.get_running_loop().remove_reader(self._inputs.fd)
            self._inputs.release()
            self._inputs = None
        if self._outputs is not None:
            self.show(OutputSignals())
        if self._outputs is not None:
            self._outputs.release()
            self._outputs = None

    async def _first_request(self) -> Any:
        """Lines that are busy are asked for again for some seconds: an earlier guard may still hold them."""
        ends = time.monotonic() + BUSY_FOR_S
        while True:
            try:
                return self._request_outputs()
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > ends:
                    raise
            await asyncio.sleep(0.1)

    def _request_outputs(self) -> Any:
        line = self._line
        low = self._gpiod.LineSettings(direction=line.Direction.OUTPUT, output_value=line.Value.INACTIVE)
        outputs = {self._pins[name]: low for name in OUTPUTS if name in self._pins}
        return self._gpiod.request_lines(self._chip, consumer="edge-ad", config=outputs)

    def _set(self, values: Mapping[int, bool]) -> None:
        active, inactive = self._line.Value.ACTIVE, self._line.Value.INACTIVE
        valid = {self._pins[name] for name in ("result_valid", "strobe") if name in self._pins}
        late = {pin: active for pin in valid if values[pin]}
        # What says that `pass` is valid rises after it, and falls before it.
        if fallen := {pin: inactive for pin in valid if not values[pin]}:
            self._outputs.set_values(fallen)
        self._outputs.set_values({pin: active if on else inactive for pin, on in values.items() if pin not in valid})
        if late:
            self._outputs.set_values(late)

    def _misread(self, values: Mapping[int, bool]) -> str | None:
        pins = list(values)
        names = {self._pins[name]: name for name in OUTPUTS if name in self._pins}
        read = self._outputs.get_values(pins)
        for pin, value in zip(pins, read, strict=True):
            if (value == self._line.Value.ACTIVE) != values[pin]:
                return f"line {pin} ({names[pin]}) reads {value.value} where {int(values[pin])} was set"
        return None

    def _let_go(self, why: str) -> None:
        """A line that cannot be set must not stay as it is: as an input, or unused, it drives nothing."""
        self._health.failed(why)
        outputs, self._outputs = self._outputs, None
        self._next_try = time.monotonic() + AGAIN_S
        settings = self._gpiod.LineSettings(direction=self._line.Direction.INPUT)
        with contextlib.suppress(Exception):
            outputs.reconfigure_lines({self._pins[name]: settings for name in OUTPUTS if name in self._pins})
        with contextlib.suppress(Exception):
            outputs.release()

    def _ask_again(self) -> bool:
        """Ask for the lines again, which sets them low; False while that fails."""
        if time.monotonic() < self._next_try or self._gpiod is None:
            return False
        self._next_try = time.monotonic() + AGAIN_S
        try:
            self._outputs = self._request_outputs()
        except Exception as error:
            self._health.failed(f"{_words(error)}: the lines cannot be had")
            return False
        return True

    def _listen(self) -> None:
        """Have the event loop read the inputs whenever the kernel reports an edge."""
        line = self._line
        config = {}
        for name in INPUTS:
            if name in self._pins:
                edges = line.Edge.BOTH if name == "trigger" and "strobe" in self._pins else line.Edge.RISING
                config[self._pins[name]] = self._gpiod.LineSettings(
                    direction=line.Direction.INPUT, edge_detection=edges, debounce_period=timedelta(milliseconds=5)
                )
        if config:
            self._inputs = self._gpiod.request_lines(self._chip, consumer="edge-ad", config=config)
            asyncio.get_running_loop().add_reader(self._inputs.fd, self._readable)

    def _readable(self) -> None:
        try:
            self._take_edges(self._inputs.read_edge_events(MAX_EVENTS))
        except Exception as error:
            self._input_failed(error)

    def _take_edges(self, events: Any) -> None:
        rising = self._gpiod.EdgeEvent.Type.RISING_EDGE
        for event in events:
            if event.line_offset == self._pins.get("acknowledge"):
                self._on_request(Acknowledge(self._signals.alarm_number))
            elif event.event_type == rising:  # the kernel's stamp: an edge may have waited for us
                self._on_request(Trigger("", event.timestamp_ns / 1e9))
            else:
                self._on_request(Released())

    def _input_failed(self, error: Exception) -> None:
        """Inputs that cannot be read call for nothing any more; a loop that is woken by them again and again is
        blocked.
        """
        self._health.failed(f"{_words(error)}: the inputs cannot be read, no part is called for any more")
        inputs, self._inputs = self._inputs, None
        asyncio.get_running_loop().remove_reader(inputs.fd)
        with contextlib.suppress(Exception):
            inputs.release()
        self._on_request(Unavailable())


def _words(error: Exception) -> str:
    """Return an exception in words: what the system says of it, or type and message of one that nobody foresaw."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return f"{type(error).__name__}: {error}"
