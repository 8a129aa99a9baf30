"""Render a kit tray, good or with one defect, wholly given by its seed: table, tray, shadows, parts, damage, light, noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.synthetic import parts
from edge_ad.synthetic.defects import MARKS, RULE_BREAKERS, Broken, break_rule, draw_mark
from edge_ad.synthetic.parts import Canvas, Pen, Points, Rgb, moved, shaded
from edge_ad.synthetic.scene import COMPARTMENTS, PIN_Y, SLOTS, TRAY_HALF, Compartment, Scene, good_scene, slot_x


def light_field(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return the brightness of the light at every pixel and channel, f32[size,size,3], around 1.

    Gain, a slope in any direction, darker corners and a warmer or colder lamp vary from tray to tray.
    """
    gain = float(rng.uniform(0.86, 1.14))
    heading, slope = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.0, 0.10))
    corner, warmth = float(rng.uniform(0.0, 0.12)), float(rng.uniform(-0.05, 0.05))
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    field = gain * (1 + slope * (math.cos(heading) * x + math.sin(heading) * y) - corner * (x * x + y * y) / 2)
    lamp = np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32)
    return (field[..., None] * lamp).astype(np.float32)


def grain(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return the grain of the moulded plastic, f32[size,size,1], in grey levels around 0: mottle and fine grit."""
    coarse = rng.standard_normal((size // 8, size // 8), dtype=np.float32) * float(rng.uniform(1.5, 3.0))
    fine = rng.standard_normal((size // 2, size // 2), dtype=np.float32) * float(rng.uniform(1.0, 2.0))
    mottle = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    grit = cv2.resize(fine, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(mottle + grit, dtype=np.float32)[..., None]


def sensor_noise(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return the noise of one exposure, f32[size,size,3], in grey levels."""
    level = float(rng.uniform(1.2, 2.4))
    return rng.standard_normal((size, size, 3), dtype=np.float32) * level


def expose(drawing: Canvas, light: NDArray[np.float32], rough: NDArray[np.float32],
           noise: NDArray[np.float32]) -> Canvas:
    """Return the image of a drawing u8[H,W,3] under a light, with grain and noise, u8[H,W,3]."""
    image = (drawing + rough) * light + noise
    return np.asarray(np.clip(np.rint(image), 0, 255), dtype=np.uint8)


UNITS = 256
_TABLE: Rgb = (70, 78, 74)
_RIM: Rgb = (128, 134, 140)
_WALL: Rgb = (116, 122, 128)
_FLOOR: Rgb = (88, 95, 102)
_SLOT: Rgb = (58, 62, 68)

Mark = Callable[[Canvas, Canvas, NDArray[np.float64]], None]


def render_scene(scene: Scene, regions: list[Points], mark: Mark | None, size: int,
                 *,
                 surface: np.random.Generator, exposure: np.random.Generator) -> tuple[Canvas, Canvas]:
    """Return the image u8[size,size,3] of a scene and the mask u8[size,size] (0 or 255) of its defect.

    ``regions`` are polygons in tray units that belong to the mask; ``mark`` draws damage on the large canvas and its
    mask. Shapes are drawn at two to three times the size and averaged down, which smooths their edges.
    """
    large = size * (2 if size >= 192 else 3)
    matrix = scene.pose.matrix(large / UNITS, large)
    canvas = np.empty((large, large, 3), dtype=np.uint8)
    canvas[:] = shaded(_TABLE, float(surface.uniform(0.85, 1.15)))
    mask = np.zeros((large, large), dtype=np.uint8)
    pen = Pen(canvas, matrix)
    _draw_tray(pen, float(surface.uniform(0.92, 1.08)))
    _cast_shadows(canvas, scene, matrix)
    for part in scene.parts:
        parts.draw(pen, part)
    for region in regions:
        Pen(mask, matrix).polygon(region, (255, 255, 255))
    if mark is not None:
        mark(canvas, mask, matrix)
    drawing = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    light, rough = light_field(surface, size), grain(surface, size)
    image = expose(np.asarray(drawing, np.uint8), light, rough, sensor_noise(exposure, size))
    small = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    return image, np.where(np.asarray(small) >= 96, 255, 0).astype(np.uint8)


def _rectangle(box: Compartment, inset: float = 0.0) -> Points:
    left, top, right, bottom = box.left + inset, box.top + inset, box.right - inset, box.bottom - inset
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def _draw_tray(pen: Pen, tone: float) -> None:
    """Draw rim, walls, floors and slots of the empty tray."""
    body = Compartment(-TRAY_HALF, -TRAY_HALF, TRAY_HALF, TRAY_HALF)
    pen.polygon(moved(_rectangle(body, -2), 1.5, 2.5), shaded(_TABLE, 0.55))
    pen.polygon(_rectangle(body), shaded(_RIM, tone * 0.7))
    pen.polygon(_rectangle(body, 1.5), shaded(_RIM, tone))
    pen.polygon(_rectangle(body, 5), shaded(_WALL, tone))
    for box in COMPARTMENTS.values():
        pen.polygon(_rectangle(box), shaded(_FLOOR, tone * 0.62))
        # The upper and left walls throw a narrow shadow on the floor.
        floor = _rectangle(Compartment(box.left + 2.5, box.top + 3, box.right - 0.8, box.bottom - 0.8))
        pen.polygon(floor, shaded(_FLOOR, tone))
    for slot in range(SLOTS):
        x = slot_x(slot)
        groove = Compartment(x - 9, PIN_Y - 23, x + 9, PIN_Y + 23)
        pen.polygon(_rectangle(groove), shaded(_SLOT, tone * 0.75))
        pen.polygon(_rectangle(groove, 1.2), shaded(_SLOT, tone))


def _cast_shadows(canvas: Canvas, scene: Scene, matrix: NDArray[np.float64]) -> None:
    """Darken the floor, in place, to the lower right of every part."""
    half = canvas.shape[0] // 2
    shade = np.full((half, half), 255, dtype=np.uint8)
    pen = Pen(shade, matrix / 2)
    for part in scene.parts:
        pen.polygon(moved(parts.outline(part), 2.2, 2.8), (120, 120, 120))
    soft = cv2.blur(shade, (5, 5))
    wide = cv2.resize(soft, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(canvas, cv2.merge([wide, wide, wide]), dst=canvas, scale=1 / 255)


TrayKind = Literal["good", "logical", "structural"]
GOOD = "good"
LOGICAL: tuple[str, ...] = tuple(RULE_BREAKERS)
STRUCTURAL: tuple[str, ...] = tuple(MARKS)
SIZES = (64, 2048)

# Random streams of one seed. Since they are separate, a tray and its defective twin differ by the defect only.
_SCENE, _DEFECT, _SURFACE, _EXPOSURE = range(4)


@dataclass(frozen=True)
class Tray:
    """An image u8[size,size,3] RGB, its mask u8[size,size] (255 on the defect, else 0), its kind and its defect.

    A good tray has the defect ``"good"`` and an empty mask.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    kind: TrayKind
    defect: str


def kind_of(defect: str) -> TrayKind:
    """Return the kind of a defect name (``"good"`` included); BadInput for an unknown one."""
    if defect == GOOD:
        return "good"
    if defect in LOGICAL:
        return "logical"
    if defect in STRUCTURAL:
        return "structural"
    raise BadInput(f"unknown defect {defect!r}: choose one of {', '.join(LOGICAL + STRUCTURAL)}")


def tray_scene(seed: int, defect: str | None = None) -> Broken:
    """Return the scene of a tray and the polygons (tray units) of its logical defect, if it has one."""
    name = defect or GOOD
    scene = good_scene(_stream(seed, _SCENE))
    if kind_of(name) != "logical":
        return scene, []
    return break_rule(scene, name, _stream(seed, _DEFECT))


def render_tray(seed: int, defect: str | None = None, size: int = 256, exposure: int = 0) -> Tray:
    """Render the tray of ``seed`` (0 or more), good or with one defect of LOGICAL or STRUCTURAL.

    ``size`` is the side of the image, 64 to 2048 pixels. Images of the same tray with another ``exposure``
    differ by sensor noise only, as frames of a part that lies still do. BadInput for any other value.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise BadInput(f"tray size {size} is out of range: choose {SIZES[0]} to {SIZES[1]} pixels")
    if seed < 0 or exposure < 0:
        raise BadInput(f"seed {seed} and exposure {exposure} must not be negative: choose 0 or more")
    name = defect or GOOD
    kind = kind_of(name)
    scene, regions = tray_scene(seed, name)
    mark = _mark(scene, name, _stream(seed, _DEFECT)) if kind == "structural" else None
    surface, noise = _stream(seed, _SURFACE), np.random.default_rng([seed, _EXPOSURE, exposure])
    image, mask = render_scene(scene, regions, mark, size, surface=surface, exposure=noise)
    return Tray(image, mask, kind, name)


def _mark(scene: Scene, defect: str, rng: np.random.Generator) -> Mark:
    def draw(canvas: Canvas, mask: Canvas, matrix: NDArray[np.float64]) -> None:
        draw_mark(canvas, mask, scene, matrix, defect=defect, rng=rng)

    return draw


def _stream(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])
