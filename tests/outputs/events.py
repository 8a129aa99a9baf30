"""Events for the tests of outputs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any

from edge_ad.events import Event


def event(number: int = 0, verdict: str = "OK", **changes: Any) -> Event:
    """Return an event of part ``number``; its id follows from the number."""
    values: dict[str, Any] = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
        "camera": "cam",
        "frame": number,
        "part": str(number),
        "time": 1.8e9 + number,
        "verdict": verdict,
        "score": 1.25,
        "z": {"logic": 0.5},
        "latency_ms": 12.5,
        "reason": None if verdict == "OK" else "logic: z 4.0",
    }
    return Event(**{**values, **changes})


def lines(count: int) -> list[str]:
    """Return so many payloads."""
    return [Event.message(event(number)) for number in range(count)]


def frames(texts: Iterable[str | bytes]) -> list[int]:
    """Return the frame numbers of payloads."""
    return [json.loads(text)["frame"] for text in texts]
