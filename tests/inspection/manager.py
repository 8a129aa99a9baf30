"""A service manager for the tests: the datagram socket of sd_notify."""

from __future__ import annotations

import socket


class Manager:
    """Hears what a service tells at ``address``, a path or ``@name`` in the abstract namespace."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self._socket.setblocking(False)

    def received(self) -> list[str]:
        """Return the lines that came since the last call."""
        lines: list[str] = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()
