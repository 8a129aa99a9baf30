"""The pretend camera ``synthetic://line``: trays of the synthetic line, as many and as faulty as one asks for."""

from __future__ import annotations

import time

from edge_ad.camera.faults import FAULTS, FaultInjector, Faults
from edge_ad.camera.frames import End, Frame, Read, Source, SourceKind
from edge_ad.camera.pacing import Paced
from edge_ad.camera.uri import parse_number, parse_query, parse_ranges

SETTINGS = ("frames", "seed", "fps", "slow_ms", *FAULTS)


class SyntheticLine:
    """Frame ``i`` is tray ``i`` of the synthetic line with this seed; the same URI gives the same pictures."""

    kind: SourceKind = "synthetic"

    def __init__(self, name: str, frames: int, seed: int, fps: float) -> None:
        self.name = name
        self.fps: float | None = fps
        self._frames = frames
        self._seed = seed
        self._index = 0

    def read(self, timeout_s: float) -> Read:
        """Return the next tray, End after the last one."""
        from edge_ad.data.synthetic_line import line_frame

        if self._index >= self._frames:
            return End()
        index, self._index = self._index, self._index + 1
        image, truth = line_frame(index, self._seed)
        return Frame(image, index, time.monotonic(), time.time(), self.name, str(truth["part"]))

    def close(self) -> None:
        """End the sequence."""
        self._index = self._frames


def open_synthetic(query: str, name: str, realtime: bool) -> Source:
    """Build the source of ``synthetic://line?query``; a setting that is not allowed raises BadInput.

    With ``realtime`` the trays come at ``fps`` frames a second, else as fast as they are asked for.
    """
    settings = parse_query(query, SETTINGS)

    def number(key: str, default: float, least: float, most: float, whole: bool = True) -> float:
        return parse_number(key, settings[key], least, most, whole) if key in settings else default

    fps = number("fps", 10.0, 0.01, 1000.0, whole=False)
    line = SyntheticLine(name, int(number("frames", 300, 1, 1e9)), int(number("seed", 1, 0, 2**31 - 1)), fps)
    source: Source = Paced(line, fps) if realtime else line
    slow_ms = number("slow_ms", 1500.0, 1, 60_000, whole=False)
    ranges = {key: parse_ranges(key, settings[key]) for key in FAULTS if key in settings}
    if not ranges:
        return source
    return FaultInjector(source, Faults(ranges, slow_ms / 1000.0), fps)
