"""Which pictures are worth keeping as goods, and why the others are not."""

from __future__ import annotations

import math

import numpy as np

from edge_ad.camera.frames import Frame, Image, SourceKind
from edge_ad.camera.health import CameraHealth, HealthLimits, Likeness
from edge_ad.camera.measure import grey, measure_reference, sharpness
from edge_ad.data.near_duplicates import CLOSE, Gallery, thumbnail

SIZE = (256, 256)
FIRST_REFERENCE = 20
MOST_REMEMBERED = 160
REASONS = ("unreadable", "dark", "blown out", "frozen", "resolution", "blurred", "moved", "alike")

_ENOUGH = 5
_SOFT = 0.6


class Sieve:
    """Judges the pictures of one camera in their order against those kept before.

    Dark, blown out, frozen and of another size: as in the loop. Blurred: less than 0.6 times as sharp as the median of
    the pictures kept, once there are 5. From 20 kept pictures on they make a reference (measured anew at 40, 80 and
    160), and what differs from it as in the loop is blurred or moved. Alike: nearly the same picture as one kept.
    """

    def __init__(self, kind: SourceKind, close: float = CLOSE) -> None:
        self._health = CameraHealth(kind)
        self._limits = HealthLimits()
        self._close = close
        self._gallery = Gallery()
        self._names: list[str] = []
        self._remembered: list[Image] = []
        self._sharp: list[tuple[float, float]] = []
        self._likeness: Likeness | None = None

    def __len__(self) -> int:
        return len(self._gallery)

    def fault(self, frame: Frame) -> str | None:
        """Return why a frame is not worth keeping (the reason begins with a word of REASONS), or None."""
        found = self._health.check(frame).fault
        if found is not None:
            return found
        small = frame.resized(SIZE)
        return self._blurred(small) or (self._likeness.fault(small) if self._likeness else None) or self._alike(frame)

    def keep(self, frame: Frame, name: str) -> None:
        """Take in a picture that is kept, under the name that later ones are compared with."""
        self._gallery.add(thumbnail(frame.image))
        self._names.append(name)
        small = frame.resized(SIZE)
        self._sharp.append(sharpness(grey(small)))
        if len(self._remembered) < MOST_REMEMBERED:
            self._remembered.append(small)
            if len(self._remembered) in _REFERENCES:
                self._likeness = Likeness(measure_reference(self._remembered), self._limits)

    def _blurred(self, small: Image) -> str | None:
        if len(self._sharp) < _ENOUGH:
            return None
        for axis, value, known in zip("xy", sharpness(grey(small)), zip(*self._sharp, strict=True), strict=True):
            middle = float(np.nanmedian(known)) if not all(map(math.isnan, known)) else math.nan
            if value < _SOFT * middle:
                return f"blurred: sharpness {value:.2f} along {axis}; the pictures kept have {middle:.2f}"
        return None

    def _alike(self, frame: Frame) -> str | None:
        index, apart = self._gallery.nearest(thumbnail(frame.image))
        if apart >= self._close:
            return None
        return f"alike: {apart:.1f} grey levels from {self._names[index]}; {self._close:g} are needed"


_REFERENCES = tuple(FIRST_REFERENCE * 2**step for step in range(4))
