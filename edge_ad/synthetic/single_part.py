"""One part at any angle on a belt or on a tray, rendered with its true pose, for everything that locates a part; and a data set
of such parts in MVTec AD's layout.

An image is wholly given by its seed and options. Seeds from ``FINAL_SEEDS`` on are for a final reading: nothing is
tuned on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.synthetic.line import write_png
from edge_ad.synthetic.part_defects import (
    KINDS,
    LOGICAL,
    STRUCTURAL,
    Defect,
    Kind,
    Surface,
    break_face,
    draw_damage,
    face_of,
    paint,
)
from edge_ad.synthetic.parts import Canvas, Pen, Points, Rgb, circle, moved, shaded
from edge_ad.synthetic.tray import sensor_noise

Damage: TypeAlias = Literal["none", "missing", "added"]
Ground: TypeAlias = Literal["belt", "tray"]
FINAL_SEEDS = 1 << 40

_GROUND: Rgb = (62, 70, 66)
_OVERSAMPLING = 2


@dataclass(frozen=True)
class PartOptions:
    """What is rendered: ``length`` is the part's long side as a share of the image's short side.

    ``damage`` takes or adds material over ``share`` of the outline, ``defect`` is one that inspection looks for.
    """

    kind: Kind = "bracket"
    size: tuple[int, int] = (480, 640)
    ground: Ground = "belt"
    damage: Damage = "none"
    defect: Defect = "none"
    share: float = 0.15
    length: float = 0.55
    max_angle: float = 180.0
    max_shift: float = 1.0
    mirrored: bool = False
    count: int = 1


@dataclass(frozen=True)
class PartImage:
    """A rendered image u8[H,W,3], the mask u8[H,W] of its part, and the true pose of the first part's origin.

    ``angle`` is in degrees, clockwise; ``extent`` is the part's long side in pixels; ``damaged`` masks the damage.
    """

    image: Canvas
    mask: Canvas
    x: float
    y: float
    angle: float
    extent: float
    damaged: Canvas = field(repr=False)


def render_part(seed: int, options: PartOptions | None = None) -> PartImage:
    """Return the image of part ``seed``."""
    options = options or PartOptions()
    rng = np.random.default_rng([seed, KINDS.index(options.kind)])
    broken = np.random.default_rng([seed, KINDS.index(options.kind), 1])
    high, wide = options.size
    canvas = _ground(rng, options)
    mask, damaged = (np.zeros((high * _OVERSAMPLING, wide * _OVERSAMPLING), np.uint8) for _ in range(2))
    extent = options.length * min(options.size)
    truths = _poses(rng, options, extent)
    for x, y, angle in truths:
        part = Part(canvas, mask, damaged, _matrix(x, y, angle, extent, mirrored=options.mirrored))
        _draw_part(rng, broken, options, part)
    small = cv2.resize(canvas, (wide, high), interpolation=cv2.INTER_AREA)
    masks = [np.where(cv2.resize(one, (wide, high), interpolation=cv2.INTER_AREA) >= 128, 255, 0).astype(np.uint8)
             for one in (mask, damaged)]
    x, y, angle = truths[0]
    return PartImage(_exposed(rng, np.asarray(small, np.uint8)), masks[0], x, y, math.degrees(angle), extent, masks[1])


@dataclass(frozen=True)
class Part:
    """The canvases that a part is drawn on and its f64[2,3] from units of the part to their pixels."""

    canvas: Canvas
    mask: Canvas
    damaged: Canvas
    matrix: NDArray[np.float64]


def silhouette(kind: Kind) -> Points:
    """Return the outline of a part, f64[N,2]; its long side measures 1."""
    if kind == "bracket":
        points = [(-50, -35), (50, -35), (50, -8), (-18, -8), (-18, 35), (-50, 35)]
    elif kind == "plate":
        points = [(-50, -30), (30, -30), (50, -12), (50, 30), (12, 30), (12, 18), (-6, 18), (-6, 30), (-50, 30)]
    elif kind == "lever":
        points = [(-50, -7), (22, -12), (30, -22), (46, -22), (50, 0), (46, 18), (24, 14), (-20, 7), (-22, 18), (-36, 18),
                  (-38, 6), (-50, 5)]
    else:
        bow = [(x, y) for x, y in moved(circle(18, 40), -32, 0) if x <= -17.2 or abs(y) > 7]
        bow.sort(key=lambda point: math.atan2(point[1], -(point[0] + 32)))
        teeth = [(44, -6), (44, -14), (38, -14), (38, -6), (32, -6), (32, -11), (24, -11), (24, -6)]
        points = [*bow, (-16, 6), (50, 6), (50, -6), *teeth, (-16, -6)]
    return np.array(points, np.float64) / 100


def _poses(rng: np.random.Generator, options: PartOptions, extent: float) -> list[tuple[float, float, float]]:
    """Return x, y in pixels and the angle in radians of each part; several lie side by side."""
    high, wide = options.size
    poses = []
    for index in range(options.count):
        room_x = max(0.0, wide / options.count / 2 - extent * 0.6) * options.max_shift
        room_y = max(0.0, high / 2 - extent * 0.6) * options.max_shift
        x = wide * (index + 0.5) / options.count + float(rng.uniform(-room_x, room_x))
        y = high / 2 + float(rng.uniform(-room_y, room_y))
        poses.append((x, y, math.radians(float(rng.uniform(-options.max_angle, options.max_angle)))))
    return poses


def _matrix(x: float, y: float, angle: float, extent: float, *, mirrored: bool) -> NDArray[np.float64]:
    factor = extent * _OVERSAMPLING
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    flip = -1.0 if mirrored else 1.0
    # The pen takes edges of pixels for whole numbers; poses take their centres.
    return np.array([[cos, -sin * flip, (x + 0.5) * _OVERSAMPLING], [sin, cos * flip, (y + 0.5) * _OVERSAMPLING]])


def _ground(rng: np.random.Generator, options: PartOptions) -> Canvas:
    """Return an empty belt with ribs' mottle, or a tray with walls and grooves that stand still."""
    high, wide = (side * _OVERSAMPLING for side in options.size)
    canvas = np.empty((high, wide, 3), np.uint8)
    canvas[:] = shaded(_GROUND, float(rng.uniform(0.9, 1.1)))
    if options.ground == "tray":
        pen = Pen(canvas, np.array([[wide, 0, wide / 2], [0, high, high / 2]], np.float64))
        for inset, tone in ((0.47, 1.9), (0.45, 1.3), (0.44, 1.0)):
            pen.polygon(np.array([(-inset, -inset), (inset, -inset), (inset, inset), (-inset, inset)]), shaded(_GROUND, tone))
        for x in (-0.3, -0.1, 0.1, 0.3):
            pen.line(np.array([(x, -0.4), (x, 0.4)]), shaded(_GROUND, 1.5), 0.012)
    coarse = rng.standard_normal((high // 16, wide // 16), dtype=np.float32) * 2
    mottle = cv2.resize(coarse, (wide, high), interpolation=cv2.INTER_LINEAR)[..., None]
    return np.asarray(np.clip(canvas + mottle, 0, 255), np.uint8)


def _draw_part(rng: np.random.Generator, broken: np.random.Generator, options: PartOptions, part: Part) -> None:
    outline, face = silhouette(options.kind), face_of(options.kind)
    shade = float(rng.uniform(0.93, 1.07))
    disc = _damage_disc(rng, outline, options)
    if options.defect in LOGICAL:
        face, shown = break_face(face, options.kind, options.defect, broken)
        for polygon in shown or [outline]:
            Pen(part.damaged, part.matrix).polygon(polygon, (255, 255, 255))
    base = shaded(face.colour, shade)
    ground = part.canvas.copy()
    shadow = Pen(part.canvas, part.matrix + np.array([[0, 0, 2], [0, 0, 3]]))
    shadow.polygon(outline, shaded(_GROUND, 0.8))
    if disc is not None and options.damage == "missing":
        shadow.polygon(disc, shaded(_GROUND, 0.97))
    paint(Pen(part.canvas, part.matrix), face, outline, base=base, ground=_GROUND)
    Pen(part.mask, part.matrix).polygon(outline, (255, 255, 255))
    if options.defect in STRUCTURAL:
        surface = Surface(part.canvas, part.mask, part.damaged, part.matrix, outline, face, base)
        draw_damage(surface, options.defect, broken, ground)
    if disc is not None:
        _draw_disc(options.damage, disc, part, ground, base=base)


def _draw_disc(damage: Damage, disc: Points, part: Part, ground: Canvas, *, base: Rgb) -> None:
    """Add or take the material of a disc."""
    Pen(part.damaged, part.matrix).polygon(disc, (255, 255, 255))
    if damage == "added":
        Pen(part.canvas, part.matrix).polygon(disc, shaded(base, 0.95))
        Pen(part.mask, part.matrix).polygon(disc, (255, 255, 255))
        return
    bitten = np.zeros_like(part.mask)
    Pen(bitten, part.matrix).polygon(disc, (255, 255, 255))
    part.canvas[bitten > 0] = ground[bitten > 0]
    part.mask[bitten > 0] = 0


def _damage_disc(rng: np.random.Generator, outline: Points, options: PartOptions) -> Points | None:
    """Return a disc on the outline that covers ``share`` of its length; for added material, half of that radius."""
    if options.damage == "none":
        return None
    along = _resampled(outline, 400)
    centre = along[int(rng.integers(len(along)))]
    distances = np.sort(np.linalg.norm(along - centre, axis=1))
    radius = float(distances[int(options.share * len(along))])
    return moved(circle(radius, 40), float(centre[0]), float(centre[1]))


def _resampled(outline: Points, count: int) -> Points:
    """Return ``count`` points evenly along a closed outline."""
    closed = np.vstack([outline, outline[:1]])
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0, lengths[-1], count, endpoint=False)
    return np.stack([np.interp(at, lengths, closed[:, axis]) for axis in (0, 1)], axis=1)


def _exposed(rng: np.random.Generator, drawing: Canvas) -> Canvas:
    """Return a drawing under a light that varies, with the sensor's noise."""
    high, wide = drawing.shape[:2]
    x, y = np.linspace(-1, 1, wide, dtype=np.float32)[None, :], np.linspace(-1, 1, high, dtype=np.float32)[:, None]
    gain, slope, heading = float(rng.uniform(0.88, 1.12)), float(rng.uniform(0, 0.1)), float(rng.uniform(0, 2 * math.pi))
    light = gain * (1 + slope * (math.cos(heading) * x + math.sin(heading) * y))
    side = max(high, wide)
    noise = sensor_noise(rng, side)[:high, :wide]
    blurred = cv2.GaussianBlur(drawing, (0, 0), 0.7)
    return np.asarray(np.clip(np.rint(blurred * light[..., None] + noise), 0, 255), np.uint8)


GOOD_FOLDERS = ("train", "test")
_CAPACITY = 100_000


def write_parts(
    out: Path, options: PartOptions | None = None, *, train: int = 200, test_good: int = 60, each: int = 12, seed: int = 0
) -> Path:
    """Write normal images and ``each`` images of every defect under ``out``/parts_<kind> and return that folder.

    Equal arguments give equal files. Raises BadInput where images are there already: old and new parts would mix.
    """
    options = options or PartOptions()
    root = out / f"parts_{options.kind}"
    if any(root.rglob("*.png")):
        raise BadInput(f"{root} already holds images: choose another folder or delete it first")
    for split, (folder, count) in enumerate(zip(GOOD_FOLDERS, (train, test_good), strict=True)):
        for index in range(count):
            part = render_part(_seed(seed, split, index), options)
            write_png(root / folder / "good" / f"{index:03d}.png", _bgr(part.image))
    for split, defect in enumerate((*LOGICAL, *STRUCTURAL), start=len(GOOD_FOLDERS)):
        for index in range(each):
            _write_defect(root, defect, index, replace(options, defect=defect), seed=_seed(seed, split, index))
    return root


def _seed(seed: int, split: int, index: int) -> int:
    if not 0 <= index < _CAPACITY or seed < 0:
        raise BadInput(f"image {index} with seed {seed}: choose a seed of 0 or more and up to {_CAPACITY:,} images a folder")
    return (seed * 100 + split) * _CAPACITY + index


def _write_defect(root: Path, defect: Defect, index: int, options: PartOptions, *, seed: int) -> None:
    part = render_part(seed, options)
    write_png(root / "test" / defect / f"{index:03d}.png", _bgr(part.image))
    write_png(root / "ground_truth" / defect / f"{index:03d}_mask.png", part.damaged)


def _bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[..., ::-1])
