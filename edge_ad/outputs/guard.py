"""The output guard: a small process of its own that owns the wires and lets go of "good" by itself.

It is fed over its standard input, one JSON object a line, and tells requests of the PLC on its standard output. When no
fresh message comes within ``hold_ms``, or when the pipe closes, however the inspector died, it shows a reject. It needs
nothing but the standard library (and gpiod for pins), so that nothing of the inspector can hold it up.
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

from edge_ad.errors import EdgeAdError
from edge_ad.outputs.channels import Channel, OutputAddress, make_channel, parse_output
from edge_ad.outputs.hold import KINDS, Hold, Message
from edge_ad.outputs.lines import Lines
from edge_ad.outputs.requests import Acknowledge, Request

LINGER_S = 1.0
_LEAST_WAIT_S = 0.0005

Tell = Callable[[dict[str, Any]], None]


class Guard:
    """Keeps the channels at what the hold says, whoever is silent."""

    def __init__(self, hold: Hold, addresses: Sequence[OutputAddress], tell: Tell) -> None:
        self._hold = hold
        self._tell = tell
        self._channels: list[Channel] = [make_channel(address, self._request) for address in addresses]
        self._shown: Lines | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    async def open(self) -> dict[str, int]:
        """Open all channels, showing a reject; return the ports that are listened on, by name."""
        for channel in self._channels:
            await channel.open()
        self.refresh()
        return {channel.name: channel.port for channel in self._channels if hasattr(channel, "port")}

    def take(self, record: dict[str, Any]) -> None:
        """Take in one message from the inspector."""
        if record.get("kind") == "alarm":
            self._hold.lamp(bool(record["lit"]), bool(record["waiting"]), int(record["number"]))
        elif record.get("kind") in KINDS:
            self._hold.take(Message(**record))
        self.refresh()

    def refresh(self) -> None:
        """Show what must stand now, and come back when that changes by itself."""
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic()
        lines = Lines(alarm=self._hold.alarm) if self._ended else self._hold.lines(now)
        if lines != self._shown:
            self._shown = lines
            for channel in self._channels:
                self._show(channel, lines)
        if not self._ended:
            wait = max(self._hold.next_change(now), _LEAST_WAIT_S)
            self._timer = asyncio.get_running_loop().call_later(wait, self.refresh)

    async def close(self, linger_s: float) -> None:
        """Show a reject, leave it standing for a moment for those who only read, and let go."""
        self._ended = True
        self.refresh()
        if any(hasattr(channel, "port") for channel in self._channels):
            await asyncio.sleep(linger_s)
        for channel in self._channels:
            with contextlib.suppress(OSError):
                await channel.close()

    def _show(self, channel: Channel, lines: Lines) -> None:
        """One broken channel must not keep the others from rejecting."""
        try:
            channel.show(lines)
        except Exception as error:
            self._tell({"kind": "error", "text": f"{channel.name}: {type(error).__name__}: {error}"})

    def _request(self, request: Request) -> None:
        kind = "acknowledge" if isinstance(request, Acknowledge) else "trigger"
        self._tell({"kind": kind, "at": time.monotonic(), **asdict(request)})


async def serve() -> None:
    """Run until the pipe closes. The first line is ``{"outputs", "hold_ms", "cameras"}``."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    first = await reader.readline()
    if not first:
        return  # the inspector died before its first word
    settings = json.loads(first)
    hold = Hold(settings["hold_ms"] / 1000.0, settings["cameras"])
    guard = Guard(hold, [parse_output(uri) for uri in settings["outputs"]], tell)
    try:
        ports = await guard.open()
    except (EdgeAdError, OSError) as error:
        tell({"kind": "failed", "text": str(error)})
        return
    tell({"kind": "open", "ports": ports, "pid": os.getpid()})
    while line := await reader.readline():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a torn line is no message
            guard.take(json.loads(line))
    await guard.close(LINGER_S)


async def reject(addresses: Sequence[OutputAddress]) -> None:
    """Show a reject on outputs whose inspector is gone, once; a server has nobody to tell and is left out."""
    for address in addresses:
        if address.kind == "modbus-server":
            continue
        channel = make_channel(address, lambda request: None)
        await channel.open()
        channel.show(Lines())
        await channel.close()


def tell(record: dict[str, Any]) -> None:
    """Tell the inspector something; when it no longer listens, that is its affair."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Run as a process: Ctrl-C and SIGTERM of the group are for the inspector, whose pipe then closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(-10)
    asyncio.run(serve())


if __name__ == "__main__":
    main()
