"""The guard's side of a PLC that a process of its own writes into (S7, EtherNet/IP): feeds it, hears it, replaces it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from edge_ad.outputs.channels import OutputAddress, address_name, require_packages
from edge_ad.outputs.signals import (
    Acknowledge,
    ChannelHealth,
    Choose,
    OnRequest,
    Order,
    OutputSignals,
    Request,
    Taken,
    Trigger,
    Unavailable,
)

RESEND_S = 0.04
HUNG_S = 2.0  # more than three requests without an answer
CONNECT_S = 12.0  # the libraries wait for 5 s, twice
STARTING_S = 3.0
STOPPED_S = 1.0  # this process itself
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 10.0
CONFIRM_S = 0.5
REAP_S = 0.05
MAX_READ = 65_536
MAX_VERDICTS = 100
# How long there may be no report after one of this kind: after a fault it pauses, and connects.
_LIMITS = {"connecting": CONNECT_S, "failed": CONNECT_S, "connected": HUNG_S, "written": HUNG_S}


class PlcChannel:
    """Keeps a process `edge_ad.outputs.plc_writer` fed with the lines, and acts on what it reports.

    The lines are sent when they change and every 50 ms; a process that hears nothing writes a reject by itself. One that
    ends, or that reports nothing for HUNG_S (CONNECT_S while it connects), is killed and started again, after 0.1 s, then
    0.2 s and so on up to 10 s. ``stats`` is told why the PLC is not written to.
    """

    def __init__(self, address: OutputAddress, on_request: OnRequest, stats: ChannelHealth | None = None) -> None:
        self._address = address
        self._on_request = on_request
        self._health = stats or ChannelHealth(lambda fault: None)
        self._signals = OutputSignals()
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._heard = self._shown = self._next_start = 0.0
        self._limit = CONNECT_S
        self._pause = FIRST_PAUSE_S
        self._sent: tuple[tuple[int, ...], int] | None = None
        self._sent_at = 0.0
        self._number = self._written = self._taken = 0
        self._verdicts: list[tuple[int, float]] = []  # the first message of each that is not written yet
        self._verdict_at = 0.0
        self._last_words = ""
        self._closed = False

    @property
    def name(self) -> str:
        """The address for people."""
        return address_name(self._address)

    @property
    def pid(self) -> int | None:
        """The process that writes, None between two of them."""
        return None if self._process is None else self._process.pid

    async def open(self) -> None:
        """Start the process; a PLC that does not answer yet is no error."""
        require_packages([self._address])
        self._start()

    def look(self) -> None:
        """The process looks by itself before it writes a pass."""

    def show(self, signals: OutputSignals) -> None:
        """Send the lines when they have changed or were sent a while ago, and see to the process."""
        self._signals = signals
        now = time.monotonic()
        if now - self._shown > STOPPED_S:  # stopped, and so were the reports
            self._heard = now
        self._shown = now
        if self._process is not None and now - self._heard > self._limit:
            self._end(f"its process reports nothing for {self._limit:g} s and is started again")
        elif self._process is None and now >= self._next_start and not self._closed:
            self._start()
        self._send(now)

    async def confirmed(self, seconds: float) -> bool:
        """Wait until what was shown last is written; False when it is not within ``seconds``, and a start takes longer."""
        self._sent = None
        self._send(time.monotonic())
        number = self._number
        ends = time.monotonic() + seconds + (0.0 if self._written else STARTING_S)
        while self._written < number and time.monotonic() < ends:
            await asyncio.sleep(0.01)
            self.show(self._signals)
        return self._written >= number

    async def close(self) -> None:
        """Have what was shown last written, for at most half a second where the PLC answers, and end the process."""
        if self._process is not None and self._written:
            await self.confirmed(CONFIRM_S)
        self._closed = True
        process = self._process
        self._let_go()
        ends = time.monotonic() + CONFIRM_S
        while process is not None and process.poll() is None:
            if time.monotonic() > ends:
                process.kill()
            await asyncio.sleep(0.01)

    def _start(self) -> None:
        command = [sys.executable, "-m", "edge_ad.outputs.plc_writer", json.dumps(asdict(self._address))]
        try:
            self._process = process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:  # no memory or no process left: tried again
            self._later(f"its process cannot be started ({error.strerror})")
            return
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        asyncio.get_running_loop().add_reader(process.stdout.fileno(), self._readable)
        self._heard = time.monotonic()
        self._limit = CONNECT_S
        self._rest, self._last_words, self._sent = b"", "", None
        self._taken = 0
        self._send(self._heard)

    def _send(self, now: float) -> None:
        """Write to the pipe; one that is full is tried again with the next refresh."""
        process, message = self._process, (self._signals.registers(), self._taken)
        if process is None or process.stdin is None or (message == self._sent and now - self._sent_at < RESEND_S):
            return
        record = {"number": self._number + 1, "at": now, "words": message[0], "taken": message[1]}
        with contextlib.suppress(OSError):  # its end is read on the other pipe
            os.write(process.stdin.fileno(), (json.dumps(record) + "\n").encode())  # shorter than PIPE_BUF
            self._number += 1
            self._sent, self._sent_at = message, now
            if self._signals.sent_at != self._verdict_at:
                self._verdict_at = self._signals.sent_at
                self._verdicts = [*self._verdicts[-MAX_VERDICTS:], (self._number, self._verdict_at)]

    def _readable(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            data = os.read(self._process.stdout.fileno(), MAX_READ)
        except BlockingIOError:
            return
        if not data:
            self._end(f"its process ended and is started again {self._last_words}".rstrip())
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-MAX_READ:]
        for line in lines:
            try:
                record = json.loads(line)
                kind = record["kind"]
            except (ValueError, TypeError, KeyError):  # what Python itself writes when it breaks
                self._last_words = f"({line.decode(errors='replace').strip()[:200]})"
                continue
            self._take(kind, record)

    def _take(self, kind: str, record: dict[str, Any]) -> None:
        self._heard = time.monotonic()
        if kind in _LIMITS:
            self._limit = _LIMITS[kind]
        if kind == "written":
            self._written = int(record["number"])
            self._pause = FIRST_PAUSE_S
            if record["well"]:
                self._health.well()
                written = [at for number, at in self._verdicts if number <= self._written]
                self._verdicts = self._verdicts[len(written) :]
                if written:
                    self._on_request(Taken(written[-1]))
        elif kind == "failed":
            self._health.failed(str(record["text"]))
        elif kind in ("trigger", "acknowledge", "unavailable", "order", "choose"):
            self._taken = int(record["count"])
            self._on_request(self._request(kind, record))
            self._send(time.monotonic())

    def _request(self, kind: str, record: dict[str, Any]) -> Request:
        if kind == "trigger":
            return Trigger(str(record["part"]))
        if kind == "order":
            return Order(str(record["order"]))
        if kind == "choose":
            return Choose(int(record["code"]))
        if kind == "unavailable":
            return Unavailable()
        number = self._signals.alarm_number  # of which the PLC shows 16 bits
        return Acknowledge(number - (number - int(record["alarm"])) % 0x10000)

    def _end(self, why: str) -> None:
        """Let go of a process that ended or hangs; the PLC may have called meanwhile."""
        self._let_go(kill=True)
        self._later(why)
        asyncio.get_running_loop().call_soon(self._on_request, Unavailable())

    def _later(self, why: str) -> None:
        self._health.failed(why)
        self._next_start = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE_S)

    def _let_go(self, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        asyncio.get_running_loop().remove_reader(process.stdout.fileno())
        if kill:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(REAP_S)
        process.stdin.close()
        process.stdout.close()
