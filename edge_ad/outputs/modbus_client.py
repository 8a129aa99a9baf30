"""A Modbus TCP client that writes the lines into a PLC, again and again, reads them back, and reads its requests."""

from __future__ import annotations

import asyncio
import contextlib

from edge_ad.outputs.modbus_codec import (
    HEADER,
    READ_COILS,
    READ_HOLDING,
    WRITE_COILS,
    ModbusError,
    frame,
    read_request,
    read_values,
    split_header,
    write_bits_request,
    write_registers_request,
)
from edge_ad.outputs.signals import (
    BITS,
    FIRST_REQUEST_BITS,
    PART_ADDRESS,
    PART_COUNT,
    PRODUCT_ADDRESS,
    REGISTERS,
    REQUEST_BITS,
    TRIGGER_BIT,
    ChannelHealth,
    Choose,
    Edges,
    OnRequest,
    OutputSignals,
    Taken,
    Unavailable,
)

CYCLE_S = 0.05
ANSWER_S = 0.5
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
MAX_MISREADS = 3
_PASS = BITS.index("pass")


class ModbusClient:
    """Writes coils ``base`` to ``base + 7`` and holding registers ``base`` to ``base + 23`` of a PLC.

    Changes go out at once, and everything is written every 50 ms. In the same cycle the coils are read back, and the
    request bits ``base + 16`` to ``base + 19`` (of an older PLC the first two) and, on a trigger, registers ``base + 32``
    on are read; before a pass is written the request bits are read first, so that it cannot follow a call that it is not
    about. A lost connection is built again after 0.1 s, then 0.2 s and so on up to 2 s; what the PLC shows meanwhile is
    its own affair (watch the heartbeat bit). ``stats`` is told of a PLC that cannot be reached, refuses, or shows other
    coils than were written.
    """

    def __init__(
        self, host: str, port: int, unit: int, base: int, *, on_request: OnRequest, stats: ChannelHealth | None = None
    ) -> None:
        self._host, self._port, self._unit, self._base = host, port, unit, base
        self._on_request = on_request
        self._health = stats or ChannelHealth(lambda fault: None)
        self._edges = Edges()
        self._signals = OutputSignals()
        self._changed = asyncio.Event()
        self._written = asyncio.Event()
        self._transaction = 0
        self._task: asyncio.Task[None] | None = None
        self._asked = len(REQUEST_BITS)  # how many request bits the PLC has
        self._chooses = True  # whether it has a register for the product
        self._code = 0  # what that showed last
        self._reads = True  # whether it lets us read the coils
        self._misreads = 0
        self._taken = 0.0
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

    def look(self) -> None:
        """The cycle looks by itself before it writes a pass."""

    def show(self, signals: OutputSignals) -> None:
        """Write the lines as soon as the wire is free."""
        if signals != self._signals:
            self._signals = signals
            self._changed.set()

    async def confirmed(self, seconds: float) -> bool:
        """Wait until what was shown last is written; False when it is not within ``seconds``."""
        self._written.clear()
        self._changed.set()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._written.wait(), seconds)
        return self._written.is_set()

    async def close(self) -> None:
        """Write what was shown last, for at most half a second, and hang up."""
        if self._task is None:
            return
        await self.confirmed(ANSWER_S)
        self._closing = True  # before Python 3.12 wait_for can swallow the cancellation
        self._task.cancel()
        await asyncio.wait([self._task], timeout=ANSWER_S)

    async def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._closing:
            try:
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(self._host, self._port), MAX_PAUSE_S
                )
            except Exception as error:  # OSError, TimeoutError, or a host that is no name: UnicodeError
                self._failed(f"it cannot be reached ({_words(error, MAX_PAUSE_S)})")
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_S)
                continue
            self.connections += 1
            self._chooses, self._code = True, 0
            self._edges = Edges()  # what the request bits show now may be older than the connection
            written = self._health.failures
            try:
                await self._talk(reader, writer)
            except ModbusError as error:
                self._failed(str(error))
            except Exception as error:  # whatever a PLC answers: without this task nothing would fall any more
                self._failed(f"the connection broke ({_words(error, ANSWER_S)})")
            finally:
                writer.transport.abort()
                self._on_request(Unavailable())
            steady = self._health.proven and self._health.failures == written + 1
            pause = FIRST_PAUSE_S if steady and self._health.fault is None else min(2 * pause, MAX_PAUSE_S)
            await asyncio.sleep(pause)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self._closing:
            if self._signals.passed:
                await self._requests(reader, writer)  # a new call takes the pass back before it is written
            self._changed.clear()
            signals = self._signals
            await self._write(reader, writer, "coils", write_bits_request(self._base, signals.bits()))
            if self._changed.is_set() and not self._signals.passed:
                continue  # a pass that falls waits for nothing
            await self._write(reader, writer, "registers", write_registers_request(self._base, signals.registers()))
            if signals.sent_at != self._taken:
                self._taken = signals.sent_at
                self._on_request(Taken(signals.sent_at))
            if not self._changed.is_set():
                self._written.set()
                await self._requests(reader, writer, signals)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), CYCLE_S)

    async def _write(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str, pdu: bytes) -> None:
        try:
            answer = await self._ask(reader, writer, pdu)
        except ModbusError as error:
            last = self._base + (len(BITS) if pdu[0] == WRITE_COILS else REGISTERS) - 1
            raise ModbusError(
                error.code, f"it refuses to take {what} {self._base} to {last} of unit {self._unit}"
            ) from None
        if answer != pdu[:5]:
            raise ValueError("it confirms something else than was written")

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shown: OutputSignals | None = None
    ) -> None:
        """Read what the PLC shows (compared with ``shown``) and asks; one without such addresses is not asked again."""
        if not self._reads:
            if shown is not None:
                self._health.well()
            return
        count = REQUEST_BITS[self._asked - 1] + 1 if self._asked else len(BITS)
        try:
            pdu = await self._ask(reader, writer, read_request(READ_COILS, self._base, count))
            bits = read_values(READ_COILS, count, pdu)
        except ModbusError:
            if self._asked:
                self._asked = FIRST_REQUEST_BITS if self._asked > FIRST_REQUEST_BITS else 0
                await self._requests(reader, writer, shown)
            else:
                self._reads = False
            return
        if shown is not None and not self._changed.is_set():
            self._compare(shown, bits)
        if self._asked:
            await self._take_requests(reader, writer, bits)
        if self._chooses and self._signals.product_state:
            await self._take_choice(reader, writer)

    async def _take_choice(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read the code of the product that the PLC asks for; one that stands when the connection is new counts too."""
        pdu = await self._ask(reader, writer, read_request(READ_HOLDING, self._base + PRODUCT_ADDRESS, 1))
        try:
            (code,) = read_values(READ_HOLDING, 1, pdu)
        except ModbusError:
            self._chooses = False
            return
        if code != self._code:
            self._code = code
            self._on_request(Choose(code))

    async def _take_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bits: tuple[int, ...]
    ) -> None:
        part: tuple[int, ...] = ()
        if bits[TRIGGER_BIT]:
            pdu = await self._ask(reader, writer, read_request(READ_HOLDING, self._base + PART_ADDRESS, PART_COUNT))
            with contextlib.suppress(ModbusError):  # it gives no ids
                part = read_values(READ_HOLDING, PART_COUNT, pdu)
        for request in self._edges.look(bits[REQUEST_BITS[0] :], part, self._signals.alarm_number):
            self._on_request(request)

    def _compare(self, shown: OutputSignals, bits: tuple[int, ...]) -> None:
        wrong = [name for name, bit, request in zip(BITS, shown.bits(), bits, strict=False) if bool(request) != bit]
        self._misreads = self._misreads + 1 if wrong else 0
        if self._misreads >= MAX_MISREADS or (bits[_PASS] and not shown.passed):
            self._failed(f"it shows another {' and '.join(wrong)} than was written: somebody else writes there")
        elif not wrong:
            self._health.well()

    def _failed(self, why: str) -> None:
        self.failures += 1
        self._health.failed(why)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pdu: bytes) -> bytes:
        self._transaction = (self._transaction + 1) & 0xFFFF
        writer.write(frame(self._transaction, self._unit, pdu))
        await asyncio.wait_for(writer.drain(), ANSWER_S)
        transaction, _, length = split_header(await asyncio.wait_for(reader.readexactly(HEADER), ANSWER_S))
        answer = await asyncio.wait_for(reader.readexactly(length), ANSWER_S)
        if transaction != self._transaction:
            raise ValueError("an answer to another request")
        if len(answer) == 2 and answer[0] == pdu[0] | 0x80 and pdu[0] >= 5:
            raise ModbusError(answer[1])
        return answer


def _words(error: BaseException, seconds: float) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {seconds:g} s"
    if isinstance(error, asyncio.IncompleteReadError):
        return "it hung up"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__
