"""A TCP proxy on loopback that holds back what comes from the server, by a delay that can grow without a gap."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable


class DelayProxy:
    """Passes connections on to ``target``; what the server sends arrives ``delay(now)`` seconds after it was sent."""

    def __init__(self, target: int, delay: Callable[[float], float]) -> None:
        self.delay = delay
        self.connections = 0
        self._target = target
        self._closed = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are open end with their peers."""
        self._closed = True
        self._server.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            threading.Thread(target=_pass, args=(client, server), daemon=True).start()
            threading.Thread(target=self._hold, args=(server, client), daemon=True).start()

    def _hold(self, source: socket.socket, sink: socket.socket) -> None:
        waiting: deque[tuple[float, bytes]] = deque()
        changed, ended = threading.Condition(), threading.Event()

        def write() -> None:
            while not self._closed:
                with changed:
                    changed.wait_for(lambda: waiting or ended.is_set(), 0.2)
                    if not waiting:
                        if ended.is_set():
                            break
                        continue
                    came, data = waiting[0]
                left = came + self.delay(time.monotonic()) - time.monotonic()
                if left > 0:
                    time.sleep(min(left, 0.02))
                    continue
                waiting.popleft()
                try:
                    sink.sendall(data)
                except OSError:
                    break
            for one in (sink, source):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=write, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with changed:
                    waiting.append((time.monotonic(), data))
                    changed.notify_all()
        ended.set()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
