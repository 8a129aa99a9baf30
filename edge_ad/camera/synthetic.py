"""The pretend cameras ``synthetic://line`` and ``synthetic://faults``: trays, as many and as faulty as one asks for.

The pretend camera ``synthetic://belt``: trays that come, rest and leave, for trials of presence.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from edge_ad.camera.faults import FAULTS, FaultInjector, Faults, random_faults, write_truth
from edge_ad.camera.frames import End, Frame, Image, Paced, Read, Source, SourceKind
from edge_ad.camera.uri import parse_number, parse_query, parse_ranges
from edge_ad.errors import BadInput

_LINE = ("frames", "seed", "fps", "slow_ms", "size", "anomalies", "trays")
SETTINGS = (*_LINE, *FAULTS)
RANDOM_SETTINGS = (*_LINE, "rate", "kinds", "truth")
_NOISE = 2.0


class SyntheticLine:
    """Frame ``i`` is tray ``i`` of the synthetic line with this seed; the same arguments give the same images.

    ``trays`` above 0 repeats so many trays with fresh noise, which costs a tenth of drawing new ones; ``size`` is the
    side in pixels, ``anomalies`` the share of trays with a defect.
    """

    kind: SourceKind = "synthetic"

    def __init__(
        self, name: str, frames: int, seed: int, fps: float, *, size: int = 256, anomalies: float = 0.5, trays: int = 0
    ) -> None:
        self.name = name
        self.fps: float | None = fps
        self._frames = frames
        self._seed = seed
        self._size = size
        self._anomalies = anomalies
        self._trays = trays
        self._drawn_trays: dict[int, tuple[Image, int]] = {}
        self._index = 0

    def read(self, timeout_s: float) -> Read:
        """Return the next tray, End after the last one."""
        if self._index >= self._frames:
            return End()
        index, self._index = self._index, self._index + 1
        image, part = self._tray(index)
        return Frame(image, index, time.monotonic(), time.time(), self.name, str(part))

    def close(self) -> None:
        """End the sequence."""
        self._index = self._frames

    def defect(self, index: int) -> str:
        """Return the defect on frame ``index``, ``"good"`` for none."""
        from edge_ad.synthetic.sequence import part_defect

        return part_defect(index % self._trays if self._trays else index, self._seed, self._anomalies)

    def _tray(self, index: int) -> tuple[Image, int]:
        if not self._trays:
            return self._drawn(index)
        tray = index % self._trays
        if tray not in self._drawn_trays:
            self._drawn_trays[tray] = self._drawn(tray)
        image, _ = self._drawn_trays[tray]
        return _with_noise(image, self._seed, index), index

    def _drawn(self, index: int) -> tuple[Image, int]:
        from edge_ad.synthetic.line import line_frame

        image, truth = line_frame(index, self._seed, self._size, self._anomalies)
        return image, int(truth["part"])


def _with_noise(image: Image, seed: int, index: int) -> Image:
    """Add noise of two grey levels to every fourth row: enough that no two images are equal to the last bit."""
    rng = np.random.default_rng([seed, index])
    fresh = image.copy()
    rows = fresh[::4]
    noise = rng.normal(0.0, _NOISE, rows.shape[:2]).astype(np.float32)[..., None]
    rows[:] = np.clip(np.rint(rows + noise), 0, 255)
    return fresh


def open_synthetic(query: str, name: str, realtime: bool) -> Source:
    """Build the source of ``synthetic://line?query``; a setting that is not allowed raises BadInput.

    With ``realtime`` the trays come at ``fps`` frames a second, else as fast as they are asked for.
    """
    settings = parse_query(query, SETTINGS)
    line, fps = _line(settings, name, 300, "synthetic://line")
    source: Source = Paced(line, fps) if realtime else line
    slow_s = _number(settings, "slow_ms", 1500.0, 1, maximum=60_000, whole=False, where="synthetic://line") / 1000.0
    ranges = {key: parse_ranges(key, settings[key]) for key in FAULTS if key in settings}
    return FaultInjector(source, Faults(ranges, slow_s), fps) if ranges else source


def open_faults(query: str, name: str, realtime: bool) -> FaultInjector:
    """Build the source of ``synthetic://faults?query``: the line with random faults, whose truth is in ``.faults``.

    With ``truth=FILE`` in the query the truth is written there at once, see ``write_truth``.
    """
    where = "synthetic://faults"
    settings = parse_query(query, RANDOM_SETTINGS, where)
    line, fps = _line(settings, name, 1000, where)
    faults = plan(query)
    if "truth" in settings:
        write_truth(Path(settings["truth"]), faults)
    return FaultInjector(Paced(line, fps) if realtime else line, faults, fps)


def plan(query: str) -> Faults:
    """Return the faults of ``synthetic://faults?query`` without opening it."""
    where = "synthetic://faults"
    settings = parse_query(query, RANDOM_SETTINGS, where)
    frames = int(_number(settings, "frames", 1000, 1, maximum=1e7, whole=True, where=where))
    seed = int(_number(settings, "seed", 1, 0, maximum=2**31 - 1, whole=True, where=where))
    rate = _number(settings, "rate", 0.02, 0, maximum=1, whole=False, where=where)
    slow_s = _number(settings, "slow_ms", 1500.0, 1, maximum=60_000, whole=False, where=where) / 1000.0
    kinds = tuple(settings["kinds"].split(",")) if "kinds" in settings else FAULTS
    wrong = next((kind for kind in kinds if kind not in FAULTS), None)
    if wrong is not None or len(set(kinds)) < len(kinds):
        raise BadInput(f"{where}: kinds={settings['kinds']!r} must name each at most once of {', '.join(FAULTS)}")
    return random_faults(frames, seed, rate, kinds, slow_s=slow_s)


def _line(settings: dict[str, str], name: str, frames: int, where: str) -> tuple[SyntheticLine, float]:
    fps = _number(settings, "fps", 10.0, 0.01, maximum=1000.0, whole=False, where=where)
    line = SyntheticLine(
        name,
        int(_number(settings, "frames", frames, 1, maximum=1e9, whole=True, where=where)),
        int(_number(settings, "seed", 1, 0, maximum=2**31 - 1, whole=True, where=where)),
        fps,
        size=int(_number(settings, "size", 256, 64, maximum=2048, whole=True, where=where)),
        anomalies=_number(settings, "anomalies", 0.5, 0, maximum=1, whole=False, where=where),
        trays=int(_number(settings, "trays", 0, 0, maximum=256, whole=True, where=where)),
    )
    return line, fps


def _number(
    settings: dict[str, str], key: str, default: float, minimum: float, *, maximum: float, whole: bool, where: str
) -> float:
    return parse_number(key, settings[key], minimum, maximum, whole=whole, where=where) if key in settings else default


WHERE = "synthetic://belt"
BELT_SETTINGS = ("parts", "seed", "fps", "size", "anomalies", "still")


class SyntheticBelt:
    """Frame ``i`` is frame ``i`` of a ``Belt``; ``truth`` tells what it shows."""

    kind: SourceKind = "synthetic"

    def __init__(
        self, name: str, parts: int, seed: int, fps: float, *, size: int = 256, anomalies: float = 0.5, still: int = 10
    ) -> None:
        from edge_ad.synthetic.belt import Belt

        self.name = name
        self.fps: float | None = fps
        self.belt = Belt(parts, seed, size, anomalies, still=still)
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
    """Build the source of ``synthetic://belt?parts=50&seed=1&fps=30``; a setting that is not allowed raises BadInput.
    """
    settings = parse_query(query, BELT_SETTINGS, WHERE)

    def number(key: str, default: float, minimum: float, maximum: float, *, whole: bool = True) -> float:
        return parse_number(key, settings[key], minimum, maximum, whole=whole, where=WHERE) if key in settings else default

    fps = number("fps", 30.0, 0.01, 1000.0, whole=False)
    belt = SyntheticBelt(
        name,
        int(number("parts", 50, 1, 1e6)),
        int(number("seed", 1, 0, 2**31 - 1)),
        fps,
        size=int(number("size", 256, 64, 2048)),
        anomalies=number("anomalies", 0.5, 0, 1, whole=False),
        still=int(number("still", 10, 3, 1000)),
    )
    return Paced(belt, fps) if realtime else belt
