"""A Modbus TCP server that a PLC reads: the lines as coils, discrete inputs and registers."""

from __future__ import annotations

import asyncio
import contextlib

from edge_ad.outputs.lines import REGISTERS, Lines
from edge_ad.outputs.modbus_codec import (
    HEADER,
    ILLEGAL_ADDRESS,
    READ_DISCRETE,
    WRITE_COIL,
    WRITE_COILS,
    ModbusError,
    Read,
    Write,
    error_answer,
    frame,
    parse_request,
    read_answer,
    split_header,
    write_answer,
)
from edge_ad.outputs.requests import PART_ADDRESS, PART_COUNT, REQUEST_BITS, Edges, OnRequest

BITS_LIMIT = 32
REGISTERS_LIMIT = PART_ADDRESS + PART_COUNT
MOST_CLIENTS = 16
BIND_FOR_S = 6.0


class ModbusServer:
    """Serves the lines from memory: what ``show`` was given last is what the next read returns.

    Bits 0 to 7 and registers 0 to 23 are the lines and cannot be written. Bits 16 (acknowledge) and 17 (trigger) and
    registers 32 to 47 (part id) belong to the PLC. Everything else reads 0 up to bit 31 and register 47; further
    addresses are answered with exception 2.
    """

    def __init__(self, host: str, port: int, on_request: OnRequest) -> None:
        self._host, self._port = host, port
        self._on_request = on_request
        self._edges = Edges()
        self._lines = Lines()
        self._bits = [0] * BITS_LIMIT
        self._registers = [0] * REGISTERS_LIMIT
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._edges.look((0, 0), (), 0)
        self.show(self._lines)

    @property
    def name(self) -> str:
        """The address for people."""
        return f"modbus-server://{self._host}:{self._port}"

    async def open(self) -> None:
        """Listen; an address in use is tried again for some seconds, because an earlier guard may still hold it."""
        for attempt in range(int(BIND_FOR_S / 0.1) + 1):
            try:
                self._server = await asyncio.start_server(self._serve, self._host, self._port)
                break
            except OSError:
                if attempt * 0.1 >= BIND_FOR_S:
                    raise
                await asyncio.sleep(0.1)

    @property
    def port(self) -> int:
        """The port that is listened on (for port 0: the one that was given)."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def show(self, lines: Lines) -> None:
        """Put the lines where the next read finds them."""
        self._lines = lines
        self._bits[: len(lines.bits())] = [int(bit) for bit in lines.bits()]
        self._registers[:REGISTERS] = lines.registers()

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MOST_CLIENTS:
            writer.close()
            return
        self._clients.add(writer)
        try:
            while True:
                transaction, unit, length = split_header(await reader.readexactly(HEADER))
                answer = self.answer(await reader.readexactly(length))
                writer.write(frame(transaction, unit, answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass  # the PLC went away, or it speaks something else
        finally:
            self._clients.discard(writer)
            with contextlib.suppress(OSError):
                writer.close()

    def answer(self, pdu: bytes) -> bytes:
        """Return the answer to one request PDU (at least one byte)."""
        try:
            request = parse_request(pdu)
            return self._read(request) if isinstance(request, Read) else self._write(request)
        except ModbusError as error:
            return error_answer(pdu[0] & 0x7F, error.code)

    def _read(self, request: Read) -> bytes:
        table = self._bits if request.function <= READ_DISCRETE else self._registers
        if request.address + request.count > len(table):
            raise ModbusError(ILLEGAL_ADDRESS)
        return read_answer(request, tuple(table[request.address : request.address + request.count]))

    def _write(self, request: Write) -> bytes:
        bits = request.function in (WRITE_COIL, WRITE_COILS)
        allowed = range(16, BITS_LIMIT) if bits else range(PART_ADDRESS, REGISTERS_LIMIT)
        places = range(request.address, request.address + len(request.values))
        if places[0] not in allowed or places[-1] not in allowed:
            raise ModbusError(ILLEGAL_ADDRESS)
        table = self._bits if bits else self._registers
        table[places.start : places.stop] = request.values
        part = self._registers[PART_ADDRESS : PART_ADDRESS + PART_COUNT]
        for found in self._edges.look([self._bits[bit] for bit in REQUEST_BITS], part, self._lines.alarm_number):
            self._on_request(found)
        return write_answer(request)
