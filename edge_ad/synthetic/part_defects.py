"""Defects of a single part: a hole or its mark is wrong (logical), or damage and dirt lie on it (structural)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.synthetic.parts import Canvas, Pen, Points, Rgb, circle, moved, shaded, turned

Kind: TypeAlias = Literal["bracket", "key", "plate", "lever"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Logical: TypeAlias = Literal["missing_hole", "extra_hole", "misplaced_hole", "misplaced_mark", "wrong_colour"]
Structural: TypeAlias = Literal["scratch", "dent", "stain", "chip", "burr"]
Defect: TypeAlias = Literal["none"] | Logical | Structural
LOGICAL: tuple[Logical, ...] = get_args(Logical)
STRUCTURAL: tuple[Structural, ...] = get_args(Structural)

Hole: TypeAlias = tuple[float, float, float]
_METAL: dict[Kind, Rgb] = {
    "bracket": (176, 180, 186), "key": (196, 160, 92), "plate": (150, 158, 172), "lever": (168, 96, 60),
}
_OTHER_METAL: dict[Kind, Rgb] = {
    "bracket": (190, 160, 108), "key": (172, 174, 180), "plate": (176, 140, 110), "lever": (150, 150, 160),
}
_HOLES: dict[Kind, tuple[Hole, ...]] = {
    "bracket": ((-0.34, 0.2, 0.07), (0.36, -0.21, 0.05)),
    "key": ((-0.34, 0.0, 0.08),),
    "plate": ((-0.36, -0.16, 0.06), (0.33, 0.12, 0.09)),
    "lever": ((0.38, -0.02, 0.07),),
}
# Where else a hole of 0.05 and a mark fit onto the face.
_FREE: dict[Kind, tuple[tuple[float, float], ...]] = {
    "bracket": ((0.1, -0.21), (-0.34, -0.02), (-0.36, -0.24)),
    "key": ((-0.05, 0.0), (0.3, 0.0), (0.42, 0.0)),
    "plate": ((0.1, -0.05), (-0.3, 0.12), (0.18, -0.12)),
    "lever": ((0.2, 0.0), (-0.3, 0.0), (-0.12, -0.01)),
}
_MARKS: dict[Kind, tuple[float, float]] = {"bracket": (-0.1, -0.22), "key": (0.1, 0.0), "plate": (-0.05, -0.1), "lever": (0.0, 0.0)}
_HOLE_RADIUS: dict[Kind, float] = {"bracket": 0.05, "key": 0.035, "plate": 0.05, "lever": 0.035}


@dataclass(frozen=True)
class Face:
    """What is on a part: its colour, its holes (x, y, radius), and its mark (x, y, angle), in units of its long side."""

    colour: Rgb
    holes: tuple[Hole, ...]
    mark: tuple[float, float, float]


def face_of(kind: Kind) -> Face:
    """Return the face of a good part."""
    return Face(_METAL[kind], _HOLES[kind], (*_MARKS[kind], 0.2))


def paint(pen: Pen, face: Face, outline: Points, *, base: Rgb, ground: Rgb) -> None:
    """Draw a part: a bevel, its face, holes that show the ground, and a stamped mark."""
    pen.polygon(outline, shaded(base, 0.7))
    middle = outline.mean(axis=0)
    pen.polygon((outline - middle) * 0.93 + middle, base)
    for x, y, radius in face.holes:
        pen.polygon(moved(circle(radius, 32), x, y), shaded(ground, 0.7))
    pen.polygon(_mark(face), shaded(base, 0.5))


def _mark(face: Face) -> Points:
    x, y, angle = face.mark
    return moved(turned(np.array([(-0.05, -0.02), (0.05, -0.02), (0.05, 0.0), (-0.05, 0.02)]), angle), x, y)


def break_face(face: Face, kind: Kind, defect: Logical, rng: np.random.Generator) -> tuple[Face, list[Points]]:
    """Return the face with one rule broken, and the polygons that make up the mask."""
    index = int(rng.integers(len(face.holes)))
    x, y, radius = face.holes[index]
    free_x, free_y = _FREE[kind][int(rng.integers(len(_FREE[kind])))]
    others = face.holes[:index] + face.holes[index + 1 :]
    gone, new = _disc(x, y, radius), (free_x, free_y, _HOLE_RADIUS[kind])
    if defect == "missing_hole":
        return replace(face, holes=others), [gone]
    if defect == "extra_hole":
        return replace(face, holes=(*face.holes, new)), [_disc(*new)]
    if defect == "misplaced_hole":
        return replace(face, holes=(*others, new)), [gone, _disc(*new)]
    if defect == "misplaced_mark":
        changed = replace(face, mark=(free_x, free_y, face.mark[2]))
        return changed, [_mark(face), _mark(changed)]
    return replace(face, colour=_OTHER_METAL[kind]), []


def _disc(x: float, y: float, radius: float) -> Points:
    return moved(circle(radius, 32), x, y)


@dataclass(frozen=True)
class Surface:
    """The canvases that damage is drawn on: image, mask of the part and mask of the damage, with f64[2,3] to their pixels."""

    canvas: Canvas
    mask: Canvas
    damaged: Canvas
    matrix: NDArray[np.float64]
    outline: Points
    face: Face
    base: Rgb

    def solid(self) -> Canvas:
        """Return the mask u8[H,W] of the part without its holes."""
        mask = self.mask.copy()
        for hole in self.face.holes:
            Pen(mask, self.matrix).polygon(_disc(*hole), (0, 0, 0))
        return mask

    def pen(self) -> Pen:
        """Return a pen for the image, in units of the part."""
        return Pen(self.canvas, self.matrix)

    def inside(self, rng: np.random.Generator, margin: float) -> Points:
        """Return a point of the face f64[2] at least ``margin`` from its outline and holes, or as far as there is."""
        contour = self.outline.astype(np.float32)
        low, high = self.outline.min(axis=0), self.outline.max(axis=0)
        points = rng.uniform(low, high, (200, 2))
        depths = [cv2.pointPolygonTest(contour, (float(x), float(y)), True) for x, y in points]
        for x, y, radius in self.face.holes:
            depths = np.minimum(depths, np.hypot(points[:, 0] - x, points[:, 1] - y) - radius).tolist()
        deep = [point for point, depth in zip(points, depths, strict=True) if depth >= margin]
        return np.asarray(deep[0] if deep else points[int(np.argmax(depths))])


def _scratch(surface: Surface, rng: np.random.Generator, _: Canvas) -> None:
    """A thin bright line with a dark edge, 0.08 to 0.25 of the part long."""
    length, bend = float(rng.uniform(0.08, 0.25)), float(rng.uniform(-0.03, 0.03))
    along = np.linspace(-0.5, 0.5, 16)
    path = turned(np.stack([along * length, bend * (along**2 - 1 / 12)], axis=1), _heading(rng)) + surface.inside(rng, 0.04)
    width = float(rng.uniform(0.006, 0.012))
    shadow, light = shaded(surface.base, 0.45), shaded(surface.base, 1.5)
    _on_part(surface, [(moved(path, 0.004, 0.005), shadow, width), (path, light, width * 0.7)])


def _on_part(surface: Surface, strokes: list[tuple[Points, Rgb, float]]) -> None:
    drawn, damage = surface.canvas.copy(), np.zeros_like(surface.mask)
    for path, colour, width in strokes:
        Pen(drawn, surface.matrix).line(path, colour, width)
        Pen(damage, surface.matrix).line(path, (255, 255, 255), width * 1.4)
    damage[surface.solid() == 0] = 0
    surface.canvas[damage > 0] = drawn[damage > 0]
    surface.damaged[damage > 0] = 255


def _blend(surface: Surface, shape: Points, colour: Rgb, opacity: float, *, softness: float) -> None:
    """Lay a colour over a shape of the part, with soft edges."""
    cover = np.zeros_like(surface.mask)
    Pen(cover, surface.matrix).polygon(shape, (255, 255, 255))
    cover[surface.solid() == 0] = 0
    soft = max(0.8, softness * surface.pen().pixels_per_unit)
    alpha = cv2.GaussianBlur(cover, (0, 0), soft).astype(np.float32)[..., None] / 255 * opacity
    surface.canvas[:] = np.rint(surface.canvas * (1 - alpha) + np.array(colour, np.float32) * alpha).astype(np.uint8)
    surface.damaged[cover > 0] = 255


def _dent(surface: Surface, rng: np.random.Generator, _: Canvas) -> None:
    """A hollow of 0.02 to 0.04 radius: one side is bright, the other in shadow."""
    centre, radius = surface.inside(rng, 0.04), float(rng.uniform(0.02, 0.04))
    towards = np.array([[math.cos(0.8), math.sin(0.8)]]) * radius * 0.4
    _blend(surface, circle(radius, 24) + centre - towards, shaded(surface.base, 0.5), 0.8, softness=0.008)
    _blend(surface, circle(radius * 0.7, 24) + centre + towards, shaded(surface.base, 1.4), 0.8, softness=0.008)


def _stain(surface: Surface, rng: np.random.Generator, _: Canvas) -> None:
    """A see-through blot of 0.025 to 0.06 radius."""
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    waves = [float(rng.uniform(0, 0.15)) * np.cos(wave * angles + _heading(rng)) for wave in (2, 3, 5)]
    radii = float(rng.uniform(0.025, 0.06)) * (1 + np.sum(waves, axis=0))
    blot = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1) + surface.inside(rng, 0.03)
    _blend(surface, blot, (52, 40, 30), float(rng.uniform(0.35, 0.6)), softness=0.004)


def _edge_point(surface: Surface, rng: np.random.Generator) -> Points:
    index = int(rng.integers(len(surface.outline)))
    here, there = surface.outline[index], surface.outline[(index + 1) % len(surface.outline)]
    return np.asarray(here + float(rng.uniform(0.2, 0.8)) * (there - here))


def _chip(surface: Surface, rng: np.random.Generator, ground: Canvas) -> None:
    """A bite of 0.015 to 0.035 radius out of the outline; ``ground`` shows."""
    bite, bitten = circle(float(rng.uniform(0.015, 0.035)), 9) + _edge_point(surface, rng), np.zeros_like(surface.mask)
    Pen(bitten, surface.matrix).polygon(bite, (255, 255, 255))
    bitten[surface.mask == 0] = 0
    surface.canvas[bitten > 0] = ground[bitten > 0]
    surface.damaged[bitten > 0], surface.mask[bitten > 0] = 255, 0


def _burr(surface: Surface, rng: np.random.Generator, _: Canvas) -> None:
    """A ragged piece of material of 0.012 to 0.03 radius that stands out of the outline."""
    radii = float(rng.uniform(0.012, 0.03)) * rng.uniform(0.6, 1.4, 9)
    shape = circle(1.0, 9) * radii[:, None] + _edge_point(surface, rng)
    drawn = np.zeros_like(surface.mask)
    Pen(drawn, surface.matrix).polygon(shape, (255, 255, 255))
    drawn[surface.mask > 0] = 0
    surface.canvas[drawn > 0] = shaded(surface.base, 0.9)
    surface.damaged[drawn > 0], surface.mask[drawn > 0] = 255, 255


def _heading(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * math.pi))


_DAMAGES: dict[Structural, Callable[[Surface, np.random.Generator, Canvas], None]] = {
    "scratch": _scratch, "dent": _dent, "stain": _stain, "chip": _chip, "burr": _burr,
}


def draw_damage(surface: Surface, defect: Structural, rng: np.random.Generator, ground: Canvas) -> None:
    """Draw a structural defect onto a part; ``ground`` u8[H,W,3] is what lies under the part."""
    _DAMAGES[defect](surface, rng, ground)
