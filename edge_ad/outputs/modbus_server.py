"""A Modbus TCP server that a PLC reads: the lines as coils, discrete inputs and registers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

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
from edge_ad.outputs.signals import (
    PART_ADDRESS,
    PART_COUNT,
    PRODUCT_ADDRESS,
    REGISTERS,
    REQUEST_BITS,
    TRIGGER_BIT,
    Choose,
    Edges,
    OnRequest,
    OutputSignals,
    Taken,
)

BITS_LIMIT = 32
REGISTERS_LIMIT = PART_ADDRESS + PART_COUNT
MAX_CLIENTS = 16
MAX_OF_A_PEER = 8
IDLE_S = 60.0
BIND_FOR_S = 6.0
_NO_REQUESTS = (0,) * len(REQUEST_BITS)
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 11_000}


@dataclass(eq=False)
class _Client:
    peer: str
    writer: asyncio.StreamWriter
    task: asyncio.Task[None] | None
    asked_at: float  # when its last whole request came


class ModbusServer:
    """Serves the lines from memory: what ``show`` was given last is what the next read returns.

    Bits 0 to 7 and registers 0 to 23 are the lines and cannot be written. Bits 16 (acknowledge), 17 (trigger), 18 (pause)
    and 19 (resume) and registers 30 (product) and 32 to 47 (part id) belong to the PLC. Everything else reads 0 up to bit 31
    and register 47; further addresses are answered with exception 2. ``look`` is called before each answer: lines that ran out are
    not read, however late the timer is. A connection that asks nothing for a minute is ended, and at MAX_CLIENTS
    (MAX_OF_A_PEER of one address) the one that has been silent for longest makes room.
    """

    def __init__(
        self,
        host: str,
        port: int,
        on_request: OnRequest,
        look: Callable[[], None] = lambda: None,
        *,
        idle_s: float = IDLE_S,
    ) -> None:
        self._host, self._port = host, port
        self._on_request = on_request
        self._look = look
        self._idle_s = idle_s
        self._edges = Edges()
        self._signals = OutputSignals()
        self._bits = [0] * BITS_LIMIT
        self._registers = [0] * REGISTERS_LIMIT
        self._server: asyncio.Server | None = None
        self._clients: list[_Client] = []
        self._edges.look(_NO_REQUESTS, (), 0)
        self._taken = 0.0
        self._part: list[int] = []  # of the last call
        self._caller: _Client | None = None  # who wrote the request bits last
        self.show(self._signals)

    @property
    def name(self) -> str:
        """The address for people."""
        return f"modbus-server://{self._host}:{self._port}"

    @property
    def connected(self) -> int:
        """How many connections there are."""
        return len(self._clients)

    def look(self) -> None:
        """Requests are taken in as they come."""

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

    def show(self, signals: OutputSignals) -> None:
        """Put the lines where the next read finds them."""
        self._signals = signals
        self._bits[: len(signals.bits())] = [int(bit) for bit in signals.bits()]
        self._registers[:REGISTERS] = signals.registers()

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
        tasks = [client.task for client in self._clients if client.task is not None]
        for client in list(self._clients):
            self._end(client, abort=True)
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = self._admit(writer)
        try:
            while client in self._clients:
                header = await asyncio.wait_for(reader.readexactly(HEADER), self._idle_s)
                transaction, unit, length = split_header(header)
                pdu = await asyncio.wait_for(reader.readexactly(length), self._idle_s)
                client.asked_at = time.monotonic()
                if pdu[0] in (WRITE_COIL, WRITE_COILS):
                    self._caller = client
                writer.write(frame(transaction, unit, self.answer(pdu)))
                await asyncio.wait_for(writer.drain(), self._idle_s)
                await asyncio.sleep(0)  # a flood of requests must not keep the timers from their turn
        except Exception:
            pass  # the PLC went away, is silent, or it speaks something else: its connection ends
        except asyncio.CancelledError:
            pass  # the guard ends; a cancelled handler would be told with a traceback
        finally:
            self._end(client)

    def _admit(self, writer: asyncio.StreamWriter) -> _Client:
        """Take in a connection; where there is no room, the one that was silent for longest goes."""
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        mine = [client for client in self._clients if client.peer == peer]
        crowd = mine if len(mine) >= MAX_OF_A_PEER else self._clients
        if crowd is mine or len(self._clients) >= MAX_CLIENTS:
            self._end(min(crowd, key=lambda client: client.asked_at), abort=True)
        link = writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        client = _Client(peer, writer, asyncio.current_task(), time.monotonic())
        self._clients.append(client)
        return client

    def _end(self, client: _Client, abort: bool = False) -> None:
        if client in self._clients:
            self._clients.remove(client)
        if client is self._caller:  # what it asked for it cannot take back any more: its next 1 is a new request
            self._caller = None
            for bit in REQUEST_BITS:
                self._bits[bit] = 0
            self._edges.look(_NO_REQUESTS, (), 0)
        with contextlib.suppress(OSError):
            if abort:
                client.writer.transport.abort()  # a peer that does not read would keep it open
            else:
                client.writer.close()

    def answer(self, pdu: bytes) -> bytes:
        """Return the answer to one request PDU (at least one byte)."""
        try:
            self._look()
            request = parse_request(pdu)
            return self._read(request) if isinstance(request, Read) else self._write(request)
        except ModbusError as error:
            return error_answer(pdu[0] & 0x7F, error.code)

    def _read(self, request: Read) -> bytes:
        if self._signals.sent_at != self._taken:
            self._taken = self._signals.sent_at
            self._on_request(Taken(self._taken))
        table = self._bits if request.function <= READ_DISCRETE else self._registers
        if request.address + request.count > len(table):
            raise ModbusError(ILLEGAL_ADDRESS)
        return read_answer(request, tuple(table[request.address : request.address + request.count]))

    def _write(self, request: Write) -> bytes:
        bits = request.function in (WRITE_COIL, WRITE_COILS)
        allowed = range(16, BITS_LIMIT) if bits else range(PRODUCT_ADDRESS, REGISTERS_LIMIT)
        indices = range(request.address, request.address + len(request.values))
        if indices[0] not in allowed or indices[-1] not in allowed:
            raise ModbusError(ILLEGAL_ADDRESS)
        table = self._bits if bits else self._registers
        table[indices.start : indices.stop] = request.values
        if not bits and PRODUCT_ADDRESS in indices:
            self._on_request(Choose(self._registers[PRODUCT_ADDRESS]))
        part = self._registers[PART_ADDRESS : PART_ADDRESS + PART_COUNT]
        looks = [[self._bits[bit] for bit in REQUEST_BITS]]
        if bits and TRIGGER_BIT in indices and self._bits[TRIGGER_BIT]:
            if part != self._part:  # another part, though the bit was not seen to fall in between
                looks.insert(0, [bit * (index != TRIGGER_BIT) for index, bit in zip(REQUEST_BITS, looks[0], strict=True)])
            self._part = part
        for look in looks:
            for event in self._edges.look(look, part, self._signals.alarm_number):
                self._on_request(event)
        return write_answer(request)
