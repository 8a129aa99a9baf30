"""Wrong arrangements of intact things: removed, missing, added, moved, exchanged, of another image or another colour."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.anomaly_drawing import (
    Alpha,
    Box,
    Drawn,
    Scene,
    background,
    blend,
    box_inside,
    feather,
    on_canvas,
    on_part,
    place,
    place_apart,
    random_shape,
    random_size,
)
from edge_ad.data.images import Image, resize
from edge_ad.data.part_regions import Mask, Shape


def remove(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Cover a region with its surroundings or with a calm piece of the image."""
    result = scene.image.copy()
    box = place(scene, random_size(scene, rng), rng)
    return result, on_canvas(scene, [(box, _erase(result, box, on_part(scene, box, random_shape(box, rng)), rng))])


def swap(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Exchange two regions."""
    image, result = scene.image, scene.image.copy()
    first = place(scene, random_size(scene, rng), rng)
    second = place_apart(scene, first, rng)
    shape = random_shape(first, rng)
    here, there = feather(on_part(scene, first, shape)), feather(on_part(scene, second, shape))
    blend(result, image[second.window], first, here)
    blend(result, image[first.window], second, there)
    return result, on_canvas(scene, [(first, here), (second, there)])


def replace(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Take a region from another image: of several that which differs most."""
    result = scene.image.copy()
    box = place(scene, random_size(scene, rng, 0.01, 0.2), rng)
    chosen = rng.choice(len(scene.others), min(6, len(scene.others)), replace=False)
    patches = [resize(scene.others[int(index)], scene.size)[box.window] for index in chosen]
    here = scene.image[box.window].astype(np.float32)
    patch = max(patches, key=lambda candidate: float(np.abs(candidate.astype(np.float32) - here).mean()))
    alpha = feather(on_part(scene, box, random_shape(box, rng)))
    blend(result, patch, box, alpha)
    return result, on_canvas(scene, [(box, alpha)])


def duplicate(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Show a region a second time elsewhere."""
    result = scene.image.copy()
    source = place(scene, random_size(scene, rng), rng)
    target = place_apart(scene, source, rng)
    alpha = feather(on_part(scene, target, random_shape(target, rng)))
    blend(result, scene.image[source.window], target, alpha)
    return result, on_canvas(scene, [(target, alpha)])


def shift(scene: Scene, rng: np.random.Generator) -> Drawn:
    """Move a region and cover its old place."""
    result = scene.image.copy()
    source = place(scene, random_size(scene, rng), rng)
    angle, reach = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.3, 1.2))
    top = round(source.top + np.sin(angle) * reach * source.height)
    left = round(source.left + np.cos(angle) * reach * source.width)
    target = box_inside(scene, top, left, (source.height, source.width))
    shape = random_shape(source, rng)
    erased = _erase(result, source, on_part(scene, source, shape), rng)
    alpha = feather(on_part(scene, target, shape))
    blend(result, scene.image[source.window], target, alpha)
    return result, on_canvas(scene, [(source, erased), (target, alpha)])


def _erase(target: Image, box: Box, shape: Shape, rng: np.random.Generator) -> Alpha:
    alpha = feather(shape)
    patch = background(target, box, shape) if rng.random() < 0.7 else _quiet_patch(target, box, rng)
    blend(target, patch, box, alpha)
    return alpha


def _quiet_patch(image: Image, box: Box, rng: np.random.Generator) -> Image:
    """Return a patch u8[h,w,3] of the box's size that is calm and like the surroundings of the box: a piece of
    background.
    """
    pad = max(2, min(box.height, box.width) // 4)
    around = image[max(0, box.top - pad) : box.top + box.height + pad, max(0, box.left - pad) : box.left + box.width + pad]
    wanted = np.median(around.reshape(-1, 3), axis=0)
    tops = rng.integers(0, image.shape[0] - box.height + 1, 24)
    lefts = rng.integers(0, image.shape[1] - box.width + 1, 24)
    patches = [image[Box(int(t), int(left), box.height, box.width).window] for t, left in zip(tops, lefts, strict=True)]

    def unlike(patch: Image) -> float:
        pixels = patch.reshape(-1, 3)
        return float(pixels.std(axis=0).sum() + np.abs(pixels.mean(axis=0) - wanted).sum())

    return min(patches, key=unlike)


def missing(scene: Scene, rng: np.random.Generator) -> Drawn | None:
    """Take a component away; None where the part has none."""
    component = _component(scene, rng)
    if component is None:
        return None
    result = scene.image.copy()
    box, alpha = _take_away(result, *component)
    return result, on_canvas(scene, [(box, alpha)])


def added(scene: Scene, rng: np.random.Generator) -> Drawn | None:
    """Show a component once more elsewhere on the part; None where the part has none."""
    component = _component(scene, rng)
    if component is None:
        return None
    result = scene.image.copy()
    source, shape = component
    target = _free_place(scene, source, rng)
    return result, on_canvas(scene, [(target, _put(result, scene, source, target, shape=shape))])


def displaced(scene: Scene, rng: np.random.Generator) -> Drawn | None:
    """Move a component by 0.3 to 1.5 of its size; None where the part has none."""
    component = _component(scene, rng)
    if component is None:
        return None
    result = scene.image.copy()
    source, shape = component
    angle, reach = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.3, 1.5)) * max(source.height, source.width)
    top, left = round(source.top + np.sin(angle) * reach), round(source.left + np.cos(angle) * reach)
    target = box_inside(scene, top, left, (source.height, source.width))
    erased, alpha = _take_away(result, source, shape)
    return result, on_canvas(scene, [(erased, alpha), (target, _put(result, scene, source, target, shape=shape))])


def _component(scene: Scene, rng: np.random.Generator) -> tuple[Box, Shape] | None:
    """Return the box and the shape of a random component with its soft edge, a pixel or two around it."""
    if not scene.components:
        return None
    (rows, columns), shape = scene.random_component(rng)
    edge = max(2, round(0.15 * np.sqrt(shape.sum())))
    top, left = max(0, rows.start - edge), max(0, columns.start - edge)
    bottom, right = min(scene.size[0], rows.stop + edge), min(scene.size[1], columns.stop + edge)
    around = np.zeros((bottom - top, right - left), np.uint8)
    around[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = shape
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * edge + 1, 2 * edge + 1))
    box = Box(top, left, bottom - top, right - left)
    return box, on_part(scene, box, np.asarray(cv2.dilate(around, kernel), np.uint8))


def _free_place(scene: Scene, box: Box, rng: np.random.Generator) -> Box:
    """Return a box of the same size that lies on the part and on no component, if that can be found in 12 draws."""
    taken = ~scene.part
    for window, shape in scene.components:
        taken[window] |= shape > 0
    candidates = [place(scene, (box.height, box.width), rng) for _ in range(12)]
    free = [candidate for candidate in candidates if not taken[candidate.window].any()]
    return free[0] if free else place_apart(scene, box, rng)


def _take_away(target: Image, box: Box, shape: Shape) -> tuple[Box, Alpha]:
    alpha = feather(shape)
    blend(target, background(target, box, shape), box, alpha)
    return box, alpha


def _put(target: Image, scene: Scene, source: Box, box: Box, *, shape: Shape) -> Alpha:
    """Lay a component of the normal image into a box of ``target``, in the light of its new surroundings."""
    alpha = feather(on_part(scene, box, shape))
    rim = (shape > 0) & (cv2.erode(shape, np.ones((3, 3), np.uint8), borderValue=0) == 0)
    step = np.zeros(3)
    if rim.any():
        step = np.median(target[box.window][rim].astype(np.float64) - scene.image[source.window][rim], axis=0)
    patch = np.clip(scene.image[source.window] + step, 0, 255).astype(np.uint8)
    blend(target, patch, box, alpha)
    return alpha


COLOURS = 5
MIN_COLOUR_AREA, MAX_COLOUR_AREA = 0.015, 0.5  # shares of the image that an area of one colour may have
MIN_CHANGE = 12.0  # distance in CIE L*a*b*: clearly another colour
MAX_SPREAD = 12.0  # of the other image's colour within the area; above it the area is not one thing there
MIN_CORE = 12  # cells of the small image

Float = npt.NDArray[np.float32]


def recolour(scene: Scene, rng: np.random.Generator) -> Drawn | None:
    """Give one coloured area the colour that it has in another image: a wrong combination without a seam.

    Areas are connected and of one of five colours (k-means in L*a*b*). Light and shade inside the area stay. None when
    no other image has a clearly different colour in the same place, as where all normal images are of one colour. Ours.
    """
    image = scene.image
    lab = lab_of(image)
    small = [lab_of(resize(other, (64, 64))) for other in scene.others]
    here = lab_of(resize(image, (64, 64)))
    candidates = [
        (area, shift)
        for area in _areas(colours(lab, rng))
        for other in small
        if (shift := _shift_colours(area, here, other)) is not None
    ]
    if not candidates:
        return None
    area, step = candidates[int(rng.integers(len(candidates)))]
    soft = cv2.GaussianBlur((area & scene.part).astype(np.float32), (0, 0), max(0.8, min(scene.size) / 256))
    return shifted(image, np.asarray(soft, np.float32), step)


def shifted(image: Image, alpha: Alpha, step: Float) -> Drawn:
    """Return the image with a step in L*a*b* of weight ``alpha`` f32[H,W], and that weight."""
    alpha = np.where(alpha < 0.02, np.float32(0), alpha)
    changed = cv2.cvtColor(lab_of(image) + alpha[..., None] * step, cv2.COLOR_LAB2RGB)
    painted = np.clip(np.rint(changed * 255), 0, 255).astype(np.uint8)
    return np.where(alpha[..., None] > 0, painted, image), alpha  # elsewhere L*a*b* and back would cost a last bit


def lab_of(image: Image) -> Float:
    """Return an image in CIE L*a*b*, f32[H,W,3]."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)


def colours(lab: Float, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return for each pixel which of the image's main colours it has, i32[H,W]."""
    calm = cv2.GaussianBlur(lab, (0, 0), max(0.8, min(lab.shape[:2]) / 128))
    sample = cv2.resize(calm, (64, 64), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    start = np.zeros((len(sample), 1), np.int32)
    _, _, centres = cv2.kmeans(sample, COLOURS, start, stop, 2, cv2.KMEANS_PP_CENTERS)
    distance = np.stack([((calm - centre) ** 2).sum(axis=2) for centre in centres])
    return np.asarray(distance.argmin(axis=0), dtype=np.int32)


def _areas(labels: npt.NDArray[np.int32]) -> Sequence[Mask]:
    """Return the connected areas bool[H,W] of one colour that are neither specks nor the whole image."""
    results = []
    for colour in range(COLOURS):
        count, pieces, details, _ = cv2.connectedComponentsWithStats((labels == colour).astype(np.uint8), connectivity=4)
        shares = details[:, cv2.CC_STAT_AREA] / labels.size
        results += [pieces == piece for piece in range(1, count) if MIN_COLOUR_AREA <= shares[piece] <= MAX_COLOUR_AREA]
    return results


def _shift_colours(area: Mask, here: Float, other: Float) -> Float | None:
    """Return the step in L*a*b* from the area's colour to the other image's in its place, if that is clear."""
    inside = cv2.erode(resize(area.astype(np.uint8) * np.uint8(255), (64, 64)), np.ones((3, 3), np.uint8)) > 127
    if inside.sum() < MIN_CORE:
        return None
    there = other[inside]
    colour = np.median(there, axis=0)
    shift = colour - np.median(here[inside], axis=0)
    clear = float(np.linalg.norm(shift)) >= MIN_CHANGE and float(np.abs(there - colour).mean()) < MAX_SPREAD
    return np.asarray(shift, dtype=np.float32) if clear else None
