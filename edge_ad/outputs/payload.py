"""An event as the rest of the world gets it: one JSON object, its schema and its version."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

from edge_ad.store.rows import VERDICTS
from edge_ad.utils.text import told_time

VERSION = 1  # grows when a field goes or changes its meaning; a new field alone does not change it


class EventLike(Protocol):
    """The fields of an event, wherever it lives; ``time`` in seconds since 1970 UTC."""

    @property
    def id(self) -> str: ...
    @property
    def camera(self) -> str: ...
    @property
    def frame(self) -> int | None: ...
    @property
    def part(self) -> str | None: ...
    @property
    def time(self) -> float: ...
    @property
    def verdict(self) -> str: ...
    @property
    def score(self) -> float | None: ...
    @property
    def z(self) -> Mapping[str, float]: ...
    @property
    def latency_ms(self) -> float | None: ...
    @property
    def reason(self) -> str | None: ...


def event_record(event: EventLike) -> dict[str, Any]:
    """Return an event as plain values, keys in the documented order."""
    return {
        "id": event.id,
        "camera": event.camera,
        "frame": event.frame,
        "part": event.part,
        "time": told_time(event.time),
        "verdict": event.verdict,
        "score": _rounded(event.score, 6),
        "z": {name: _rounded(value, 4) for name, value in event.z.items()},
        "latency_ms": _rounded(event.latency_ms, 3),
        "reason": event.reason,
    }


def payload(event: EventLike) -> str:
    """Return what an output delivers: the line of `edge-ad run --events` with the version of its schema before it.

    A number that is not finite becomes null: one odd value must not hold up what comes behind it.
    """
    record = event_record(event)
    record |= {name: _finite(record[name]) for name in ("score", "latency_ms")}
    record["z"] = {name: _finite(value) for name, value in record["z"].items()}
    return json.dumps({"schema": VERSION, **record}, allow_nan=False, separators=(",", ":"))


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``payload``."""
    number = {"type": ["number", "null"]}
    fields: dict[str, dict[str, Any]] = {
        "schema": {"const": VERSION, "description": "version of this schema"},
        "id": {"type": "string", "format": "uuid", "description": "the same id again is the same event again"},
        "camera": {"type": "string", "description": "as given to --camera, without credentials"},
        "frame": {"type": ["integer", "null"], "minimum": 0, "description": "null for an outage without a frame"},
        "part": {"type": ["string", "null"], "description": "id or number of the part; null without one"},
        "time": {"type": "string", "format": "date-time", "description": "capture, UTC, milliseconds"},
        "verdict": {"enum": list(VERDICTS), "description": "NONE: nothing can be said; treat it as NG"},
        "score": {**number, "description": "fused z; null when the verdict is NONE"},
        "z": {"type": "object", "additionalProperties": number, "description": "score of each branch in z"},
        "latency_ms": {**number, "description": "capture to verdict"},
        "reason": {"type": ["string", "null"], "description": "why it is not OK; null for OK"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edge-ad event",
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": True,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
