"""Synthetic cameras: trays one by one, trays on a belt, and the faults of real cameras round any source, from a seed."""

from __future__ import annotations

import bisect
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_ad.camera.frames import (
    BadFrame,
    End,
    Frame,
    Image,
    Paced,
    Read,
    Source,
    SourceError,
    SourceKind,
    SourceWrapper,
)
from edge_ad.camera.uri import parse_number, parse_query, parse_ranges
from edge_ad.data.images import resize
from edge_ad.errors import BadInput
from edge_ad.utils.files import atomic_write

FAULTS = ("freeze", "black", "drop", "slow", "corrupt", "resize", "hang", "gone")

REASONS: Mapping[str, tuple[str, ...]] = {
    "freeze": ("frozen",),
    "black": ("dark",),
    "drop": ("lost", "stalled"),
    "slow": ("late", "stalled"),
    "corrupt": ("corrupt",),
    "resize": ("resolution",),
    "hang": ("stalled", "lost", "late"),
    "gone": ("camera lost",),
}
"""With which word the reason of NONE may begin for every fault."""

# Least and most frames of one random fault. A freeze is certain from the third repetition on, so it lasts longer.
_LENGTHS = {"freeze": (6, 20), "slow": (1, 1)}
_USUAL_LENGTH = (1, 12)
_GAP = 4


@dataclass(frozen=True)
class Faults:
    """Which frames suffer which fault: ``ranges`` by the names in FAULTS, and how late a slow frame comes."""

    ranges: Mapping[str, tuple[range, ...]]
    slow_s: float = 1.5

    def hit(self, fault: str, index: int) -> range | None:
        """Return the range of ``fault`` that holds frame ``index``, or None."""
        return next((span for span in self.ranges.get(fault, ()) if index in span), None)

    def episodes(self) -> list[Episode]:
        """Return all faults in the order of their first frames."""
        results = [Episode(fault, span.start, span.stop - 1) for fault, spans in self.ranges.items() for span in spans]
        return sorted(results, key=lambda episode: (episode.first, episode.last, episode.fault))


@dataclass(frozen=True)
class Episode:
    """One fault, from its ``first`` to its ``last`` frame (both included)."""

    fault: str
    first: int
    last: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """The words with which the reason of a NONE may begin."""
        return REASONS[self.fault]


class RandomFaults(Faults):
    """Faults whose ranges are in order and never overlap, so that many of them are searched quickly."""

    def hit(self, fault: str, index: int) -> range | None:
        """Return the range of ``fault`` that holds frame ``index``, or None."""
        spans = self.ranges.get(fault, ())
        position = bisect.bisect_right(spans, index, key=lambda span: span.start) - 1
        return spans[position] if position >= 0 and index in spans[position] else None


def random_faults(
    frames: int, seed: int, rate: float, kinds: tuple[str, ...] = FAULTS, *, slow_s: float = 1.5, calm: int = 10
) -> RandomFaults:
    """Return faults that begin at any frame with probability ``rate``, none in the first ``calm`` frames.

    Kinds take turns in a random order, so that ``len(kinds)`` faults in a row hold each kind once. Lengths are 1 to 12
    frames (freeze: 6 to 20, slow: 1); at least four whole frames lie between two faults.
    """
    rng = np.random.default_rng(seed)
    ranges: dict[str, list[range]] = {kind: [] for kind in kinds}
    turns = _turns(rng, kinds)
    index = calm
    while rate > 0:
        index += int(rng.geometric(rate)) - 1
        if index >= frames:
            break
        kind = next(turns)
        minimum, maximum = _LENGTHS.get(kind, _USUAL_LENGTH)
        stop = min(index + int(rng.integers(minimum, maximum + 1)), frames)
        ranges[kind].append(range(index, stop))
        index = stop + _GAP
    return RandomFaults({kind: tuple(spans) for kind, spans in ranges.items() if spans}, slow_s)


def _turns(rng: np.random.Generator, kinds: tuple[str, ...]) -> Iterator[str]:
    while True:
        yield from (kinds[index] for index in rng.permutation(len(kinds)))


def write_truth(path: Path, faults: Faults) -> None:
    """Write one JSON object a fault: ``{"fault","first","last","reasons"}``, in the order of their first frames."""
    lines = (
        json.dumps({"fault": one.fault, "first": one.first, "last": one.last, "reasons": list(one.reasons)})
        for one in faults.episodes()
    )
    atomic_write(path, "".join(f"{line}\n" for line in lines))


__all__ = ["FAULTS", "FaultInjector", "Faults"]


class FaultInjector(SourceWrapper):
    """Passes the frames of ``source`` on, except where a fault strikes.

    ``gone``: every read is an error. ``hang``: the read blocks for as long as the frames of the range last, whatever
    its timeout, and they are lost. ``drop``: the frames never arrive. ``corrupt``: delivered, not decodable.
    ``freeze``: the last image before the range again and again. ``black``: all zero. ``resize``: half the size.
    ``slow``: delivered ``slow_s`` after the capture. ``faults`` tells the truth to whoever checks.
    """

    def __init__(self, source: Source, faults: Faults, fps: float) -> None:
        super().__init__(source)
        self.faults = faults
        self._period = 1.0 / fps
        self._last: Image | None = None
        self._closed = threading.Event()

    @property
    def fps(self) -> float | None:
        """The rate of the source inside."""
        return self._source.fps

    def read(self, timeout_s: float) -> Read:
        """Return what the faulty camera gives next."""
        while True:
            result = self._source.read(timeout_s)
            if not isinstance(result, Frame):
                return result
            index = result.index
            if self.faults.hit("gone", index):
                return SourceError(f"camera lost: gone at frame {index}")
            if hang := self.faults.hit("hang", index):
                self._hang(hang, index)
            elif not self.faults.hit("drop", index):
                return self._spoil(result)

    def close(self) -> None:
        """Close the source inside and end a hang."""
        self._closed.set()
        self._source.close()

    def _hang(self, span: range, index: int) -> None:
        if index == span.start:
            self._closed.wait(len(span) * self._period)

    def _spoil(self, frame: Frame) -> Frame | BadFrame:
        index = frame.index
        if self.faults.hit("corrupt", index):
            reason = "corrupt: the image cannot be decoded"
            return BadFrame(reason, index, frame.captured_at, frame.captured_wall, frame.source, frame.part)
        image = frame.image
        if self.faults.hit("freeze", index) and self._last is not None:
            image = self._last.copy()
        else:
            self._last = image
        if self.faults.hit("black", index):
            image = np.zeros_like(image)
        if self.faults.hit("resize", index):
            image = resize(image, (max(image.shape[0] // 2, 1), max(image.shape[1] // 2, 1)))
        if self.faults.hit("slow", index):
            self._closed.wait(self.faults.slow_s)
        return replace(frame, image=image)


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
        from edge_ad.synthetic.line import part_defect

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
        from edge_ad.synthetic.line import Belt

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
