"""A challenge with a clock of its own, for tests of its rules and of its records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.camera.frames import Frame
from edge_ad.config import AlarmTable, ChallengeTable
from edge_ad.events import Event, Verdict
from edge_ad.inspection.challenge import Challenge, Station
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.requests import Request
from edge_ad.store.actions import ActionLog
from edge_ad.store.challenges import ChallengeRecords

KEY = bytes(range(32))
NOON = 1_772_366_400.0
HOUR = 3600.0


def asked(kind: str, by: str = "anna", reason: str = "", origin: str = "command") -> Request:
    return Request(kind, by, origin, {"reason": reason})  # type: ignore[arg-type]


class Trial:
    """A challenge with a clock of its own."""

    def __init__(self, folder: Path, **table: Any) -> None:
        self.now = NOON
        self.shows: list[tuple[bool, bool]] = []
        self.station = Station(
            table=ChallengeTable(**{"good": 1, "bad": 1, **table}),
            rule=AlarmTable(),
            log=ActionLog(folder / "actions.jsonl"),
            folder=folder / "challenges",
            key=KEY,
            bundle={"bundle": "part.edgead", "bundle_sha256": "ab" * 32},
            show=lambda opened, locked: self.shows.append((opened, locked)),
            wall=lambda: self.now,
        )
        self.challenge = Challenge(self.station)

    def again(self, **changes: Any) -> None:
        """As after a kill: all that is left is on the disk."""
        self.station = replace(self.station, **changes)
        self.challenge = Challenge(self.station)

    def part(self, verdict: Verdict, name: str = "1", at: float = 100.0, reason: str | None = None) -> None:
        score = None if verdict == "NONE" else 1.0
        event = Event("cam", 1, name, self.now, verdict, score, {}, 20.0, reason)
        frame = Frame(np.zeros((40, 60, 3), np.uint8), 1, 0.0, self.now, "cam", name)
        self.challenge.take(InspectionResult(event, frame), at)
        self.tick()

    def tick(self) -> None:
        self.challenge._next_look = 0.0
        self.challenge.on_tick()

    def records(self) -> list[Any]:
        return ChallengeRecords(self.station.folder).read()
