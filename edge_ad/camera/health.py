"""Can this picture be judged at all? A camera that is frozen, dark, blown out or changed is a fault, not an anomaly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_ad.camera.frames import Image, SourceKind

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SAMPLE = 160  # about this many pixels a side are enough for a histogram


@dataclass(frozen=True)
class HealthLimits:
    """Limits of a healthy picture, luminance on a scale of 0 to 255.

    They are wide on purpose: a dark picture has its brightest hundredth below ``dark``, a blown-out one its darkest
    hundredth above ``blown_out``. From ``frozen_after`` repetitions on a camera counts as frozen.
    """

    dark: float = 12.0
    blown_out: float = 252.0
    frozen_after: int = 3


@dataclass(frozen=True)
class Health:
    """What a check found: ``fault`` is a reason or None; ``repeats`` counts exact repetitions of the picture before."""

    fault: str | None
    repeats: int


class CameraHealth:
    """Checks the pictures of one source in their order.

    Cameras (live and synthetic) must never repeat a picture to the last bit: sensors have noise. Video files may, so
    they are not checked for it; images of a folder may also differ in size.
    """

    def __init__(self, kind: SourceKind, limits: HealthLimits | None = None) -> None:
        self.limits = limits or HealthLimits()
        self._camera = kind in ("live", "synthetic")
        self._fixed_size = kind != "images"
        self._size: tuple[int, int] | None = None
        self._last: Image | None = None
        self._repeats = 0

    def check(self, image: Image) -> Health:
        """Judge the health of one picture u8[H,W,3]."""
        self._count_repeats(image)
        return Health(self._resolution(image) or self._light(image) or self._frozen(), self._repeats)

    def _count_repeats(self, image: Image) -> None:
        if not self._camera:
            return
        same = self._last is not None and _identical(image, self._last)
        self._repeats = self._repeats + 1 if same else 0
        self._last = image

    def _frozen(self) -> str | None:
        if not self._repeats:
            return None
        return f"frozen: the picture repeats the one before to the last bit ({self._repeats} in a row)"

    def _resolution(self, image: Image) -> str | None:
        height, width = image.shape[:2]
        if self._size is None:
            self._size = (height, width)
        if not self._fixed_size or (height, width) == self._size:
            return None
        return f"resolution: {width} x {height} pixels instead of {self._size[1]} x {self._size[0]}"

    def _light(self, image: Image) -> str | None:
        step = max(1, min(image.shape[:2]) // _SAMPLE)
        luminance = image[::step, ::step].astype(np.float32) @ _LUMA
        darkest, brightest = (float(value) for value in np.percentile(luminance, (1, 99)))
        if brightest < self.limits.dark:
            return f"dark: 99 % of the picture has a brightness of at most {brightest:.0f} of 255"
        if darkest > self.limits.blown_out:
            return f"blown out: 99 % of the picture has a brightness of at least {darkest:.0f} of 255"
        return None


def _identical(image: Image, other: Image) -> bool:
    """Exact comparison; a sparse sample settles nearly all cases before every pixel is read."""
    sample = (slice(None, None, 16), slice(None, None, 16))
    return image.shape == other.shape and np.array_equal(image[sample], other[sample]) and np.array_equal(image, other)
