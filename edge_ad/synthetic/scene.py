"""What lies on a kit tray, and where: the rules that every good tray keeps.

All coordinates are tray units: the origin is the centre of the tray, x points right, y points down, and an image shows
256 x 256 units. A good tray holds, in fixed compartments, two nuts, two washers, a long and a short screw, two pairs
of a connector above a cap of the same colour (the two pairs differ), and one pin in each of six slots.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Kind = Literal["nut", "washer", "long_screw", "short_screw", "connector", "cap", "pin"]
Colour = Literal["red", "blue", "yellow"]

COLOURS: tuple[Colour, ...] = ("red", "blue", "yellow")
SLOTS = 6
TRAY_HALF = 108.0
PIN_Y = 72.0
CONNECTOR_Y = -12.0
CAP_Y = 18.5


@dataclass(frozen=True)
class Compartment:
    """A rectangle of the tray floor in tray units."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def centre(self) -> tuple[float, float]:
        """Return x and y of the middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


COMPARTMENTS: dict[str, Compartment] = {
    "nuts": Compartment(-100, -100, -3, -34),
    "washers": Compartment(3, -100, 100, -34),
    "screws": Compartment(-100, -28, 2, 38),
    "left_pair": Compartment(8, -28, 51, 38),
    "right_pair": Compartment(57, -28, 100, 38),
    "pins": Compartment(-100, 44, 100, 100),
}
PAIRS = ("left_pair", "right_pair")


@dataclass(frozen=True)
class Part:
    """One part: its kind, the compartment it lies in, its centre, its angle in radians and how it looks.

    ``tone`` multiplies the brightness of its material; ``grain`` seeds its surface; ``colour`` is set for
    connectors and caps only.
    """

    kind: Kind
    compartment: str
    x: float
    y: float
    angle: float
    tone: float
    grain: int
    colour: Colour | None = None


@dataclass(frozen=True)
class Pose:
    """How the tray lies under the camera: shift in units, rotation in radians, scale."""

    dx: float
    dy: float
    angle: float
    scale: float

    def matrix(self, pixels_per_unit: float, size: float) -> np.ndarray:
        """Return the 2 x 3 matrix from tray units to pixels of a square image ``size`` pixels wide."""
        factor = self.scale * pixels_per_unit
        cos, sin = factor * math.cos(self.angle), factor * math.sin(self.angle)
        shift_x, shift_y = size / 2 + self.dx * pixels_per_unit, size / 2 + self.dy * pixels_per_unit
        return np.array([[cos, -sin, shift_x], [sin, cos, shift_y]], dtype=np.float64)


@dataclass(frozen=True)
class Scene:
    """A tray with its parts, lowest first, and its pose."""

    parts: tuple[Part, ...]
    pose: Pose

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how many parts of each kind lie in each compartment, keyed by (place, kind)."""
        return Counter((part.compartment, part.kind) for part in self.parts)

    def of(self, kind: Kind) -> list[Part]:
        """Return the parts of one kind."""
        return [part for part in self.parts if part.kind == kind]

    def without(self, *gone: Part) -> Scene:
        """Return the scene with some parts taken away."""
        return replace(self, parts=tuple(part for part in self.parts if part not in gone))

    def plus(self, *more: Part) -> Scene:
        """Return the scene with some parts laid on top."""
        return replace(self, parts=self.parts + more)


def slot_x(slot: int) -> float:
    """Return the x of the middle of a pin slot, 0 to SLOTS - 1."""
    pins = COMPARTMENTS["pins"]
    return pins.left + (pins.right - pins.left) * (slot + 0.5) / SLOTS


def new_part(rng: np.random.Generator, kind: Kind, location: str, x: float, *, y: float, angle: float,
             colour: Colour | None = None) -> Part:
    """Return a part with a random tone and surface."""
    return Part(kind, location, x, y, angle, float(rng.uniform(0.93, 1.07)), int(rng.integers(1 << 30)), colour)


def good_scene(rng: np.random.Generator) -> Scene:
    """Return a tray that keeps every rule, with freely varied positions, angles, colours and pose."""
    parts = _loose(rng, "nut", "nuts") + _loose(rng, "washer", "washers") + _screws(rng) + _pairs(rng) + _pins(rng)
    pose = Pose(
        dx=float(rng.uniform(-5, 5)),
        dy=float(rng.uniform(-5, 5)),
        angle=math.radians(float(rng.uniform(-2.5, 2.5))),
        scale=float(rng.uniform(0.975, 1.025)),
    )
    return Scene(tuple(parts), pose)


def free_angle(rng: np.random.Generator) -> float:
    """Return any angle in radians."""
    return float(rng.uniform(0, 2 * math.pi))


def _loose(rng: np.random.Generator, kind: Kind, location: str) -> list[Part]:
    """Return two parts that lie side by side in their compartment, anywhere in their half."""
    x, y = COMPARTMENTS[location].centre
    return [
        new_part(rng, kind, location, x + side * 25 + float(rng.uniform(-5, 5)), y=y + float(rng.uniform(-10, 10)),
                 angle=free_angle(rng))
        for side in (-1, 1)
    ]


def _screws(rng: np.random.Generator) -> list[Part]:
    """Return a long screw below a short one, heads to the left."""
    x, y = COMPARTMENTS["screws"].centre
    parts: list[Part] = []
    kinds: tuple[tuple[Kind, int, float], ...] = (("long_screw", 1, 6.0), ("short_screw", -1, 12.0))
    for kind, side, reach in kinds:
        angle = math.radians(float(rng.uniform(-7, 7)))
        offset = float(rng.uniform(-reach, reach))
        parts.append(new_part(rng, kind, "screws", x + offset, y=y + side * 15 + float(rng.uniform(-3, 3)), angle=angle))
    return parts


def _pairs(rng: np.random.Generator) -> list[Part]:
    """Return two connectors, each above a cap of its own colour; the two colours differ."""
    order = rng.permutation(len(COLOURS))
    parts: list[Part] = []
    for location, index in zip(PAIRS, order, strict=False):
        x, _ = COMPARTMENTS[location].centre
        tilt = math.radians(float(rng.uniform(-5, 5)))
        parts.append(new_part(rng, "connector", location, x + float(rng.uniform(-1.5, 1.5)),
                              y=CONNECTOR_Y + float(rng.uniform(-1.5, 1.5)), angle=tilt, colour=COLOURS[index]))
        parts.append(new_part(rng, "cap", location, x + float(rng.uniform(-3, 3)), y=CAP_Y + float(rng.uniform(-1.5, 1.5)),
                              angle=free_angle(rng), colour=COLOURS[index]))
    return parts


def _pins(rng: np.random.Generator) -> list[Part]:
    """Return one upright pin in every slot, collar up."""
    return [
        new_part(rng, "pin", "pins", slot_x(slot) + float(rng.uniform(-2.5, 2.5)), y=PIN_Y + float(rng.uniform(-2, 2)),
                 angle=math.radians(float(rng.uniform(-4, 4))))
        for slot in range(SLOTS)
    ]
