"""An event and its images as rows of the index, and as text inside a JPEG file (ISO/IEC 10918-1, comment segment)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.events import DIGITS, FIELDS, Event, Mark

COLUMNS = FIELDS


@dataclass(frozen=True)
class StoredEvent(Event):
    """An event as it was stored, and what was added to it since.

    ``sequence`` grows with every event; ``images`` are paths of images below the evidence folder, the crop first.
    """

    sequence: int = 0
    mark: Mark | None = None
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredImage:
    """An image of an event: ``path`` below the evidence folder, ``bytes`` of its file, verdict and time of the event.
    """

    path: str
    event: str
    verdict: str
    time: float
    bytes: int


def row_of(event: Event) -> tuple[Any, ...]:
    """Return the values of COLUMNS."""
    z = {name: round(value, DIGITS["z"]) for name, value in event.z.items()}
    text = json.dumps(z, separators=(",", ":"))
    return tuple(text if name == "z" else getattr(event, name) for name in COLUMNS)


def event_of(row: tuple[Any, ...]) -> Event:
    """Build the event from the values of COLUMNS."""
    return Event(**fields_of(row))


def fields_of(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return the fields of an event from the values of COLUMNS."""
    values = dict(zip(COLUMNS, row, strict=True))
    return {**values, "z": json.loads(values["z"])}


MAX_LENGTH = 65_533  # bytes: the length of a segment has 16 bits and counts itself

_START, _COMMENT, _SCAN = b"\xff\xd8", 0xFE, 0xDA


def with_comment(jpeg: bytes, text: str) -> bytes:
    """Return the JPEG file with ``text`` as its first segment; BadInput for no JPEG or more than 65,533 bytes of UTF-8.
    """
    data = text.encode()
    if not jpeg.startswith(_START) or len(data) > MAX_LENGTH:
        raise BadInput(f"a comment of {len(data)} bytes needs a JPEG file and at most {MAX_LENGTH} bytes")
    return _START + bytes((0xFF, _COMMENT)) + (len(data) + 2).to_bytes(2, "big") + data + jpeg[2:]


def comment_of(jpeg: bytes) -> str | None:
    """Return the first comment before the image itself; None without one, and for a damaged or cut off beginning."""
    offset = 2 if jpeg.startswith(_START) else len(jpeg)
    while offset + 4 <= len(jpeg) and jpeg[offset] == 0xFF and jpeg[offset + 1] != _SCAN:
        length = int.from_bytes(jpeg[offset + 2 : offset + 4], "big")
        if length < 2 or offset + 2 + length > len(jpeg):
            return None
        if jpeg[offset + 1] == _COMMENT:
            try:
                return jpeg[offset + 4 : offset + 2 + length].decode()
            except UnicodeDecodeError:
                return None
        offset += 2 + length
    return None
