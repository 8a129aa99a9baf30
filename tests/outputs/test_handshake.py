"""The handshake of a part, seen by a PLC that reads and by one that is written to, both of pymodbus."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.guard_state import Kind, Message
from edge_ad.outputs.signals import BITS, registers_text
from tests.fixtures.loopback import free_port, until
from tests.outputs.peers import ReadingPlc, WrittenPlc

HOLD_MS = 5000.0

Bits = Callable[[], list[bool]]
Registers = Callable[[], list[int]]


@contextlib.contextmanager
def peer(how: str) -> Iterator[tuple[GuardClient, Bits, Registers]]:
    """A guard with one PLC, and how to look at what that PLC holds."""
    if how == "client":
        written = WrittenPlc()
        link = GuardClient([f"modbus://127.0.0.1:{written.port}"], HOLD_MS, 1, lambda record: None)
        yield link, written.bits, written.registers
        link.close()
        written.close()
        return
    port = free_port()
    link = GuardClient([f"modbus-server://127.0.0.1:{port}"], HOLD_MS, 1, lambda record: None)
    reading = ReadingPlc(port)
    yield link, reading.bits, reading.registers
    link.close()
    reading.close()


def result_of(registers: Sequence[int]) -> tuple[int, str]:
    """Return the verdict and the part of the registers."""
    return registers[1], registers_text(registers[8:24])


@pytest.mark.parametrize("how", ["client", "server"])
def test_ready_busy_result_pass_fault_part_and_heartbeat(how: str) -> None:
    with peer(how) as (link, bits, registers):

        def send_state(kind: Kind, verdict: str = "", part: str = "") -> None:
            link.send(Message(kind, time.monotonic(), 0, verdict, verdict == "OK", part))

        def shows(*names: str) -> bool:
            """Of all bits but the heartbeat, exactly these are on."""
            return until(
                lambda: {name for name, bit in zip(BITS, bits(), strict=True) if bit} - {"heartbeat"} == set(names)
            )

        assert shows("fault")
        send_state("idle")
        assert shows("ready")
        send_state("busy")
        assert shows("ready", "busy")
        send_state("verdict", "OK", "tray 7")
        assert shows("ready", "result_valid", "pass")
        assert until(lambda: result_of(registers()) == (1, "tray 7"))  # coils are written before registers
        first = registers()
        send_state("busy")
        assert shows("ready", "busy")
        send_state("verdict", "NG", "tray 8")
        assert shows("ready", "result_valid")
        assert until(lambda: result_of(registers()) == (3, "tray 8"))
        second = registers()
        assert second[2] == first[2] + 1
        send_state("verdict", "NONE", "tray 9")
        assert shows("ready", "result_valid", "fault")
        link.lamp(lit=True, waiting=True, number=4)
        send_state("idle")
        assert shows("ready", "alarm", "alarm_waiting")
        assert until(lambda: registers()[3] == 4)
        beats = [bits()[7]]
        assert until(lambda: (send_state("idle"), beats.append(bits()[7]), {*beats} == {False, True})[-1])
