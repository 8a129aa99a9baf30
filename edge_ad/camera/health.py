"""Can this image be judged at all? A camera that is frozen, dark, blown out or changed is a fault, not an anomaly."""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge_ad.camera.frames import Frame, Image, SourceKind
from edge_ad.camera.layout import Shift, TemplateMatcher, edge_field
from edge_ad.camera.measure import (
    HealthReference,
    Light,
    grey,
    light,
    limit_measurer,
    sharpness,
)

_SAMPLE = 160  # about this many rows are enough for a histogram
_REMEMBERED = 16  # a driver with stale buffers gives them in turn
_MIN_REGION = 64 * 64  # pixels; a smaller region may well look the same twice
_CLIPPED = 0.9  # of a region black or saturated: it looks the same however well the camera is

Region = tuple[int, int, int, int]
"""The judged piece of an image: x, y, width, height in pixels."""


@dataclass(frozen=True)
class HealthLimits:
    """Limits of a healthy image, luminance on a scale of 0 to 255.

    The first two hold always, and are wide on purpose: a dark image has its brightest hundredth below ``dark``, a
    blown-out one its darkest hundredth above ``blown_out``. From ``frozen_after`` repetitions on a camera counts as
    frozen, or when so many frames bear one time stamp.

    The others are relative to the normal images, where a reference is there: an image is dark when its median is below
    ``dimmer`` of the darkest good's and its brightest hundredth below ``dim`` of the dimmest one's; blown out when
    ``saturated`` more of it is saturated than of any good and its median is above all of theirs; ``blurred`` is the
    least and the greatest share of the least sharp good's sharpness that may be asked for; moved when it lies further
    off than any good by ``moved`` of the image's size and a quarter of the normal images' spread, or when it resembles
    the normal images less than ``resembles`` times as much as the least typical of them.
    """

    dark: float = 12.0
    blown_out: float = 252.0
    frozen_after: int = 3
    dim: float = 0.35
    dimmer: float = 0.5
    saturated: float = 0.25
    blurred: tuple[float, float] = (0.70, 0.85)
    moved: float = 0.02
    resembles: float = 0.45


@dataclass(frozen=True)
class Health:
    """What a check found: ``fault`` is a reason or None; ``repeats`` counts exact repetitions of images, in a row.

    Frames that were not looked at, between two that show the same to the last bit, count as repetitions. ``different``
    counts the images since the camera was opened that repeat none before them; None where nothing is opened.
    """

    fault: str | None
    repeats: int
    different: int | None = None


class CameraHealth:
    """Checks the images of one source in their order.

    Cameras (live and synthetic) must never repeat one of their last images to the last bit: sensors have noise. Video
    files may, so they are not checked for it; images of a folder may also differ in size. With a ``reference`` images
    are compared with the normal images as well. With a ``region`` that is what must not repeat: a clock that the camera
    writes beside it is no sign of life. One that is too small, black or saturated may repeat; then the whole image must
    not.
    """

    def __init__(
        self,
        kind: SourceKind,
        limits: HealthLimits | None = None,
        reference: HealthReference | None = None,
        region: Region | None = None,
    ) -> None:
        self.limits = limits or HealthLimits()
        self._camera = kind in ("live", "synthetic")
        self._fixed_size = kind not in ("images", "watch")
        self._size: tuple[int, int] | None = None
        self._region = region
        self._last: tuple[bool, bytes] | None = None
        self._remembered: deque[tuple[bool, bytes]] = deque(maxlen=_REMEMBERED)
        self._stamp: float | None = None
        self._index = -1
        self._repeats = 0
        self._opening = 0
        self._different = 0
        self._stuck = 0
        self._reference_check = ReferenceCheck(reference, self.limits) if reference is not None else None

    def check(self, image: Image | Frame, stamp: float | None = None, placed: bool = True) -> Health:
        """Judge the health of one image u8[H,W,3], or of a frame with its image and stamp.

        ``stamp`` is the camera's own time in seconds; a camera's must increase. ``placed`` says that a part is meant to
        be in view and at rest: without it the image is not compared with the normal images, because an empty or moving
        station differs from them without any fault.
        """
        frame = image if isinstance(image, Frame) else None
        pixels = image.image if isinstance(image, Frame) else image
        index = frame.index if frame is not None else self._index + 1
        opening = frame.opening if frame is not None else 0
        if opening != self._opening:
            self._opening, self._different = opening, 0
        seen = quick_stats(frame, self._region) if frame is not None else _stats_of(pixels, self._region)
        self._count_repeats((seen.whole, seen.digest), frame.stamp if frame is not None else stamp, index)
        fault = self._resolution(pixels) or self._light(seen.light) or self._frozen()
        if fault is None and placed and self._reference_check is not None:
            fault = self._reference_check.fault(self._reference_check.view(image))
        return Health(fault, self._repeats, self._different if opening else None)

    def _count_repeats(self, seen: tuple[bool, bytes], stamp: float | None, index: int) -> None:
        if not self._camera:
            return
        passed, self._index = max(index - self._index, 1), index
        if seen == self._last:
            self._repeats += passed
        elif seen in self._remembered:
            self._repeats += 1
        else:
            self._repeats = 0
            self._different += 1
            self._remembered.append(seen)
        self._last = seen
        still = stamp is not None and self._stamp is not None and stamp == self._stamp
        self._stuck = self._stuck + passed if still else 0
        self._stamp = stamp

    def _frozen(self) -> str | None:
        if self._repeats:
            what = "picture" if self._last is None or self._last[0] else "judged region"
            return f"frozen: the {what} repeats an earlier one to the last bit ({self._repeats} in a row)"
        if self._stuck >= self.limits.frozen_after - 1:
            return f"frozen: the camera's time stamp stands still ({self._stuck} in a row)"
        return None

    def _resolution(self, image: Image) -> str | None:
        height, width = image.shape[:2]
        if self._size is None:
            self._size = (height, width)
        if not self._fixed_size or (height, width) == self._size:
            return None
        return f"resolution: {width} x {height} pixels instead of {self._size[1]} x {self._size[0]}"

    def _light(self, result: Light) -> str | None:
        if result.brightest < self.limits.dark:
            return f"dark: 99 % of the image has a brightness of at most {result.brightest:.0f} of 255"
        if result.darkest > self.limits.blown_out:
            return f"blown out: 99 % of the image has a brightness of at least {result.darkest:.0f} of 255"
        return None


class QuickStats(NamedTuple):
    """What a healthy camera is told by first: the light of an image, and a digest of its region, or of the ``whole``.
    """

    light: Light
    whole: bool
    digest: bytes


def quick_stats(frame: Frame, region: Region | None = None) -> QuickStats:
    """Return what a first look at a frame's image finds; made once for all who ask."""
    return frame.once(("glance", region), lambda: _stats_of(frame.image, region))


def _stats_of(image: Image, region: Region | None) -> QuickStats:
    sampled = image[:: max(1, min(image.shape[:2]) // _SAMPLE)]
    looked, whole = image, True
    if region is not None:
        x, y, width, height = region
        cut = image[y : y + height, x : x + width]
        if cut.shape[0] * cut.shape[1] >= _MIN_REGION and not _clipped(cut):
            looked, whole = cut, False
    return QuickStats(light(grey(sampled)), whole, digest(looked))


def _clipped(region: Image) -> bool:
    """Whether nearly all of a region is black or saturated."""
    rows = region[:: max(1, region.shape[0] // 16)]
    return bool(((rows == 0) | (rows == 255)).mean() > _CLIPPED)


def digest(image: Image) -> bytes:
    """Return 12 bytes that differ for images u8[H,W,3] that differ in a value: columns joined by XOR, and 16 whole
    rows.
    """
    rows = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    even = rows.shape[1] // 8 * 8
    joined = np.bitwise_xor.reduce(rows[:, :even].view(np.uint64), axis=0)
    rest = np.bitwise_xor.reduce(rows[:, even:], axis=0)
    few = rows[:: max(1, rows.shape[0] // 16)]
    return b"".join(zlib.crc32(part).to_bytes(4, "little") for part in (joined, rest, few.tobytes()))


class ReferenceCheck:
    """Compares images with a reference of normal images: light, sharpness and, with ``layout``, place.

    Where parts are located, their places in the image say nothing of the camera.
    """

    def __init__(self, reference: HealthReference, limits: HealthLimits, *, layout: bool = True) -> None:
        self._reference = reference
        self._layout = layout
        self._limits = limits
        self._matcher = TemplateMatcher(reference.template)
        self._quality = limit_measurer(reference, layout=layout)
        self._sharp = tuple(
            _sharp_limit(low, median, limits.blurred)
            for low, median in zip(reference.sharp_low, reference.sharp_median, strict=True)
        )

    def view(self, image: Image | Frame) -> Image:
        """Return the image at the size of the reference."""
        frame = image if isinstance(image, Frame) else Frame(image, 0, 0.0, 0.0, "", "")
        return frame.resized(self._reference.size)

    def fault(self, image: Image) -> str | None:
        """Return what is wrong with u8[H,W,3] at the size of the reference, or None."""
        shades, limits = grey(image), self._reference.limits
        fault = self._light(light(shades)) or self._beyond(image)
        if fault is None and (limits is None or "blurred" not in limits.by_fault):
            fault = self._blurred(sharpness(shades))
        return fault or (self._moved(self._matcher.find(edge_field(shades))) if self._layout else None)

    def _light(self, result: Light) -> str | None:
        reference, limits = self._reference, self._limits
        if result.brightest < limits.dim * reference.bright_low and result.median < limits.dimmer * reference.median_low:
            return (
                f"dark: median brightness {result.median:.0f}, brightest hundredth {result.brightest:.0f}; "
                f"normal images have at least {reference.median_low:.0f} and {reference.bright_low:.0f}"
            )
        if result.saturated > reference.saturated_high + limits.saturated and result.median > reference.median_high:
            return (
                f"blown out: {result.saturated:.0%} of the image is saturated; "
                f"normal images have at most {reference.saturated_high:.0%}"
            )
        return None

    def _beyond(self, image: Image) -> str | None:
        """Return the fault of a frame that is further from the normal images than a tolerance allows."""
        limits = self._reference.limits
        if limits is None or self._quality is None:
            return None
        quality = self._quality(image)
        for fault, one in limits.by_fault.items():
            if one.broken_by(quality):
                name, side = one.measure.replace("_", " "), "least" if one.below else "most"
                return f"{fault}: beyond the tolerance, {name} {quality[one.measure]:.3g}; at {side} {one.limit:.3g} may be judged"
        return None

    def _blurred(self, result: tuple[float, float]) -> str | None:
        for axis, value, limit in zip("xy", result, self._sharp, strict=True):
            if value < limit:  # false for NaN: too little contrast to tell
                return f"blurred: sharpness {value:.2f} along {axis}; normal images have at least {limit:.2f} with allowance"
        return None

    def _moved(self, shift: Shift) -> str | None:
        reference, limits = self._reference, self._limits
        if shift.match < limits.resembles * reference.match_low:
            return (
                f"moved: the image has little of the normal images' layout (correlation {shift.match:.2f}; "
                f"normal images have at least {reference.match_low:.2f})"
            )
        if _outside(shift.x, reference.shift_x, limits.moved) or _outside(shift.y, reference.shift_y, limits.moved):
            return f"moved: the image is shifted by {shift.x:+.1%} across and {shift.y:+.1%} down from the normal images"
        return None


def _sharp_limit(low: float, median: float, span: tuple[float, float]) -> float:
    """Twice as far below the least sharp good as that is below the median, within ``span`` times its sharpness."""
    return low * min(max(1.0 - 2.0 * (median - low) / max(low, 1e-6), span[0]), span[1])


def _outside(value: float, reference: tuple[float, float], margin: float) -> bool:
    """Whether a shift lies beyond those of the normal images by ``margin`` and a quarter of their spread."""
    allowance = margin + 0.25 * (reference[1] - reference[0])
    return not reference[0] - allowance <= value <= reference[1] + allowance
