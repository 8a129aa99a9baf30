"""Where a part lies in an image, why it could not be located, the poses that are expected, and what every locator is.

Coordinates are pixels of the original image, x to the right and y down; whole numbers are the centres of pixels, as in
OpenCV. Angles are degrees, clockwise as one sees the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
Image: TypeAlias = NDArray[np.uint8]


def wrap(angle: float, period: float = 360.0) -> float:
    """Return an angle in degrees within [-period / 2, period / 2)."""
    return (angle + period / 2) % period - period / 2


def rotation(angle: float) -> Points:
    """Return f64[2,2] that turns points clockwise, as one sees the image, by ``angle`` degrees."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[cos, -sin], [sin, cos]])


@dataclass(frozen=True)
class Pose:
    """A located part: centre and angle of its box, the box's size, and how well the part agrees with the template.

    ``width`` and ``height`` are pixels of this image with ``scale`` (1: as in the normal images) in them already.
    ``residual`` is the share of the template that the image does not confirm, 0 to 1. ``symmetric`` says that the part
    looks the same at several angles; the angle is then the one nearest to 0.
    """

    x: float
    y: float
    angle: float
    width: float
    height: float
    scale: float = 1.0
    residual: float = 0.0
    symmetric: bool = False

    @classmethod
    def of_image(cls, size: tuple[int, int]) -> Pose:
        """Return the pose of a whole image of ``size`` (height, width)."""
        high, wide = size
        return cls((wide - 1) / 2, (high - 1) / 2, 0.0, wide, high)

    def matrix(self) -> Points:
        """Return f64[2,3] from the part's frame (origin in the middle of the box, image pixels) to the image."""
        return np.column_stack([rotation(self.angle), (self.x, self.y)])

    def corners(self) -> Points:
        """Return the corners of the box in the image, f64[4,2], clockwise from the part's upper left."""
        half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (self.width / 2, self.height / 2)
        matrix = self.matrix()
        return np.asarray(half @ matrix[:, :2].T + matrix[:, 2])

    def inside(self, shape: Sequence[int], overhang: float = 0.0) -> bool:
        """Whether the box lies in an image of ``shape`` (height, width), but for ``overhang`` pixels."""
        corners, (height, width) = self.corners(), shape[:2]
        low, high = -0.5 - overhang, overhang - 0.5
        return bool((corners >= low).all() and (corners <= (width + high, height + high)).all())

    def grown(self, share: float) -> Pose:
        """Return the pose with a margin of ``share`` of the box's shorter side around the box."""
        margin = 2 * share * min(self.width, self.height)
        return replace(self, width=self.width + margin, height=self.height + margin)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a record, rounded to what can be measured."""
        numbers = {name: round(float(getattr(self, name)), 2) for name in ("x", "y", "angle", "width", "height")}
        fine = {"scale": round(float(self.scale), 4), "residual": round(float(self.residual), 4)}
        return {**numbers, **fine, "symmetric": self.symmetric}


@dataclass(frozen=True)
class NotLocated:
    """No pose, and why, in one sentence; ``empty`` where the image shows nothing that could be a part."""

    reason: str
    empty: bool = False


Location: TypeAlias = Pose | NotLocated


def refuse_size(image: Image, expected: tuple[int, int]) -> NotLocated | None:
    """Return why a part cannot be located in an image of another (height, width) than ``expected``."""
    (high, wide), (learned_high, learned_wide) = image.shape[:2], expected
    if (high, wide) == expected:
        return None
    return NotLocated(
        f"the image is {wide} x {high} pixels, and the part was learned in images of {learned_wide} x {learned_high}"
    )


@dataclass(frozen=True)
class PoseRange:
    """The poses that the normal images showed: centres and scales from least to greatest, angles within ``turn`` of ``angle``."""

    x: tuple[float, float]
    y: tuple[float, float]
    angle: float
    turn: float
    scale: tuple[float, float]

    @classmethod
    def of(cls, poses: Sequence[Pose]) -> PoseRange:
        """Return the range of the poses of normal images, a tenth of each extent wider, and at least by a pixel or degree."""
        angle = mean_angle([pose.angle for pose in poses])
        turn = max(abs(wrap(pose.angle - angle)) for pose in poses)
        turn = 180.0 if turn > 90 else turn * 1.1 + 1.0
        x, y = (_widened([getattr(pose, name) for pose in poses], 1.0) for name in ("x", "y"))
        return cls(x, y, angle, turn, _widened([pose.scale for pose in poses], 0.01))

    def joined(self, other: PoseRange) -> PoseRange:
        """Return the least range that holds both."""
        x, y, scale = (
            (min(own[0], more[0]), max(own[1], more[1]))
            for own, more in ((self.x, other.x), (self.y, other.y), (self.scale, other.scale))
        )
        # The other range from this one's middle: the turns to its two ends.
        offset = wrap(other.angle - self.angle)
        low, high = min(-self.turn, offset - other.turn), max(self.turn, offset + other.turn)
        if high - low >= 360:
            return PoseRange(x, y, self.angle, 180.0, scale)
        return PoseRange(x, y, wrap(self.angle + (low + high) / 2), (high - low) / 2, scale)

    def outside(self, pose: Pose) -> str | None:
        """Return in a sentence how a pose leaves the range; None where it does not."""
        for name, (low, high) in (("x", self.x), ("y", self.y), ("scale", self.scale)):
            value = getattr(pose, name)
            if not low <= value <= high:
                return f"the part's {name} is {value:.4g}, and the normal images had {low:.4g} to {high:.4g}"
        turn = abs(wrap(pose.angle - self.angle))
        if not pose.symmetric and turn > self.turn:
            return (f"the part is turned by {pose.angle:.1f} degrees, and the normal images by "
                    f"{self.angle - self.turn:.1f} to {self.angle + self.turn:.1f}")
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"x": list(self.x), "y": list(self.y), "angle": self.angle, "turn": self.turn, "scale": list(self.scale)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PoseRange:
        """Return the range that ``as_dict`` described."""
        x, y, scale = ((float(low), float(high)) for low, high in (values["x"], values["y"], values["scale"]))
        return cls(x, y, float(values["angle"]), float(values["turn"]), scale)


def mean_angle(angles: Sequence[float]) -> float:
    """Return the mean direction of angles in degrees (the mean of unit vectors), so that 179 and -179 give 180."""
    radians = np.radians(np.asarray(angles, np.float64))
    return math.degrees(math.atan2(np.sin(radians).mean(), np.cos(radians).mean()))


def _widened(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    margin = max(least, (high - low) / 10)
    return low - margin, high + margin


Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class Locator(Protocol):
    """Finds parts in images u8[H,W,3] (RGB) of the size it was fitted to."""

    kind: ClassVar[str]

    @property
    def box(self) -> tuple[float, float]:
        """Width and height of the part's box in pixels of the original, at scale 1."""

    def locate(self, image: Image) -> Location:
        """Return the pose of the one part that is expected, or why there is none."""

    def locate_all(self, image: Image) -> list[Location]:
        """Return every part in view, from left to right; a reason for each part that could not be posed."""

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return plain values and arrays from which the same locator can be made again."""
