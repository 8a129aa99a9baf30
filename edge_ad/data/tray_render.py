"""From a scene to a picture: table, tray, shadows, parts, damage, light."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.data import tray_light, tray_parts
from edge_ad.data.tray_pen import Canvas, Pen, Points, Rgb, moved, shaded
from edge_ad.data.tray_scene import COMPARTMENTS, PIN_Y, SLOTS, TRAY_HALF, Compartment, Scene, slot_x

UNITS = 256
_TABLE: Rgb = (70, 78, 74)
_RIM: Rgb = (128, 134, 140)
_WALL: Rgb = (116, 122, 128)
_FLOOR: Rgb = (88, 95, 102)
_SLOT: Rgb = (58, 62, 68)

Mark = Callable[[Canvas, Canvas, NDArray[np.float64]], None]


def render_scene(scene: Scene, regions: list[Points], mark: Mark | None, size: int,
                 surface: np.random.Generator, exposure: np.random.Generator) -> tuple[Canvas, Canvas]:
    """Return the picture u8[size,size,3] of a scene and the mask u8[size,size] (0 or 255) of its defect.

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
        tray_parts.draw(pen, part)
    for region in regions:
        Pen(mask, matrix).polygon(region, (255, 255, 255))
    if mark is not None:
        mark(canvas, mask, matrix)
    drawing = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    light, rough = tray_light.light_field(surface, size), tray_light.grain(surface, size)
    image = tray_light.expose(np.asarray(drawing, np.uint8), light, rough, tray_light.sensor_noise(exposure, size))
    small = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    return image, np.where(np.asarray(small) >= 96, 255, 0).astype(np.uint8)


def _rectangle(room: Compartment, inset: float = 0.0) -> Points:
    left, top, right, bottom = room.left + inset, room.top + inset, room.right - inset, room.bottom - inset
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def _draw_tray(pen: Pen, tone: float) -> None:
    """Draw rim, walls, floors and slots of the empty tray."""
    body = Compartment(-TRAY_HALF, -TRAY_HALF, TRAY_HALF, TRAY_HALF)
    pen.polygon(moved(_rectangle(body, -2), 1.5, 2.5), shaded(_TABLE, 0.55))
    pen.polygon(_rectangle(body), shaded(_RIM, tone * 0.7))
    pen.polygon(_rectangle(body, 1.5), shaded(_RIM, tone))
    pen.polygon(_rectangle(body, 5), shaded(_WALL, tone))
    for room in COMPARTMENTS.values():
        pen.polygon(_rectangle(room), shaded(_FLOOR, tone * 0.62))
        # The upper and left walls throw a narrow shadow on the floor.
        floor = _rectangle(Compartment(room.left + 2.5, room.top + 3, room.right - 0.8, room.bottom - 0.8))
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
        pen.polygon(moved(tray_parts.outline(part), 2.2, 2.8), (120, 120, 120))
    soft = cv2.blur(shade, (5, 5))
    wide = cv2.resize(soft, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(canvas, cv2.merge([wide, wide, wide]), dst=canvas, scale=1 / 255)
