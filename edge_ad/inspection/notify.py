"""Words to the service manager: the sd_notify protocol over its datagram socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to ``$NOTIFY_SOCKET`` (a path, or ``@name`` in the abstract namespace); without one it does nothing.

    ``watchdog_s`` is the time within which WATCHDOG=1 must come (``$WATCHDOG_USEC``), None when none is asked for.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        address = found.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        microseconds = found.get("WATCHDOG_USEC", "")
        for_us = found.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(microseconds) / 1e6 if microseconds.isdigit() and for_us and address else None

    @property
    def managed(self) -> bool:
        """Whether a service manager listens: this process is a service."""
        return self._socket is not None

    def send(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``; a manager that is away or busy is no fault of ours."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
