"""Faults of real cameras, made on demand: a wrapper round any source."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from edge_ad.camera.fault_plan import FAULTS, Faults
from edge_ad.camera.frames import BadFrame, Frame, Image, Read, Source, SourceError, SourceKind
from edge_ad.data.images import resize

__all__ = ["FAULTS", "FaultInjector", "Faults"]


class FaultInjector:
    """Passes the frames of ``source`` on, except where a fault strikes.

    ``gone``: every read is an error. ``hang``: the read blocks for as long as the frames of the range last, whatever
    its timeout, and they are lost. ``drop``: the frames never arrive. ``corrupt``: delivered, not decodable.
    ``freeze``: the last picture before the range again and again. ``black``: all zero. ``resize``: half the size.
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
            reason = "corrupt: the picture cannot be decoded"
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
