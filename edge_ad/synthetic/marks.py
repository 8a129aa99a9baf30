"""Structural anomalies: damage and dirt drawn onto a finished tray, with the region it covers."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.synthetic.drawing import Canvas, Pen, Points, Rgb, circle, moved, turned
from edge_ad.synthetic.parts import outline
from edge_ad.synthetic.scene import TRAY_HALF, Scene

_INK: Rgb = (255, 255, 255)
_INSIDE = TRAY_HALF - 4


def draw_mark(canvas: Canvas, mask: Canvas, scene: Scene, matrix: NDArray[np.float64], defect: str,
              rng: np.random.Generator) -> None:
    """Draw one structural defect on ``canvas`` u8[H,W,3] and on ``mask`` u8[H,W] (255), both in place."""
    parts = np.vstack([_edge(outline(part)) for part in scene.parts])
    MARKS[defect](Pen(canvas, matrix), Pen(mask, matrix), parts, rng)


def _edge(corners: Points) -> Points:
    """Return points all along the edge of a polygon, and its middle."""
    steps = (np.arange(4) / 4)[:, None, None]
    along = corners + steps * (np.roll(corners, -1, axis=0) - corners)
    return np.vstack([along.reshape(-1, 2), corners.mean(axis=0)])


def _clearest(paths: list[Points], parts: Points) -> Points:
    """Return the path on the tray that keeps the farthest from all parts: the tray is damaged, not what lies on it."""
    return max(paths, key=lambda path: _clearance(path, parts))


def _clearance(path: Points, parts: Points) -> float:
    if np.abs(path).max() > _INSIDE:
        return -1.0
    gaps = np.sqrt(((path[:, None] - parts[None]) ** 2).sum(axis=2)).min(axis=1)
    return float(np.minimum(gaps, 20).mean())


def _scratch(pen: Pen, mask: Pen, _: Points, rng: np.random.Generator) -> None:
    """A long, slightly bent bright groove with a dark lip."""
    length, angle = float(rng.uniform(70, 120)), float(rng.uniform(0, math.pi))
    t = np.linspace(-0.5, 0.5, 24)
    bend = float(rng.uniform(-14, 14))
    path = np.stack([t * length, bend * (t * t - 1 / 12)], axis=1)
    path[:, 1] += np.cumsum(rng.normal(0, 0.25, len(t)))
    path = turned(path, angle) + rng.uniform(-45, 45, 2)
    width = float(rng.uniform(2.4, 3.4))
    pen.line(moved(path, 0.9, 1.1), (34, 34, 36), width)
    pen.line(path, (208, 210, 212), width * 0.75)
    mask.line(moved(path, 0.4, 0.5), _INK, width + 1.2)


def _crack(pen: Pen, mask: Pen, parts: Points, rng: np.random.Generator) -> None:
    """A jagged dark split with branches."""
    steps = int(rng.integers(8, 12))
    trunk = _clearest([_jagged(rng, rng.uniform(-90, 90, 2), _heading(rng), steps, 9.0) for _ in range(24)], parts)
    along = math.atan2(trunk[-1, 1] - trunk[0, 1], trunk[-1, 0] - trunk[0, 0])
    twigs = [
        np.clip(_jagged(rng, trunk[node], along + side * float(rng.uniform(0.7, 1.3)), 4, 6.0), -_INSIDE, _INSIDE)
        for node, side in ((2, 1), (4, -1), (6, 1))
    ]
    for path, width in ((trunk, 3.4), *((twig, 2.2) for twig in twigs)):
        pen.line(moved(path, 1.1, 1.3), (176, 178, 180), width * 0.8)
        pen.line(path, (32, 31, 32), width)
        mask.line(moved(path, 0.5, 0.6), _INK, width + 1.4)


def _heading(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * math.pi))


def _jagged(rng: np.random.Generator, start: Points, heading: float, steps: int, stride: float) -> Points:
    """Return a zigzag walk, f64[steps+1,2]."""
    turns = heading + rng.uniform(-0.75, 0.75, steps)
    strides = stride * rng.uniform(0.6, 1.2, (steps, 1)) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.vstack([start, start + np.cumsum(strides, axis=0)])


def _blob(rng: np.random.Generator, radius: float) -> Points:
    """Return a smooth irregular outline around the origin."""
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    radii = np.full(len(angles), radius)
    for wave in (2, 3, 4, 5):
        radii += radius * float(rng.uniform(0.0, 0.16)) * np.cos(wave * angles + _heading(rng))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _stain(pen: Pen, mask: Pen, _: Points, rng: np.random.Generator) -> None:
    """A spill of oil: a dark, see-through blob with a darker rim and a few drops."""
    centre = rng.uniform(-75, 75, 2)
    shapes = [_blob(rng, float(rng.uniform(15, 21))) + centre]
    for _drop in range(int(rng.integers(1, 4))):
        away = turned(np.array([[float(rng.uniform(24, 32)), 0.0]]), _heading(rng))
        shapes.append(_blob(rng, float(rng.uniform(3, 5))) + centre + away)
    cover = np.zeros(pen.canvas.shape[:2], dtype=np.uint8)
    film = Pen(cover, pen.matrix)
    for shape in shapes:
        film.polygon(shape, (190, 190, 190))
        film.line(np.vstack([shape, shape[:1]]), (225, 225, 225), 1.6)
        mask.polygon(shape, _INK)
    _blend(pen.canvas, cover, (40, 35, 30))


def _dent(pen: Pen, mask: Pen, parts: Points, rng: np.random.Generator) -> None:
    """A hollow: one side catches the light, the other lies in shadow."""
    centre = _clearest([rng.uniform(-88, 88, (1, 2)) for _ in range(12)], parts)[0]
    radius = float(rng.uniform(13, 18))
    rim = turned(circle(radius, 36) * (1.0, float(rng.uniform(0.75, 1.0))), _heading(rng)) + centre
    light = float(rng.uniform(-0.6, 0.6)) + math.pi / 4
    towards = np.array([math.cos(light), math.sin(light)])
    for factor, side in (((20, 20, 22), -1), ((222, 224, 228), 1)):
        crescent = np.zeros(pen.canvas.shape[:2], dtype=np.uint8)
        moon = Pen(crescent, pen.matrix)
        moon.polygon(rim, (215, 215, 215))
        moon.polygon((rim - centre) * 0.92 + centre - side * 0.42 * radius * towards, (0, 0, 0))
        soft = max(1.0, 1.2 * pen.pixels_per_unit)
        _blend(pen.canvas, cv2.GaussianBlur(crescent, (0, 0), soft).astype(np.uint8), factor)
    mask.polygon(rim, _INK)


def _blend(canvas: Canvas, cover: Canvas, colour: Rgb) -> None:
    """Lay ``colour`` over the canvas in place, as opaque as ``cover`` u8[H,W] says."""
    rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
    if not len(rows):
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = cover[window][..., None].astype(np.float32) / 255
    mixed = canvas[window] * (1 - alpha) + np.array(colour, dtype=np.float32) * alpha
    canvas[window] = np.rint(mixed).astype(np.uint8)


MARKS: dict[str, Callable[[Pen, Pen, Points, np.random.Generator], None]] = {
    "scratch": _scratch,
    "stain": _stain,
    "crack": _crack,
    "dent": _dent,
}
