"""An event and its images as rows of the index."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

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
