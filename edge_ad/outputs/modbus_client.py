"""A Modbus TCP client that writes the lines into a PLC, again and again, and reads its requests."""

from __future__ import annotations

import asyncio
import contextlib

from edge_ad.outputs.lines import Lines
from edge_ad.outputs.modbus_codec import (
    HEADER,
    READ_COILS,
    READ_HOLDING,
    ModbusError,
    frame,
    read_request,
    read_values,
    split_header,
    write_bits_request,
    write_registers_request,
)
from edge_ad.outputs.requests import PART_ADDRESS, PART_COUNT, REQUEST_BITS, Edges, OnRequest

CYCLE_S = 0.05
ANSWER_S = 0.5
LONGEST_PAUSE_S = 2.0


class ModbusClient:
    """Writes coils ``base`` to ``base + 7`` and holding registers ``base`` to ``base + 23`` of a PLC.

    Changes go out at once, and everything is written every 50 ms; in the same cycle the request bits ``base + 16`` and
    ``base + 17`` and, on a trigger, registers ``base + 32`` on are read. A lost connection is built again after 0.1 s,
    then 0.2 s and so on up to 2 s; what the PLC shows meanwhile is its own affair (watch the heartbeat bit).
    """

    def __init__(self, host: str, port: int, unit: int, base: int, on_request: OnRequest) -> None:
        self._host, self._port, self._unit, self._base = host, port, unit, base
        self._on_request = on_request
        self._edges = Edges()
        self._lines = Lines()
        self._changed = asyncio.Event()
        self._written = asyncio.Event()
        self._transaction = 0
        self._task: asyncio.Task[None] | None = None
        self._reads = True
        self._closing = False
        self.connections = 0
        self.failures = 0

    @property
    def name(self) -> str:
        """The address for people."""
        return f"modbus://{self._host}:{self._port}"

    async def open(self) -> None:
        """Start; a PLC that does not answer yet is no error."""
        self._task = asyncio.create_task(self._run())

    def show(self, lines: Lines) -> None:
        """Write the lines as soon as the wire is free."""
        self._lines = lines
        self._changed.set()

    async def close(self) -> None:
        """Write what was shown last, for at most half a second, and hang up."""
        if self._task is None:
            return
        self._written.clear()
        self._changed.set()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._written.wait(), ANSWER_S)
        self._closing = True  # before Python 3.12 wait_for can swallow the cancellation
        self._task.cancel()
        await asyncio.wait([self._task], timeout=ANSWER_S)

    async def _run(self) -> None:
        pause = 0.1
        while not self._closing:
            try:
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(self._host, self._port), LONGEST_PAUSE_S
                )
            except (OSError, asyncio.TimeoutError):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = 0.1
            self.connections += 1
            try:
                await self._talk(reader, writer)
            except (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError, ModbusError):
                self.failures += 1
            finally:
                with contextlib.suppress(OSError):
                    writer.close()
            await asyncio.sleep(pause)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self._closing:
            self._changed.clear()
            lines = self._lines
            await self._ask(reader, writer, write_bits_request(self._base, lines.bits()))
            await self._ask(reader, writer, write_registers_request(self._base, lines.registers()))
            if not self._changed.is_set():
                self._written.set()
                await self._requests(reader, writer)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), CYCLE_S)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read what the PLC asks; one that has no such addresses is not asked again."""
        if not self._reads:
            return
        try:
            first, last = REQUEST_BITS
            count = last - first + 1
            pdu = await self._ask(reader, writer, read_request(READ_COILS, self._base + first, count))
            bits = read_values(READ_COILS, count, pdu)
            part: tuple[int, ...] = ()
            if bits[1]:
                pdu = await self._ask(reader, writer, read_request(READ_HOLDING, self._base + PART_ADDRESS, PART_COUNT))
                part = read_values(READ_HOLDING, PART_COUNT, pdu)
        except ModbusError:
            self._reads = False
            return
        for found in self._edges.look(bits, part, self._lines.alarm_number):
            self._on_request(found)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pdu: bytes) -> bytes:
        self._transaction = (self._transaction + 1) & 0xFFFF
        writer.write(frame(self._transaction, self._unit, pdu))
        await asyncio.wait_for(writer.drain(), ANSWER_S)
        transaction, _, length = split_header(await asyncio.wait_for(reader.readexactly(HEADER), ANSWER_S))
        answer = await asyncio.wait_for(reader.readexactly(length), ANSWER_S)
        if transaction != self._transaction:
            raise ValueError("an answer to another request")
        if answer[0] & 0x80 and pdu[0] >= 5:
            raise ModbusError(answer[1])
        return answer
