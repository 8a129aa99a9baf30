"""What the store keeps of an event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["OK", "WARN", "NG", "NONE"]
VERDICTS: tuple[Verdict, ...] = ("OK", "WARN", "NG", "NONE")
COLUMNS = ("id", "camera", "frame", "part", "time", "verdict", "score", "z", "latency_ms", "reason")


@dataclass(frozen=True)
class EventRow:
    """One event; fields as in the JSON lines of `edge-ad run --events`, ``time`` in seconds since 1970 UTC."""

    id: str
    camera: str
    frame: int | None
    part: str | None
    time: float
    verdict: str
    score: float | None
    z: Mapping[str, float]
    latency_ms: float | None
    reason: str | None

    def values(self) -> tuple[Any, ...]:
        """Return the values of COLUMNS."""
        z = json.dumps({name: round(value, 4) for name, value in self.z.items()}, separators=(",", ":"))
        return (
            self.id,
            self.camera,
            self.frame,
            self.part,
            self.time,
            self.verdict,
            self.score,
            z,
            self.latency_ms,
            self.reason,
        )

    @classmethod
    def from_values(cls, values: tuple[Any, ...]) -> EventRow:
        """Build from the values of COLUMNS."""
        named = dict(zip(COLUMNS, values, strict=True))
        return cls(**{**named, "z": json.loads(named["z"])})


@dataclass(frozen=True)
class Picture:
    """A picture of an event: ``path`` below the evidence folder, ``bytes`` of its file, verdict and time of the event."""

    path: str
    event: str
    verdict: str
    time: float
    bytes: int
