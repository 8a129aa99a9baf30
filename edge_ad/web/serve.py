"""The dashboard's process: `python -m edge_ad.web.serve FD` serves the socket FD and is fed on standard input.

HTTP connections that cannot be kept from others: requests have to come in time, and the oldest idle one gives way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_ad.store.reader import Reader
from edge_ad.utils.logs import log_to_stderr
from edge_ad.utils.supervision import SupervisedThread
from edge_ad.web.access import HEADERS, Access, Sessions, sessions_file
from edge_ad.web.address import Address, Tokens, find_tokens, listen, names_for, parse_address, print_address
from edge_ad.web.app import make_app
from edge_ad.web.dashboard_state import DashboardState
from edge_ad.web.schemas import read_message
from edge_ad.web.users import Users, users_path

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


NICENESS = 5
ALIVE_EVERY_S = 1.0

Ask = Callable[[dict[str, Any]], None]


class Server(uvicorn.Server):
    """Serves one socket; takes the messages of the run in a thread and ends when they end."""

    def __init__(self, app: Any, dashboard: DashboardState, feed: IO[bytes] | None, ask: Ask | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=TimedProtocol,
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=int(REQUEST_S),
                timeout_graceful_shutdown=1,
            )
        )
        self._dashboard = dashboard
        self._feed = feed
        self._ask = ask
        self._answered_at = -float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve and to listen to the run."""
        await super().startup(sockets)
        if self._feed is not None:
            loop = asyncio.get_running_loop()
            feed = self._feed
            # A process that cannot take in the run any more ends: the run starts another one.
            SupervisedThread(
                "feed", lambda: self._follow(feed, loop), restart=False, on_fault=lambda error: os._exit(1)
            ).start()
            self._news()

    def _follow(self, feed: IO[bytes], loop: asyncio.AbstractEventLoop) -> None:
        while (message := read_message(feed)) is not None:
            self._dashboard.take(*message)
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(self._news)
        os._exit(0)  # the run is gone; nothing here is worth waiting for

    def _news(self) -> None:
        """Tell the pages, and once a second the run: in the event loop, so that it proves that requests are served."""
        self._dashboard.wake()
        now = time.monotonic()
        if self._ask is not None and now - self._answered_at >= ALIVE_EVERY_S:
            self._answered_at = now
            self._ask({"kind": "alive"})


def main(arguments: list[str]) -> None:
    """Serve until the run ends."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)  # the line comes first
    feed = sys.stdin.buffer
    first = read_message(feed)
    if first is None:
        return
    dashboard = DashboardState()
    dashboard.take(*first)
    hello = dashboard.hello
    address = Address(hello["host"], 0)
    store = None if hello["store"] is None else Path(hello["store"])
    access = _access(Tokens(**hello.pop("keys")), address, hello["names"], store)
    ask = wish_writer(sys.stdout.buffer)
    app = make_app(dashboard, access, store, ask)
    Server(app, dashboard, feed, ask).run([socket.socket(fileno=int(arguments[0]))])


def serve_record(address: str, store: Path, names: Sequence[str]) -> None:
    """Serve a record that no run feeds here, until Ctrl-C; BadInput as for a run, and where there is no record."""
    Reader(store).close()
    location = parse_address(address)
    keys, made = find_tokens(location, os.environ, names)
    listener = listen(location)
    print_address(location, listener, keys.full if made else None)
    access = _access(keys, location, names, store)
    dashboard = DashboardState(attached=False)
    app = make_app(dashboard, access, store, lambda record: None)
    Server(app, dashboard, None).run([listener])


def _access(keys: Tokens, address: Address, names: Sequence[str], store: Path | None) -> Access:
    users = None if store is None else Users(users_path(store))
    needed = keys.wanted or (users is not None and users.exist)
    sessions = Sessions(keys, sessions_file(store) if store is not None and needed else None)
    return Access(keys, names_for(address, names), sessions=sessions, users=users)


def wish_writer(stream: IO[bytes]) -> Ask:
    """Return what sends a wish to the run, one JSON line each, from any thread."""
    lock = threading.Lock()

    def write_wish(record: dict[str, Any]) -> None:
        with lock, contextlib.suppress(OSError, ValueError):
            stream.write(json.dumps(record).encode() + b"\n")
            stream.flush()

    return write_wish


if __name__ == "__main__":
    with log_to_stderr(*sys.argv[2:]):
        main(sys.argv[1:])
