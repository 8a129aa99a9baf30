"""Faults of real cameras, made on demand: a wrapper round any source.

Which frames suffer which fault: named ranges, or many at random from a seed, with the truth for whoever checks.
"""

from __future__ import annotations

import bisect
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_ad.camera.frames import BadFrame, Frame, Image, Read, Source, SourceError, SourceKind
from edge_ad.data.images import resize
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


class FaultInjector:
    """Passes the frames of ``source`` on, except where a fault strikes.

    ``gone``: every read is an error. ``hang``: the read blocks for as long as the frames of the range last, whatever
    its timeout, and they are lost. ``drop``: the frames never arrive. ``corrupt``: delivered, not decodable.
    ``freeze``: the last image before the range again and again. ``black``: all zero. ``resize``: half the size.
    ``slow``: delivered ``slow_s`` after the capture. ``faults`` tells the truth to whoever checks.
    """

    def __init__(self, source: Source, faults: Faults, fps: float) -> None:
        self.faults = faults
        self._source = source
        self._period = 1.0 / fps
        self._last: Image | None = None
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        """The name of the source inside."""
        return self._source.name

    @property
    def kind(self) -> SourceKind:
        """The kind of the source inside."""
        return self._source.kind

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
