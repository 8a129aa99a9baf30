"""Numbers and events on their way into JSON."""

from __future__ import annotations

import math
from typing import Any

from edge_ad.outputs.payload import EventLike


def finite(value: float | None) -> float | None:
    """Return the number with six decimals, None for one that is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def plain(event: EventLike) -> dict[str, Any]:
    """Return an event as plain values, ``time`` in seconds; numbers that are not finite become None."""
    return {
        "id": event.id,
        "camera": event.camera,
        "frame": event.frame,
        "part": event.part,
        "time": event.time,
        "verdict": event.verdict,
        "score": finite(event.score),
        "z": {name: finite(value) for name, value in event.z.items()},
        "latency_ms": finite(event.latency_ms),
        "reason": event.reason,
    }
