"""A stand-in for gpiod with the semantics of the kernel, for machines without lines; see ``tests.outputs.board``.

Levels and faults are files in the folder that STANDIN_GPIO names, so that another process can look and inject. Lines
belong to a request while it holds a lock, which dies with its process as the kernel's handle does.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import select
import struct
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from . import line

EVENT = struct.Struct("<IIQ")  # offset, whether rising, nanoseconds
FAULTS = ("set", "get", "request", "reconfigure", "stuck")


class EdgeEvent:
    class Type(enum.Enum):
        RISING_EDGE = 1
        FALLING_EDGE = 2

    def __init__(self, offset: int, rising: int, timestamp_ns: int) -> None:
        self.line_offset = offset
        self.event_type = self.Type.RISING_EDGE if rising else self.Type.FALLING_EDGE
        self.timestamp_ns = timestamp_ns


@dataclass
class LineSettings:
    direction: line.Direction
    output_value: line.Value = line.Value.INACTIVE
    edge_detection: line.Edge | None = None
    debounce_period: timedelta | None = None


def _folder() -> Path:
    return Path(os.environ["STANDIN_GPIO"])


def _check(what: str) -> None:
    """Fail once for each count in the file of this fault; -1 fails for ever."""
    path = _folder() / what
    count = int(path.read_text() or 0)
    if count:
        if count > 0:
            path.write_text(str(count - 1))
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def request_lines(path: str, consumer: str, config: dict[int, LineSettings]) -> LineRequest:
    if not path.endswith("gpiochip0"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    _check("request")
    return LineRequest(config)


class LineRequest:
    def __init__(self, config: dict[int, LineSettings]) -> None:
        self._config = config
        outputs = [pin for pin, one in config.items() if one.direction is line.Direction.OUTPUT]
        self.fd = -1
        self._locks: list[int] = []
        if not outputs:
            self.fd = os.open(_folder() / "edges", os.O_RDWR | os.O_NONBLOCK)
            return
        for pin in outputs:
            lock = os.open(_folder() / f"line{pin}", os.O_RDWR | os.O_CREAT)
            self._locks.append(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release()
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from None
        self._write({pin: config[pin].output_value for pin in outputs})

    def set_values(self, values: dict[int, line.Value]) -> None:
        _check("set")
        if int((_folder() / "stuck").read_text() or 0) == 0:
            self._write(values)

    def get_values(self, pins: list[int]) -> list[line.Value]:
        _check("get")
        levels = (_folder() / "levels").read_bytes()
        return [line.Value(levels[pin]) for pin in pins]

    def reconfigure_lines(self, config: dict[int, LineSettings]) -> None:
        _check("reconfigure")
        self._write(dict.fromkeys(config, line.Value.INACTIVE))

    def release(self) -> None:
        for lock in self._locks:
            os.close(lock)
        self._locks = []
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def wait_edge_events(self, timeout: timedelta) -> bool:
        return bool(select.select([self.fd], [], [], timeout.total_seconds())[0])

    def read_edge_events(self, max_events: int | None = None) -> list[EdgeEvent]:
        data = os.read(self.fd, EVENT.size * (max_events or 64))
        wanted = [EdgeEvent(*EVENT.unpack_from(data, place)) for place in range(0, len(data), EVENT.size)]
        both = {pin for pin, one in self._config.items() if one.edge_detection is line.Edge.BOTH}
        return [e for e in wanted if e.event_type is EdgeEvent.Type.RISING_EDGE or e.line_offset in both]

    def _write(self, values: dict[int, Any]) -> None:
        with open(_folder() / "levels", "r+b", buffering=0) as levels:
            for pin, value in values.items():
                os.pwrite(levels.fileno(), bytes([value.value]), pin)
