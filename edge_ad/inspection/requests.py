"""What is asked of a running line from outside, whoever asks: a command, a page of the dashboard, a PLC.

A PLC asks through the output guard, a page through the dashboard's process, a command through a socket beside the store.
All requests come to one ``Requests``, which calls the function that was registered for their kind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge_ad.errors import BadInput, DeviceFault, EdgeAdError
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults, describe
from edge_ad.utils.text import storable

_log = logging.getLogger(__name__)

Origin = Literal["command", "dashboard", "plc", "fleet"]
MAX_BY = 100
MAX_VALUE = 300
MAX_LINE = 8192
ANSWER_S = 10.0
_READ_S = 2.0


@dataclass(frozen=True)
class Request:
    """One request: its ``kind`` (pause, resume, ...), who asks, from where, and what goes with it, such as a reason.

    Texts are made storable here, whatever a terminal, a page or a PLC gave.
    """

    kind: str
    by: str
    origin: Origin
    values: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {str(name): storable(str(value), MAX_VALUE).strip() for name, value in self.values.items()}
        object.__setattr__(self, "by", storable(self.by, MAX_BY).strip())
        object.__setattr__(self, "values", values)

    def value(self, name: str) -> str:
        """Return what goes with it under a name, empty where nothing does."""
        return self.values.get(name, "")


Handler = Callable[[Request], str]


class Requests:
    """Calls the handler of a request's kind, in the thread that brings it, one at a time, and returns its sentence.

    A handler refuses by BadInput.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._lock = threading.Lock()

    def register(self, kind: str, handler: Handler, *, logged: bool = True) -> None:
        """Have requests of a kind handled from now on; not ``logged`` are questions, which may come many times a second."""
        self._handlers[kind] = handler, logged

    def submit(self, request: Request) -> str:
        """Handle a request; BadInput where it is refused or nobody handles its kind."""
        handler, logged = self._handlers.get(request.kind, (None, False))
        if handler is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            raise BadInput(f"this run takes no request {request.kind!r}; it takes {known}")
        with self._lock:
            answer = handler(request)
        if logged:
            _log.info("%s", answer)
        return answer


def control_path(store: Path) -> Path:
    """Return the socket through which commands ask a run that keeps this store."""
    return store.with_name(f"{store.name}.control")


class ControlSocket:
    """Takes requests of commands at a Unix socket, which the user of the run and his group may use.

    The store is locked by the run, so a socket that is there already was left behind. BadInput where none can be made.
    """

    def __init__(self, path: Path, requests: Requests, faults: ThreadFaults | None = None) -> None:
        self._path = path
        self._requests = requests
        self._faults = faults or ThreadFaults()
        self._closed = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            with _short(path) as address:
                self._socket.bind(address)
            os.chmod(path, 0o660)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise BadInput(
                f"the socket {path} for commands cannot be made: {error.strerror}; move the store"
            ) from error
        self._thread = SupervisedThread("control", self._run, self._faults)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests, and take the socket away."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                peer, _ = self._socket.accept()
            except OSError:
                if self._closed.is_set():
                    return
                raise
            with peer, contextlib.suppress(OSError):
                peer.settimeout(_READ_S)
                peer.sendall(json.dumps(self._answer(_line(peer))).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = parse_request(json.loads(line), "command")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {"error": "this is no request of edge-ad"}
        try:
            return {"done": self._requests.submit(request)}
        except EdgeAdError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:  # the next one who asks must be heard all the same
            self._faults.note("control", error)
            return {"error": f"the run cannot do that: {describe(error)}; look at its log", "exit_code": DeviceFault.exit_code}


def parse_request(record: Mapping[str, Any], origin: Origin) -> Request:
    """Return the request in a plain record; ValueError, TypeError or KeyError for anything else."""
    return Request(str(record["kind"]), str(record["by"]), origin, dict(record.get("values") or {}))


def ask_run(store: Path, request: Request) -> str | None:
    """Have the run that keeps ``store`` handle a request and return its sentence; None where no run answers.

    BadInput or DeviceFault as the run refuses; DeviceFault for one that does not answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(ANSWER_S)
        try:
            with _short(control_path(store)) as address:
                peer.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise BadInput(
                f"the run that keeps {store} cannot be asked: {error.strerror}; ask as the user of that run"
            ) from error
        try:
            peer.sendall(
                json.dumps({"kind": request.kind, "by": request.by, "values": dict(request.values)}).encode() + b"\n"
            )
            answer = json.loads(_line(peer))
        except (OSError, ValueError) as error:
            raise DeviceFault(f"the run that keeps {store} does not answer: look at its log, then ask again") from error
    if "error" in answer:
        raise (DeviceFault if answer.get("exit_code") == DeviceFault.exit_code else BadInput)(str(answer["error"]))
    return str(answer["done"])


def _line(peer: socket.socket) -> bytes:
    """Return what comes up to the end of a line, or in ``_READ_S`` seconds of one who sends byte by byte."""
    data, ends = b"", time.monotonic() + (peer.gettimeout() or _READ_S)
    while not data.endswith(b"\n") and len(data) < MAX_LINE and time.monotonic() < ends:
        piece = peer.recv(MAX_LINE)
        if not piece:
            break
        data += piece
    return data


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give an address of a socket in its folder that is short, whatever the folder: the kernel allows 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
