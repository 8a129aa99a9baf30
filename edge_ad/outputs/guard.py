"""The output guard: a process of its own that holds PLCs and GPIO, because the inspector may die.

The inspector feeds it over its standard input, one JSON object a line, and tells requests of the PLC on its standard
output. When no fresh message comes within ``hold_ms``, or when the pipe closes, however the inspector died, it shows a
reject. It needs nothing but the standard library (and gpiod for pins), so that nothing of the inspector can hold it up,
and it waits for nobody: what the inspector does not read is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from edge_ad.errors import DeviceFault, EdgeAdError
from edge_ad.outputs.channels import (
    Channel,
    Confirming,
    Listening,
    OutputAddress,
    address_names,
    make_channel,
    parse_output,
)
from edge_ad.outputs.guard_state import KINDS, GuardState, Message
from edge_ad.outputs.signals import (
    Acknowledge,
    ChannelHealth,
    Choose,
    Order,
    OutputSignals,
    Released,
    Request,
    Taken,
    Unavailable,
)

LINGER_S = 1.0
REFRESH_S = 0.05
MAX_REQUESTS = 100  # told in a second
MAX_MESSAGE = 500
REPEAT_S = 0.5
_MIN_WAIT_S = 0.0005

Report = Callable[[dict[str, Any]], None]
CallLater = Callable[[float, Callable[[], None]], Any]


class Guard:
    """Keeps the channels at what the hold says, whoever is silent.

    ``trigger`` is the kind of channel that calls for parts ("modbus", "gpio", "s7", "enip", else ""). ``clock`` and
    ``call_later`` are those of the event loop unless a test brings its own.
    """

    def __init__(
        self,
        hold: GuardState,
        addresses: Sequence[OutputAddress],
        report: Report,
        *,
        trigger: str = "",
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater | None = None,
    ) -> None:
        self._guard_state = hold
        self._report = report
        self._trigger = trigger
        self._clock = clock
        self._call_later = call_later
        self._channel_health = [self._health(name) for name in address_names(addresses)]
        self._serves = [address.kind == "modbus-server" for address in addresses]
        self._channels: list[Channel] = [self._channel(*pair) for pair in zip(addresses, self._channel_health, strict=True)]
        self._timer: Any = None
        self._due = 0.0
        self._refreshing = False
        self._ended = False
        self._second, self._requests = 0, 0
        self._code, self._told_at = 0, 0.0  # of the product that is asked for

    async def open(self) -> dict[str, int]:
        """Open all channels, showing a reject; return the ports that are listened on, by name."""
        for channel in self._channels:
            await channel.open()
        self.refresh()
        return {channel.name: channel.port for channel in self._channels if isinstance(channel, Listening)}

    def take(self, record: Any) -> None:
        """Take in one message from the inspector; one that is torn counts for nothing."""
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            self._take(record)
        self.refresh()

    def _take(self, record: dict[str, Any]) -> None:
        kind = record.get("kind")
        if kind == "ping":
            self._report({"kind": "pong", "number": int(record["number"])})
        elif kind == "alarm":
            self._guard_state.lamp(bool(record["lit"]), bool(record["waiting"]), int(record["number"]))
        elif kind == "pause":
            self._guard_state.pause(bool(record["paused"]))
        elif kind == "challenge":
            self._guard_state.challenge, self._guard_state.locked = bool(record["open"]), bool(record["locked"])
        elif kind == "product":
            self._guard_state.show_product(int(record["code"]), str(record["state"]), int(record["number"]))
        elif kind == "called":
            self._guard_state.trigger(float(record["at"]))
        elif kind in KINDS:
            self._guard_state.take(Message(**record))

    def look(self) -> None:
        """Refresh when the timer should have done so already: the loop may be late."""
        if self._clock() >= self._due:
            self.refresh()

    def refresh(self) -> None:
        """Show what must stand now, and come back when that changes by itself."""
        if self._refreshing:
            return  # a channel told a request while it was looked at; the lines are computed after that
        self._refreshing = True
        try:
            if self._timer is not None:
                self._timer.cancel()
            if self._guard_state.signals(self._clock()).passed:
                self._each(lambda channel: channel.look())
            now = self._clock()
            if self._guard_state.changing and now - self._told_at > REPEAT_S:
                self._told_at = now
                self._tell_choice()
            signals = OutputSignals(alarm=self._guard_state.alarm) if self._ended else self._guard_state.signals(now)
            self._due = now + max(min(self._guard_state.next_change(now), REFRESH_S), _MIN_WAIT_S)
            self._each(lambda channel: channel.show(signals))
        finally:
            self._refreshing = False
        if not self._ended:
            later = self._call_later or asyncio.get_running_loop().call_later
            self._timer = later(max(self._due - self._clock(), _MIN_WAIT_S), self.refresh)

    async def close(self, linger_s: float) -> None:
        """Show a reject, leave it standing for a moment for those who only read, and let go."""
        self._ended = True
        self.refresh()
        # A reader must have time to read it; what is written or set is let go at once, for the next run.
        readers = [channel for channel in self._channels if isinstance(channel, Listening)]
        for channel in self._channels:
            if channel not in readers:
                with contextlib.suppress(Exception):
                    await channel.close()
        if readers:
            await asyncio.sleep(linger_s)
        for channel in readers:
            with contextlib.suppress(Exception):
                await channel.close()

    def _health(self, name: str) -> ChannelHealth:
        return ChannelHealth(lambda fault: self._report(_bounded({"kind": "channel", "name": name, "fault": fault})))

    def _channel(self, address: OutputAddress, stats: ChannelHealth) -> Channel:
        calls = address.trigger == self._trigger
        return make_channel(address, lambda request: self._request(request, calls), stats, self.look)

    def _each(self, act: Callable[[Channel], None]) -> None:
        """One broken channel must not keep the others from rejecting."""
        for channel, stats, serves in zip(self._channels, self._channel_health, self._serves, strict=True):
            try:
                act(channel)
            except Exception as error:
                stats.failed(f"{type(error).__name__}: {error}")
            else:
                if serves and stats.fault:  # what writes or sets tells itself that it is well
                    stats.well()

    def _request(self, request: Request, calls: bool) -> None:
        """Act on a request at once; the inspector is told of so many a second."""
        now = self._clock()
        if isinstance(request, Released):
            self._guard_state.level = self._guard_state.level and not calls
        elif isinstance(request, Unavailable):
            if calls and self._guard_state.calls:
                self._guard_state.forget()
        elif isinstance(request, Taken):
            if self._guard_state.challenge:  # nobody else asks
                self._report_request({"kind": "taken", "sent_at": request.sent_at, "at": now}, now)
        elif isinstance(request, Order):
            self._report_request({"kind": "order", "order": request.kind, "at": now}, now)
        elif isinstance(request, Choose):
            self._choose(request.code, now)
        elif isinstance(request, Acknowledge):
            self._report_request({"kind": "acknowledge", "at": now, **asdict(request)}, now)
        elif calls or not self._trigger:  # a trigger elsewhere than where parts are called for calls for nothing
            at = min(now if request.at is None else request.at, now)
            if calls:
                self._guard_state.level = True
                self._guard_state.trigger(at)
            self._report_request({"kind": "trigger", "part": request.part, "at": at}, now)
        self.refresh()

    def _choose(self, code: int, now: float) -> None:
        """Ask for a product, again and again until that is answered; a number is higher than those of earlier guards.

        The same code again is no request: there are PLCs that write all their registers in every cycle.
        """
        state = self._guard_state
        again = code == self._code if state.changing else (code, "active") == (state.product, state.product_state)
        if state.product_state and code and not again:
            self._code, self._told_at = code, now
            self._guard_state.ask_product(max(self._guard_state.asked + 1, int(now * 1e6)))
            self._tell_choice()

    def _tell_choice(self) -> None:
        self._report({"kind": "product", "code": self._code, "number": self._guard_state.asked})

    def _report_request(self, record: dict[str, Any], now: float) -> None:
        if int(now) != self._second:
            self._second, self._requests = int(now), 0
        self._requests += 1
        if self._requests <= MAX_REQUESTS:
            self._report(record)


async def serve() -> None:
    """Run until the pipe closes. The first line is ``{"outputs", "hold_ms", "cameras", "calls", "trigger"}``."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_broken)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    first = await reader.readline()
    if not first:
        return  # the inspector died before its first word
    settings = json.loads(first)
    hold = GuardState(settings["hold_ms"] / 1000.0, settings["cameras"], bool(settings.get("calls")))
    addresses = [parse_output(uri) for uri in settings["outputs"]]
    guard = Guard(hold, addresses, write_record, trigger=str(settings.get("trigger") or ""))
    try:
        ports = await guard.open()
    except Exception as error:  # a host that is no name is none of the foreseen
        write_record(_bounded({"kind": "failed", "text": str(error)}))
        return
    write_record({"kind": "open", "ports": ports, "pid": os.getpid()})
    while line := await reader.readline():
        guard.take(_parsed(line))
        await asyncio.sleep(0)  # however many messages wait, the timer and the PLC have their turn
    await guard.close(LINGER_S)


async def reject(addresses: Sequence[OutputAddress], seconds: float = 3.0) -> None:
    """Show a reject on outputs whose inspector is gone, once; a server has nobody to tell and is left out.

    DeviceFault names every output that did not take it within ``seconds``.
    """
    faults = [fault for fault in [await _rejected(address, seconds) for address in addresses] if fault]
    if faults:
        raise DeviceFault(
            f"no reject could be shown on {'; '.join(faults)}; check the address, and that the PLC rejects by itself when "
            "it hears nothing"
        )


async def _rejected(address: OutputAddress, seconds: float) -> str | None:
    """Show a reject on one output; return why it did not take it, None when it did."""
    if address.kind == "modbus-server":
        return None
    stats = ChannelHealth(lambda fault: None)
    channel = make_channel(address, lambda request: None, stats)
    deadline = time.monotonic() + seconds
    while True:
        try:
            await channel.open()
            break
        except (EdgeAdError, OSError) as error:  # the guard of a run that has just ended may still hold the lines
            if time.monotonic() > deadline:
                return str(error)
            await asyncio.sleep(0.1)
    channel.show(OutputSignals())
    taken = await channel.confirmed(seconds) if isinstance(channel, Confirming) else stats.fault is None
    await channel.close()
    return None if taken else f"{channel.name}: {stats.fault or f'no answer within {seconds:g} s'}"


def write_record(record: dict[str, Any]) -> None:
    """Tell the inspector something; what it does not read is dropped, because nothing may block here."""
    with contextlib.suppress(OSError, ValueError):
        os.write(1, (json.dumps(record) + "\n").encode())  # shorter than PIPE_BUF: all or nothing


def _bounded(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value[:MAX_MESSAGE] if isinstance(value, str) else value for key, value in record.items()}


def _parsed(line: bytes) -> Any:
    """Return a message; None for a torn line."""
    with contextlib.suppress(ValueError):
        return json.loads(line)
    return None


def _broken(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell an exception that nobody took. One of a timer or a reader ends the process, on which the kernel lets go of
    pins and connections: without the timer a pass would stand for ever.
    """
    write_record(_bounded({"kind": "error", "text": _words(context)}))
    if "handle" in context:
        os._exit(1)


def _words(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message', '')}: {type(error).__name__}: {error}" if error else str(context.get("message"))


def main() -> None:
    """Run as a process: Ctrl-C and SIGTERM of the group are for the inspector, whose pipe then closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(1, False)
    with contextlib.suppress(OSError):
        os.nice(-10)
    asyncio.run(serve())


if __name__ == "__main__":
    main()
