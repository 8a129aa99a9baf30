"""Messages between the run and its dashboard: one JSON line each, followed by as many bytes as it announces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any, Protocol

MAX_LINE = 64 * 2**20


class Writable(Protocol):
    """Where messages go."""

    def write(self, data: bytes | memoryview, /) -> object: ...
    def flush(self) -> None: ...


def write(stream: Writable, record: dict[str, Any], blobs: Sequence[bytes | memoryview] = ()) -> None:
    """Write one message; ``record`` is plain JSON without NaN."""
    line = json.dumps({**record, "sizes": [len(blob) for blob in blobs]}, allow_nan=False, separators=(",", ":"))
    stream.write(line.encode() + b"\n")
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Return the next message and its bytes; None at the end, also where the end cuts a message off."""
    line = stream.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        return None
    record = json.loads(line)
    sizes = record.pop("sizes")
    blobs = [stream.read(size) for size in sizes]
    return (record, blobs) if [len(blob) for blob in blobs] == sizes else None
