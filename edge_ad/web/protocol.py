"""HTTP connections that cannot be kept from others: requests have to come in time, and the oldest idle one gives way."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_ad.web.gate import HEADERS

REQUEST_S = 10.0  # for the head of a request, and for an idle connection
MAX_CONNECTIONS = 256


class TimedProtocol(H11Protocol):
    """Closes a connection that sends no whole head of a request within REQUEST_S.

    Beyond MAX_CONNECTIONS the one that has waited longest goes, those without a request first: a new connection is
    always served, so `/healthz` answers however many others are half open.
    """

    _since = 0.0
    _timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; make room for this connection."""
        super().connection_made(transport)
        self._watch()
        others = [one for one in self.connections if isinstance(one, TimedProtocol) and one is not self]
        if len(others) >= MAX_CONNECTIONS:
            oldest = min(others, key=lambda one: (one.busy, one._since))
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request; one piece more gives no more time."""
        super().data_received(data)
        if self.busy:
            self._stop()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with the headers that every answer has."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *HEADERS]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=msg.encode("ascii", "replace")),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        self._stop()
        self._since = self.loop.time()
        self._timer = self.loop.call_later(REQUEST_S, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if not self.busy and not self.transport.is_closing():
            self.transport.abort()
