"""How each part of the tray is drawn, in tray units: outlines for masks and shadows, and the paint on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.synthetic.scene import Colour, Part

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


STEEL: Rgb = (168, 172, 178)
BRASS: Rgb = (186, 150, 84)
DARK_STEEL: Rgb = (132, 138, 150)
PAINT: dict[Colour, Rgb] = {"red": (176, 52, 46), "blue": (48, 84, 168), "yellow": (204, 168, 48)}

NUT_RADIUS = 15.0
WASHER_RADIUS = 15.5
SCREW_LENGTH = {"long_screw": 76.0, "short_screw": 42.0}
HEAD_RADIUS, HEAD_LENGTH, SHAFT_RADIUS = 9.5, 8.0, 4.8
CONNECTOR = (18.0, 12.5)
CAP_RADIUS = 15.0
PIN = (5.0, 20.0)


def outline(part: Part) -> Points:
    """Return the silhouette of a part in tray units, f64[N,2]."""
    return moved(turned(_silhouette(part.kind), part.angle), part.x, part.y)


def area(kind: str) -> float:
    """Return the area of a part's silhouette in square tray units."""
    x, y = _silhouette(kind).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def draw(pen: Pen, part: Part) -> None:
    """Draw one part with its bevels, holes and threads."""
    _PAINTERS[part.kind](pen.at(part.x, part.y, part.angle), part)


@cache
def _silhouette(kind: str) -> Points:
    if kind == "nut":
        return circle(NUT_RADIUS, 6)
    if kind == "washer":
        return circle(WASHER_RADIUS, 40)
    if kind == "cap":
        return circle(CAP_RADIUS, 32)
    if kind == "connector":
        return _box(*CONNECTOR)
    if kind == "pin":
        return _capsule(*PIN)
    return _screw(SCREW_LENGTH[kind])


def _box(half_x: float, half_y: float) -> Points:
    return np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)], dtype=np.float64)


def _capsule(half_x: float, half_y: float) -> Points:
    """Return an upright rod with round ends."""
    arc = circle(half_x, 24)
    return np.where(arc[:, 1:] > 0, moved(arc, 0, half_y - half_x), moved(arc, 0, half_x - half_y))


def _screw(length: float) -> Points:
    """Return a screw seen from the side, head left, tip right."""
    left, right = -length / 2, length / 2
    neck = left + HEAD_LENGTH
    upper = [(left, -HEAD_RADIUS * 0.7), (left + 2, -HEAD_RADIUS), (neck, -HEAD_RADIUS), (neck, -SHAFT_RADIUS),
             (right - 5, -SHAFT_RADIUS), (right, 0.0)]
    lower = [(x, -y) for x, y in reversed(upper[:-1])]
    return np.array(upper + lower, dtype=np.float64)


def _brushed(pen: Pen, part: Part, base: Rgb, radius: float) -> None:
    """Scratch a few parallel strokes into a round metal face."""
    rng = np.random.default_rng(part.grain)
    slant = float(rng.uniform(0, math.pi))
    for offset in rng.uniform(-0.8, 0.8, 5):
        half = radius * math.sqrt(1 - offset * offset)
        stroke = turned(np.array([(-half, offset * radius), (half, offset * radius)]), slant)
        pen.line(stroke, shaded(base, float(rng.uniform(0.86, 1.14))), 0.8)


def _paint_nut(pen: Pen, part: Part) -> None:
    base = shaded(BRASS, part.tone)
    pen.polygon(circle(NUT_RADIUS, 6), shaded(base, 0.55))
    pen.polygon(circle(NUT_RADIUS - 1.3, 6), shaded(base, 0.9))
    pen.polygon(circle(NUT_RADIUS - 3.2, 24), base)
    _brushed(pen, part, base, NUT_RADIUS - 4)
    pen.polygon(circle(7.6, 24), shaded(base, 0.6))
    pen.polygon(circle(6.4, 24), (46, 44, 42))


def _paint_washer(pen: Pen, part: Part) -> None:
    base = shaded(STEEL, part.tone)
    pen.polygon(circle(WASHER_RADIUS, 40), shaded(base, 0.6))
    pen.polygon(circle(WASHER_RADIUS - 1.1, 40), base)
    _brushed(pen, part, base, WASHER_RADIUS - 1.5)
    pen.polygon(circle(8.6, 32), shaded(base, 0.62))
    pen.polygon(circle(7.6, 32), (60, 66, 70))


def _paint_screw(pen: Pen, part: Part) -> None:
    base = shaded(DARK_STEEL, part.tone)
    length = SCREW_LENGTH[part.kind]
    neck = -length / 2 + HEAD_LENGTH
    head = moved(_box(HEAD_LENGTH / 2 - 1, HEAD_RADIUS - 1.4), neck - HEAD_LENGTH / 2, 0)
    pen.polygon(_screw(length), shaded(base, 0.6))
    pen.polygon(head, shaded(base, 1.05))
    shaft = (length / 2 - 5 - neck) / 2
    pen.polygon(moved(_box(shaft, SHAFT_RADIUS - 1), neck + shaft, 0), base)
    pen.line(np.array([(neck, -1.2), (length / 2 - 5, -1.2)]), shaded(base, 1.3), 1.6)
    phase = part.grain % 8 / 8 * 3.2
    for x in np.arange(neck + 5 + phase, length / 2 - 3, 3.2):
        pen.line(np.array([(x, -SHAFT_RADIUS), (x + 1.4, SHAFT_RADIUS)]), shaded(base, 0.62), 1.0)


def _paint_connector(pen: Pen, part: Part) -> None:
    base = shaded(_paint(part), part.tone)
    pen.polygon(_box(*CONNECTOR), shaded(base, 0.6))
    pen.polygon(_box(CONNECTOR[0] - 1.2, CONNECTOR[1] - 1.2), base)
    pen.line(np.array([(-16.0, -10.0), (16.0, -10.0)]), shaded(base, 1.25), 1.4)
    for x in (-10.5, 0.0, 10.5):
        pen.polygon(moved(_box(2.8, 3.6), x, 4.2), (38, 36, 36))
        pen.polygon(moved(circle(2.3, 12), x, -4.4), shaded(STEEL, part.tone))


def _paint_cap(pen: Pen, part: Part) -> None:
    base = shaded(_paint(part), part.tone)
    pen.polygon(circle(CAP_RADIUS, 32), shaded(base, 0.6))
    pen.polygon(circle(CAP_RADIUS - 1.3, 32), base)
    pen.polygon(circle(9.8, 28), shaded(base, 0.76))
    pen.polygon(circle(8.6, 28), shaded(base, 1.08))
    pen.line(np.array([(-6.5, 0.0), (6.5, 0.0)]), shaded(base, 0.5), 2.2)


def _paint_pin(pen: Pen, part: Part) -> None:
    base = shaded(BRASS, part.tone)
    pen.polygon(_capsule(*PIN), shaded(base, 0.6))
    pen.polygon(_capsule(PIN[0] - 1.1, PIN[1] - 1.1), base)
    pen.line(np.array([(-1.2, -16.0), (-1.2, 16.0)]), shaded(base, 1.28), 1.8)
    pen.polygon(moved(_box(PIN[0] - 0.4, 1.8), 0, -8.0), shaded(base, 0.62))


def _paint(part: Part) -> Rgb:
    if part.colour is None:
        raise ValueError(f"a {part.kind} needs a colour")
    return PAINT[part.colour]


_PAINTERS: dict[str, Callable[[Pen, Part], None]] = {
    "nut": _paint_nut,
    "washer": _paint_washer,
    "long_screw": _paint_screw,
    "short_screw": _paint_screw,
    "connector": _paint_connector,
    "cap": _paint_cap,
    "pin": _paint_pin,
}
