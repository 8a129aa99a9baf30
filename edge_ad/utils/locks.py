"""One holder at a time: locks on files of a station, and on targets that belong to the whole machine.

Both die with the process that holds them, however it ends, so none is ever stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.utils.supervision import SupervisedThread

MAX_MESSAGE = 2000
_ANSWER_S = 0.5


def holder() -> dict[str, Any]:
    """Return who this process is, as a lock tells it to others."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "folder": os.getcwd()}


def words(results: dict[str, Any]) -> str:
    """Return the holder of a lock for people."""
    if not results:
        return "another process"
    return f"process {results.get('pid')} on {results.get('host')} in {results.get('folder')}"


def lock_file(path: Path, what: str, advice: str) -> Callable[[], None]:
    """Lock ``path`` (made where it is missing) and write the holder into it; return what lets go of it.

    BadInput names ``what`` is held, the holder and ``advice`` when another process, or this one, holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BadInput(
            f"{what} cannot be locked: {path}: {error.strerror}; name a place that can be written"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, MAX_MESSAGE, 0).decode("utf-8", "replace")
        os.close(descriptor)
        raise BadInput(f"{what} is in use by {words(_parsed(text))}: {advice}") from None
    except BaseException:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder()).encode(), 0)
    return lambda: os.close(descriptor)


class Targets:
    """Locks on names that count for the whole machine, whoever the user and whatever the folder.

    Each is a Unix socket in the abstract name space: the kernel gives a name to one process only, and nothing is left
    in the file system. A thread answers who asks with the holder. Machines, and containers without the network of their
    host, do not see each other.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def lock(self, names: Iterable[tuple[str, str]], advice: str) -> None:
        """Lock pairs of a canonical name and what people call it; BadInput names the holder of one that is taken."""
        for name, what in names:
            taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                taken.bind(_address(name))
                taken.listen(16)
            except OSError:
                taken.close()
                raise BadInput(f"{what} is in use by {words(_ask(name))}: {advice}") from None
            self._sockets.append(taken)
            SupervisedThread(f"lock {name}", partial(_answer, taken)).start()

    def close(self) -> None:
        """Let go of all."""
        while self._sockets:
            taken = self._sockets.pop()
            with contextlib.suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)  # wakes the thread
            taken.close()


def target_holder(names: Iterable[tuple[str, str]]) -> str | None:
    """Return who holds the first target that is locked, for people; None where nobody answers for one."""
    return next((words(result) for name, _ in names if (result := _ask(name))), None)


def _address(name: str) -> bytes:
    return b"\0edge-ad/" + name.encode("utf-8", "replace")[:90]


def _answer(taken: socket.socket) -> None:
    message = json.dumps(holder()).encode()
    with contextlib.suppress(OSError):
        while True:
            asking, _ = taken.accept()
            with contextlib.suppress(OSError), asking:
                asking.sendall(message)


def _ask(name: str) -> dict[str, Any]:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_ANSWER_S)
        asking.connect(_address(name))
        return _parsed(asking.recv(MAX_MESSAGE).decode("utf-8", "replace"))
    return {}


def _parsed(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        result = json.loads(text)
        if isinstance(result, dict):
            return result
    return {}
