"""Damage to a part: foreign patches, scratches, stains, bites and burrs at its outline, blur, deformation, a changed colour."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.anomaly_drawing import (
    Alpha,
    Box,
    Drawn,
    Scene,
    blend,
    blob,
    box_inside,
    dome,
    feather,
    inpainted,
    on_canvas,
    on_part,
    place,
    place_apart,
    random_shape,
    random_size,
)
from edge_ad.data.images import Image, resize
from edge_ad.data.logical_anomalies import shifted
from edge_ad.data.part_regions import Shape

SCRATCH_WIDTH = (1.0, 3.0)  # pixels of the input
SCRATCH_CONTRAST = (15.0, 90.0)  # grey levels
BLUR = (1.5, 4.0)  # deviation in pixels
BEND = (0.15, 0.45)  # of a region's half size
TINT = (6.0, 35.0)  # distance in CIE L*a*b*
SOFT_EDGE = 0.02  # of the part's side: the width of an edge that shows neither part nor background
MIN_BEND_AREA, MIN_BLUR_AREA = 0.004, 0.004  # shares of the part below which neither can be seen


def cutpaste(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Paste a patch of another image with hard edges and changed colour."""
    result = scene.image.copy()
    other = resize(scene.others[int(rng.integers(len(scene.others)))], scene.size)
    target = place(scene, random_size(scene, rng), rng)
    source = place_apart(Scene(other, (), scene.part), target, rng)
    patch = other[source.window].astype(np.float32) * rng.uniform(0.8, 1.2, 3) + rng.uniform(-15, 15)
    alpha = on_part(scene, target, random_shape(target, rng)).astype(np.float32)
    blend(result, np.clip(patch, 0, 255).astype(np.uint8), target, alpha)
    return result, on_canvas(scene, [(target, alpha)])


def scratch(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Draw a thin line, straight or curved, lighter or darker than what it crosses."""
    width = float(rng.uniform(*SCRATCH_WIDTH))
    side = np.sqrt(scene.area)
    length = 6.0 * max(1.0, 0.8 * side / 6.0) ** float(rng.random())
    drawn = _line(scene, length, width, rng)
    alpha = np.asarray(drawn / np.float32(255), dtype=np.float32) * scene.part
    under = scene.image[alpha > 0.5]
    bright = float(under.mean()) if len(under) else 128.0
    change = float(rng.uniform(*SCRATCH_CONTRAST)) * (1 if rng.random() * 255 > bright else -1)
    changed = np.clip(np.rint(scene.image + alpha[..., None] * change), 0, 255)
    return changed.astype(np.uint8), alpha


def _line(scene: Scene, length: float, width: float, rng: np.random.Generator) -> Image:
    """Return a smooth line u8[H,W] through a random place of the part: straight in one of three, else with one curvature."""
    middle = place(scene, (1, 1), rng)
    angle = float(rng.uniform(0, 2 * np.pi))
    bend = 0.0 if rng.random() < 1 / 3 else float(rng.normal(0, 1.2))
    along = np.linspace(-0.5, 0.5, max(4, round(length)))
    turned = angle + bend * along + np.cumsum(rng.normal(0, 0.02, len(along)))
    steps = np.stack([np.cos(turned), np.sin(turned)], axis=1) * length / len(along)
    path = np.cumsum(steps, axis=0)
    path += np.array([middle.left, middle.top]) - path[len(path) // 2]
    # Drawn at four times the size and averaged: a line of 1.5 pixels is 1.5 pixels wide.
    fine = np.zeros((4 * scene.size[0], 4 * scene.size[1]), np.uint8)
    cv2.polylines(fine, [np.rint(4 * path).astype(np.int32)], False, 255, max(4, round(4 * width)))
    return resize(fine, scene.size)


def stain(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Lay a see-through irregular blob of one colour on the part."""
    box = place(scene, random_size(scene, rng), rng)
    alpha = feather(on_part(scene, box, blob(box.height, box.width, rng)))
    light = float(scene.image[box.window].mean())
    tint = rng.uniform(20, 110, 3) if rng.random() * 255 < light else rng.uniform(120, 230, 3)
    if _is_grey(scene.image):
        tint[:] = tint.mean()
    result = scene.image.copy()
    patch = np.broadcast_to(tint, (box.height, box.width, 3)).astype(np.uint8)
    blend(result, patch, box, alpha * np.float32(rng.uniform(0.3, 0.85)))
    return result, on_canvas(scene, [(box, alpha)])


def bite(scene: Scene, rng: np.random.Generator) -> Drawn | None:
    """Take a piece out of the part's outline, so that the background shows; None where the part has no outline."""
    placed = _at_outline(scene, rng, inward=0.15)
    if placed is None:
        return None
    box, shape = placed
    shape = on_part(scene, box, shape)
    # The hole of the inpainting is the whole part with its soft edge: nothing but background may be carried inwards.
    grown = cv2.dilate(scene.part.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    behind = inpainted(scene.image, grown, box, 8 + max(box.height, box.width))
    result = scene.image.copy()
    alpha = _soft(shape)
    blend(result, behind, box, alpha)
    return result, on_canvas(scene, [(box, alpha)])


def burr(scene: Scene, rng: np.random.Generator) -> Drawn | None:
    """Let material of the part stand out beyond its outline; None where the part has no outline."""
    placed = _at_outline(scene, rng, inward=-0.15)
    if placed is None:
        return None
    box, shape = placed
    # The background and the part's soft edge are the hole: what is carried outwards is the part's own surface.
    reach = max(2, round(SOFT_EDGE * np.sqrt(scene.area)))
    hole = cv2.erode(scene.part.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) == 0
    shape = shape * hole[box.window].astype(np.uint8)
    outside = inpainted(scene.image, hole, box, 8 + reach + max(box.height, box.width))
    rough = outside + rng.normal(0, 4, outside.shape[:2])[..., None] + float(rng.uniform(-12, 12))
    result = scene.image.copy()
    alpha = _soft(shape)
    blend(result, np.clip(rough, 0, 255).astype(np.uint8), box, alpha)
    return result, on_canvas(scene, [(box, alpha)])


def _at_outline(scene: Scene, rng: np.random.Generator, inward: float) -> tuple[Box, Shape] | None:
    """Return a blob whose middle lies ``inward`` of its size within a random point of the outline."""
    points, normals = scene.outline
    if not len(points):
        return None
    index = int(rng.integers(len(points)))
    # About half of the blob lies on the wrong side of the outline.
    height, width = random_size(scene, rng, 0.002, 0.08)
    row, column = points[index] - normals[index] * inward * np.array([height, width])
    box = box_inside(scene, round(row - height / 2), round(column - width / 2), (height, width))
    return box, blob(height, width, rng)


def _soft(shape: Shape) -> Alpha:
    """Return a shape with an edge as soft as a lens makes it, f32[h,w], within the shape."""
    return np.asarray(cv2.GaussianBlur(shape.astype(np.float32), (0, 0), 0.7) * shape, np.float32)


def blur(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Take the sharpness of a region away."""
    box = place(scene, random_size(scene, rng, MIN_BLUR_AREA), rng)
    alpha = feather(on_part(scene, box, blob(box.height, box.width, rng)))
    calm = cv2.GaussianBlur(scene.image, (0, 0), float(rng.uniform(*BLUR)))
    result = scene.image.copy()
    blend(result, np.asarray(calm, np.uint8)[box.window], box, alpha)
    return result, on_canvas(scene, [(box, alpha)])


def deform(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Push, pinch or bulge a region smoothly."""
    height, width = random_size(scene, rng, MIN_BEND_AREA, 0.12)
    box = place(scene, (max(6, min(height, scene.size[0])), max(6, min(width, scene.size[1]))), rng)
    weight = dome(box.height, box.width)
    amount = float(rng.uniform(*BEND))
    rows, columns = _grid(box)
    if rng.random() < 0.6:
        angle = float(rng.uniform(0, 2 * np.pi))
        reach = max(1.5, amount * min(box.height, box.width) / 2)
        across, down = weight * np.cos(angle) * reach, weight * np.sin(angle) * reach
    else:
        sign = 1.5 if rng.random() < 0.5 else -1.5
        middle = (box.left + (box.width - 1) / 2, box.top + (box.height - 1) / 2)
        across, down = sign * amount * weight * (columns - middle[0]), sign * amount * weight * (rows - middle[1])
    maps = ((columns - across).astype(np.float32), (rows - down).astype(np.float32))
    moved: Any = cv2.remap(scene.image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    changed = np.asarray(weight > 0, np.float32)
    result = scene.image.copy()
    blend(result, np.asarray(moved, np.uint8), box, changed)
    return result, on_canvas(scene, [(box, changed)])


def _grid(box: Box) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return row and column of every pixel of a box, f64[h,w] each."""
    rows = np.arange(box.top, box.top + box.height, dtype=np.float64)
    columns = np.arange(box.left, box.left + box.width, dtype=np.float64)
    down, across = np.meshgrid(rows, columns, indexing="ij")
    return down, across


def tint(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Shift the colour of a component or of a region with a soft edge; of a grey image its brightness."""
    alpha = np.zeros(scene.size, np.float32)
    if scene.components and rng.random() < 0.5:
        window, shape = scene.random_component(rng)
        alpha[window] = shape
    else:
        box = place(scene, random_size(scene, rng), rng)
        alpha[box.window] = blob(box.height, box.width, rng)
    soft = cv2.GaussianBlur(alpha, (0, 0), max(0.8, 0.1 * np.sqrt(alpha.sum()))) * scene.part
    step = rng.normal(0, 1, 3)
    if _is_grey(scene.image):
        step[1:] = 0.0
    step *= np.exp(rng.uniform(*np.log(TINT))) / max(1e-6, float(np.linalg.norm(step)))
    return shifted(scene.image, np.asarray(soft, np.float32), step.astype(np.float32))


def _is_grey(image: Image) -> bool:
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())
