"""A pen that draws shapes given in tray units onto a canvas of pixels."""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
Rgb: TypeAlias = tuple[int, int, int]
Canvas: TypeAlias = NDArray[np.uint8]

_FRACTION_BITS = 4


def circle(radius: float, corners: int) -> Points:
    """Return a regular polygon around the origin, f64[corners,2]."""
    angles = np.arange(corners) * (2 * math.pi / corners)
    return np.asarray(radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), dtype=np.float64)


def turned(points: Points, angle: float) -> Points:
    """Return points turned about the origin by an angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]), dtype=np.float64)


def moved(points: Points, x: float, y: float) -> Points:
    """Return points moved by (x, y)."""
    offset = np.array([x, y], dtype=np.float64)
    return np.asarray(points + offset, dtype=np.float64)


def shaded(colour: Rgb, factor: float) -> Rgb:
    """Return a colour made lighter (factor > 1) or darker, clipped to 0..255."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


class Pen:
    """Draws on u8[H,W,3] or u8[H,W] in place; ``matrix`` (f64[2,3]) maps its units to pixels."""

    def __init__(self, canvas: Canvas, matrix: NDArray[np.float64]) -> None:
        self.canvas = canvas
        self.matrix = matrix
        self.pixels_per_unit = float(math.hypot(matrix[0, 0], matrix[1, 0]))

    def at(self, x: float, y: float, angle: float) -> Pen:
        """Return a pen for the same canvas whose origin is (x, y), turned by ``angle`` radians."""
        cos, sin = math.cos(angle), math.sin(angle)
        local = np.array([[cos, -sin, x], [sin, cos, y], [0.0, 0.0, 1.0]])
        return Pen(self.canvas, self.matrix @ local)

    def pixels(self, points: Points) -> Points:
        """Return points of tray units in pixels."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def polygon(self, points: Points, colour: Rgb) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.canvas, [self._fixed(points)], colour, cv2.LINE_8, _FRACTION_BITS)

    def line(self, points: Points, colour: Rgb, width: float) -> None:
        """Draw a polyline ``width`` units wide (at least one pixel)."""
        thickness = max(1, round(width * self.pixels_per_unit))
        cv2.polylines(self.canvas, [self._fixed(points)], False, colour, thickness, cv2.LINE_8, _FRACTION_BITS)

    def _fixed(self, points: Points) -> NDArray[np.int32]:
        # Pixel centres are whole numbers to cv2, and pixel edges to our units.
        scaled: NDArray[np.float64] = np.rint((self.pixels(points) - 0.5) * (1 << _FRACTION_BITS))
        return scaled.astype(np.int32)
