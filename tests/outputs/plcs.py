"""PLCs that are written to as a block, for the tests: the server of python-snap7 and a ControlLogix of our own, as one."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator
from typing import Protocol

from edge_ad.outputs.plc_map import REQUEST_WORD
from edge_ad.outputs.signals import PART_ADDRESS, registers_text, text_registers
from tests.fixtures.loopback import free_port, until
from tests.outputs.logix import LogixPlc

KINDS = ("s7", "enip")
VERDICTS = {1: "OK", 2: "WARN", 3: "NG", 4: "NONE"}


class BlockPlc(Protocol):
    """A PLC with a block of 48 words."""

    port: int

    def words(self) -> tuple[int, ...]: ...

    def put(self, index: int, values: tuple[int, ...]) -> None: ...

    def close(self) -> None: ...


class S7Plc:
    """The server of python-snap7 with one data block."""

    def __init__(self, port: int | None = None, number: int = 10, size: int = 96) -> None:
        from snap7.server import Server
        from snap7.type import SrvArea

        self.port = port or free_port()
        self._block = bytearray(size)
        self._server = Server(log=False)
        self._server.register_area(SrvArea.DB, number, self._block)
        (self._key,) = self._server.memory_areas
        self._server.start_to("127.0.0.1", self.port)

    def words(self) -> tuple[int, ...]:
        """Return the words of the block, in one look."""
        with self._server.area_locks[self._key]:
            block = bytes(self._server.memory_areas[self._key])
        return struct.unpack(f">{len(block) // 2}H", block)

    def put(self, index: int, values: tuple[int, ...]) -> None:
        """Let the program of the PLC write words."""
        with self._server.area_locks[self._key]:
            struct.pack_into(f">{len(values)}H", self._server.memory_areas[self._key], 2 * index, *values)

    def close(self) -> None:
        """Switch it off."""
        self._server.stop()


@contextlib.contextmanager
def plc_of(kind: str, port: int | None = None) -> Iterator[BlockPlc]:
    """Run a PLC of a kind."""
    plc: BlockPlc = S7Plc(port) if kind == "s7" else LogixPlc(port or 0)
    try:
        yield plc
    finally:
        plc.close()


def uri_of(kind: str, port: int) -> str:
    """Return the output that writes into the block of a PLC."""
    return f"s7://127.0.0.1:{port}/DB10" if kind == "s7" else f"enip://127.0.0.1:{port}/EdgeAD"


def passed(plc: BlockPlc) -> bool:
    """Whether it may let the part go: pass and result valid."""
    return plc.words()[0] & 0b101 == 0b101


def rejects(plc: BlockPlc) -> bool:
    """Whether it shows what a dead inspector shows: a fault alone."""
    return plc.words()[0] == 0b10


def call(plc: BlockPlc, part: str, seconds: float = 60.0) -> tuple[str, bool]:
    """Call for a part as docs/howto/plc.md does; return verdict and `pass` that came with its id, ("", False) without."""
    plc.put(PART_ADDRESS, text_registers(part, 16))
    plc.put(REQUEST_WORD, (0b10,))
    closes = time.monotonic() + seconds
    result = ("", False)
    while not result[0] and time.monotonic() < closes:
        words = plc.words()  # one look
        if words[0] & 0b100 and registers_text(words[8:24]) == part:
            result = (VERDICTS[words[1]], bool(words[0] & 1))
        time.sleep(0.001)
    plc.put(REQUEST_WORD, (0,))
    time.sleep(0.1)
    return result


def ready(plc: BlockPlc) -> bool:
    """Wait until an inspector shows that it lives: from then on it hears calls."""
    return until(lambda: plc.words()[0] & 0b1000)
