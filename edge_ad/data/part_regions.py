"""Where the part lies in aligned normal images, and what on it stands out: its mask, its outline, its small components."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Image, resize
from edge_ad.errors import BadInput
from edge_ad.geometry.background import learn_background

Mask = npt.NDArray[np.bool_]
Shape = npt.NDArray[np.uint8]

MAX_IMAGES = 32
WORKING_SIDE = 128
MIN_SHARE, MAX_SHARE = 0.02, 0.9  # of the image that a part covers
MAX_BORDER = 0.25  # share of the image's border that a part may touch: beyond it the border shows no background
MIN_LARGEST = 0.6  # share of the foreground in its largest piece: several pieces are features of a part that fills the image
MIN_AGREEMENT = 0.6  # intersection over union of one image's foreground with that of the set
CLOSED = 0.02  # of the image's side: gaps in a foreground up to twice as wide are closed
MIN_COMPONENT = 9  # pixels: 3 x 3
MAX_COMPONENT = 0.06  # share of the part
STAND_OUT = 20  # grey levels between a component and its surroundings
SURROUNDINGS = (1 / 16, 1 / 6, 1 / 3)  # windows of the median, in sides of the part


def estimate_part(images: Sequence[Image]) -> Mask:
    """Return bool[H,W] of the first image: where the part lies in most of the ``images``, which are aligned.

    The part is what differs from the background at the image's border, with its holes. True everywhere where that is
    not clear: a texture, a part that fills the image, pieces that lie apart.
    """
    size = images[0].shape[:2]
    scale = min(1.0, WORKING_SIDE / max(size))
    small = (max(8, round(size[0] * scale)), max(8, round(size[1] * scale)))
    chosen = [resize(image, small) for image in images[:: -(-len(images) // MAX_IMAGES)]]
    foregrounds = _foregrounds(chosen)
    if foregrounds is None:
        return np.ones(size, bool)
    part = np.mean(foregrounds, axis=0) >= 0.5
    agreement = float(np.median([_agreement(foreground, part) for foreground in foregrounds]))
    if not _is_part(part) or agreement < MIN_AGREEMENT:
        return np.ones(size, bool)
    return resize(part.astype(np.uint8) * np.uint8(255), size) > 127


def own_part(image: Image, part: Mask) -> Mask:
    """Return the part in this one image bool[H,W], where its foreground agrees with ``part`` of the set; else ``part``."""
    if part.all() or min(part.shape) < 8:
        return part
    foregrounds = _foregrounds([image])
    if foregrounds is None:
        return part
    reach = max(3, round(0.06 * np.sqrt(part.sum())))
    near = cv2.dilate(part.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    own = foregrounds[0] & near
    return own if _agreement(own, part) >= MIN_AGREEMENT else part


def has_outline(part: Mask) -> bool:
    """Whether the part ends within the image."""
    return len(outline_of(part)[0]) > 0


def outline_of(part: Mask) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return (row, column) of the part's outline inside the image [N,2], and the unit normals out of the part [N,2]."""
    edge = part & (cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) == 0)
    edge[:2], edge[-2:], edge[:, :2], edge[:, -2:] = False, False, False, False
    smooth = cv2.GaussianBlur(part.astype(np.float32), (0, 0), 2.0)
    down, across = np.gradient(smooth)
    points = np.argwhere(edge)
    outward = -np.stack([down[edge], across[edge]], axis=1).astype(np.float64)
    length = np.linalg.norm(outward, axis=1)
    clear = length > 1e-3
    return points[clear], outward[clear] / length[clear, None]


def find_components(image: Image, part: Mask) -> list[tuple[tuple[slice, slice], Shape]]:
    """Return the small connected regions on the part that stand out from their surroundings, as windows and shapes.

    A shape is u8[h,w] of 0 and 1 in its window. Surroundings are the median in windows of three sizes; a region that
    stands out in several is returned once.
    """
    results: list[tuple[tuple[slice, slice], Shape]] = []
    area, side = int(part.sum()), float(np.sqrt(part.sum()))
    taken = np.zeros(part.shape, bool)
    inner = cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    for share in reversed(SURROUNDINGS):  # a whole component first, then what is smaller
        for window, shape in _standing_out(image, part, round(share * side)):
            inside = shape.astype(bool)
            fits = MIN_COMPONENT <= inside.sum() <= max(MIN_COMPONENT, MAX_COMPONENT * area)
            if fits and inner[window][inside].all() and not taken[window][inside].any():
                taken[window] |= inside
                results.append((window, shape))
    return results


def _standing_out(image: Image, part: Mask, reach: int) -> list[tuple[tuple[slice, slice], Shape]]:
    window = min(255, max(5, reach | 1))
    difference = cv2.absdiff(image, cv2.medianBlur(np.ascontiguousarray(image), window)).max(axis=2)
    values = np.ascontiguousarray(difference[part])
    otsu = cv2.threshold(values, 0, 255, cv2.THRESH_OTSU)[0] if len(values) else 255.0
    # A mirror-like edge is one grey level beside another: closing joins the sides of one thing.
    binary = (difference > max(STAND_OUT, otsu)).astype(np.uint8) * part
    binary = cv2.morphologyEx(binary, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, labels, details, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    results = []
    for label in range(1, count):
        left, top, width, height, area = details[label]
        if area >= MIN_COMPONENT and area >= 0.25 * width * height:  # rims and lines are no components
            where = (slice(top, top + height), slice(left, left + width))
            results.append((where, filled((labels[where] == label).astype(np.uint8))))
    return results


def _foregrounds(images: Sequence[Image]) -> list[Mask] | None:
    """Return what differs from the background in each image, without holes; None where nothing stands out clearly."""
    try:
        background = learn_background(images)
    except BadInput:
        return None
    results = []
    for image in images:
        difference, threshold = background.difference(image)
        # Glass and mirrors show background in places: closing joins what lies on both sides of it.
        reach = max(1, round(CLOSED * np.sqrt(difference.size)))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        padded = np.pad((difference > threshold).astype(np.uint8), reach)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[reach:-reach, reach:-reach]
        results.append(filled(np.ascontiguousarray(closed, np.uint8)) > 0)
    return results


def filled(shape: Shape) -> Shape:
    """Return a shape u8[h,w] of 0 and 1 with its holes filled."""
    contours = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    return np.asarray(cv2.drawContours(np.zeros_like(shape), contours, -1, 1, cv2.FILLED), np.uint8)


def _agreement(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def _is_part(part: Mask) -> bool:
    border = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    if not MIN_SHARE <= part.mean() <= MAX_SHARE or border.mean() > MAX_BORDER:
        return False
    areas = cv2.connectedComponentsWithStats(part.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    return bool(areas.max() >= MIN_LARGEST * areas.sum())
