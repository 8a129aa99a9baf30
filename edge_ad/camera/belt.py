"""The pretend camera ``synthetic://belt``: trays that come, rest and leave, for trials of presence."""

from __future__ import annotations

import time

from edge_ad.camera.frames import End, Frame, Read, Source, SourceKind
from edge_ad.camera.pacing import Paced
from edge_ad.camera.uri import parse_number, parse_query

WHERE = "synthetic://belt"
SETTINGS = ("parts", "seed", "fps", "size", "anomalies", "still")


class SyntheticBelt:
    """Frame ``i`` is frame ``i`` of a ``Belt``; ``truth`` tells what it shows."""

    kind: SourceKind = "synthetic"

    def __init__(
        self, name: str, parts: int, seed: int, fps: float, size: int = 256, anomalies: float = 0.5, still: int = 10
    ) -> None:
        from edge_ad.data.belt import Belt

        self.name = name
        self.fps: float | None = fps
        self.belt = Belt(parts, seed, size, anomalies, still)
        self._index = 0

    def read(self, timeout_s: float) -> Read:
        """Return the next frame, End after the last one."""
        if self._index >= len(self.belt):
            return End()
        index, self._index = self._index, self._index + 1
        image, _ = self.belt.frame(index)
        return Frame(image, index, time.monotonic(), time.time(), self.name, str(index))

    def close(self) -> None:
        """End the sequence."""
        self._index = len(self.belt)


def open_belt(query: str, name: str, realtime: bool) -> Source:
    """Build the source of ``synthetic://belt?parts=50&seed=1&fps=30``; a setting that is not allowed raises BadInput."""
    settings = parse_query(query, SETTINGS, WHERE)

    def number(key: str, default: float, least: float, most: float, whole: bool = True) -> float:
        return parse_number(key, settings[key], least, most, whole, WHERE) if key in settings else default

    fps = number("fps", 30.0, 0.01, 1000.0, whole=False)
    belt = SyntheticBelt(
        name,
        int(number("parts", 50, 1, 1e6)),
        int(number("seed", 1, 0, 2**31 - 1)),
        fps,
        int(number("size", 256, 64, 2048)),
        number("anomalies", 0.5, 0, 1, whole=False),
        int(number("still", 10, 3, 1000)),
    )
    return Paced(belt, fps) if realtime else belt
