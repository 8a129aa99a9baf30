"""A tag of a ControlLogix or CompactLogix PLC over EtherNet/IP (explicit messages), by pylogix (pure Python)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_ad.outputs.channels import OutputAddress
from edge_ad.outputs.plc_map import ANSWER_S, WORDS, PlcRefused

INT = 0xC3
CONNECTION_SIZE = 504  # the small Forward Open, which every Logix controller knows
CONNECT_S = 2.0
# What pylogix calls the general status of CIP, as far as it means that nobody answered.
LOST = ("Connection failure", "Connection lost")
TYPE_MISMATCH = "Unknown error 255"  # the extended status, which pylogix does not show, has type or length


class LogixTag:
    """A tag INT[48]: unsigned words in the signed integers of Logix, 24 or 48 of them in one request."""

    def __init__(self, address: OutputAddress) -> None:
        self._address = address
        self._plc: Any = None

    def open(self) -> None:
        """Connect, register a session and open a connection to the controller in its slot."""
        from pylogix import PLC

        address = self._address
        self._plc = plc = PLC(address.host, slot=address.slot, timeout=CONNECT_S, port=address.port)
        plc.ConnectionSize = CONNECTION_SIZE
        connected, why = plc.conn.connect()
        if not connected:
            raise why if isinstance(why, OSError) else ConnectionError(f"{why}: is the controller in slot {address.slot}?")
        plc.conn.Socket.settimeout(ANSWER_S)

    def write(self, words: Sequence[int]) -> None:
        """Write elements from 0 on."""
        values = [word - 0x10000 if word & 0x8000 else word for word in words]
        self._check("write", len(values), self._opened().Write(f"{self._address.block}[0]", values, datatype=INT))

    def read(self) -> tuple[int, ...]:
        """Return the 48 elements."""
        answer = self._opened().Read(f"{self._address.block}[0]", WORDS, datatype=INT)
        self._check("read", WORDS, answer)
        if not isinstance(answer.Value, list) or len(answer.Value) != WORDS:
            raise PlcRefused(f"{self._address.block} is of another type: make it a tag INT[{WORDS}]")
        return tuple(int(value) & 0xFFFF for value in answer.Value)

    def close(self) -> None:
        """Close the connection, and the sockets that the library leaves to the garbage collector."""
        plc, self._plc = self._plc, None
        if plc is not None:
            plc.Close()
            for link in (plc.conn.Socket, plc.conn.msg_socket):
                link.close()

    def _opened(self) -> Any:
        if self._plc is None or not self._plc.conn.SocketConnected:
            raise ConnectionError("it hung up, or gave no answer")  # and pylogix would connect by itself, for seconds
        return self._plc

    def _check(self, what: str, count: int, answer: Any) -> None:
        if answer.Status == "Success":
            return
        if answer.Status in LOST or not self._plc.conn.SocketConnected:
            raise ConnectionError(f"it hung up, or gave no answer within {ANSWER_S:g} s")
        why = "CIP status 0xFF: another type or length" if answer.Status == TYPE_MISMATCH else answer.Status
        raise PlcRefused(
            f"it refuses to {what} {self._address.block}[0] to [{count - 1}] ({why}): make it a tag INT[{WORDS}] with "
            "External Access Read/Write"
        )
