"""A data block of a Siemens S7 PLC, by python-snap7 (pure Python)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_ad.outputs.channels import OutputAddress
from edge_ad.outputs.plc_map import ANSWER_S, WORDS, PlcRefused

if TYPE_CHECKING:
    from snap7.client import Client

S7_BASIC = 3  # leaves the connections for programming devices and panels alone


class S7DataBlock:
    """96 bytes of a data block from ``base``: words, most significant byte first, as S7 keeps them.

    Each request is one job of the PLC, well within the smallest PDU (240 bytes).
    """

    def __init__(self, address: OutputAddress) -> None:
        self._address = address
        self._number = int(address.block[2:])
        self._client: Client | None = None

    def open(self) -> None:
        """Connect to the rack and slot of the CPU."""
        from snap7.client import Client

        client = Client()
        client.set_connection_type(S7_BASIC)
        self._client = client
        address = self._address
        client.connect(address.host, address.rack, address.slot, address.port)
        connection = client.connection
        if connection is None or connection.socket is None:
            raise ConnectionError("it hung up")
        connection.timeout = ANSWER_S  # that of the connection itself is 5 s, and fixed
        connection.socket.settimeout(ANSWER_S)

    def write(self, words: Sequence[int]) -> None:
        """Write words from ``base``."""
        from snap7.error import S7ProtocolError

        data = bytearray(struct.pack(f">{len(words)}H", *words))
        try:
            self._opened().db_write(self._number, self._address.base, data)
        except S7ProtocolError as error:
            raise self._refused("write", len(data), error) from error

    def read(self) -> tuple[int, ...]:
        """Return the 48 words from ``base``."""
        from snap7.error import S7ProtocolError

        try:
            data = self._opened().db_read(self._number, self._address.base, 2 * WORDS)
        except S7ProtocolError as error:
            raise self._refused("read", 2 * WORDS, error) from error
        return struct.unpack(f">{WORDS}H", data)

    def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()

    def _opened(self) -> Client:
        if self._client is None:
            raise ConnectionError("not connected")
        return self._client

    def _refused(self, what: str, size: int, error: Exception) -> PlcRefused:
        first, last = self._address.base, self._address.base + size - 1
        return PlcRefused(
            f"it refuses to {what} bytes {first} to {last} of {self._address.block} ({error}): load a data block of that "
            f"length, without optimised block access, and permit PUT/GET"
        )
