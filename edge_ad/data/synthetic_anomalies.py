"""Anomalies made from the user's own good images: to choose weights and the moment to stop, never to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Image, resize
from edge_ad.data.recolouring import recolour
from edge_ad.data.regions import (
    Alpha,
    Box,
    blend,
    detail_of,
    feather,
    on_canvas,
    place,
    place_apart,
    random_shape,
    random_size,
)

LOGICAL_KINDS = ("remove", "swap", "replace", "duplicate", "shift", "recolour")
STRUCTURAL_KINDS = ("cutpaste", "scratch", "stain")
KINDS = LOGICAL_KINDS + STRUCTURAL_KINDS

TRIES = 8
VISIBLE = 12.0
"""An anomaly must change its own pixels by this many grey levels on average; of TRIES candidates the clearest is
kept.
"""


def make_anomaly(image: Image, others: Sequence[Image], rng: np.random.Generator, kind: str) -> tuple[Image, Image]:
    """Return (image u8[H,W,3], mask u8[H,W] of 0 and 255) with one anomaly of ``kind`` put into a copy of ``image``.

    ``others`` are other good images (any size; at least one), from which ``cutpaste`` and ``replace`` take their
    patches and ``recolour`` its colours. Logical kinds keep every part intact and blend its border; structural kinds
    damage the surface. Regions lie where the picture has detail, and are 8 to 30 % of its sides (``replace``: up to
    45 %). ``recolour`` is the same as ``replace`` where goods do not differ in colour. Raises ValueError for an
    unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of anomaly: {', '.join(KINDS)}")
    if not others:
        raise ValueError("others is empty: at least one other good image is needed")
    detail = detail_of(image)
    best, best_change = (image.copy(), np.zeros(image.shape[:2], np.uint8)), -1.0
    for _ in range(TRIES):
        result, alpha = _MAKERS[kind](image, others, rng, detail)
        mask = alpha > 0.5
        change = float(np.abs(result.astype(np.int16) - image).max(axis=2)[mask].mean()) if mask.any() else -1.0
        if change > best_change:
            best, best_change = (result, mask.astype(np.uint8) * 255), change
        if change >= VISIBLE:
            break
    return best


def _background(image: Image, box: Box, shape: npt.NDArray[np.uint8]) -> Image:
    """Return what could lie behind the box u8[h,w,3]: its surroundings carried inwards, at no more than 96 pixels a
    side.
    """
    pad = max(4, max(box.height, box.width) // 6)
    top, left = max(0, box.top - pad), max(0, box.left - pad)
    around = image[top : box.top + box.height + pad, left : box.left + box.width + pad]
    hole = np.zeros(around.shape[:2], np.uint8)
    hole[box.top - top : box.top - top + box.height, box.left - left : box.left - left + box.width] = shape
    scale = min(1.0, 96 / max(around.shape[:2]))
    small = (max(2, round(around.shape[0] * scale)), max(2, round(around.shape[1] * scale)))
    coarse_hole = (resize(hole * np.uint8(255), small) > 0).astype(np.uint8)
    filled = cv2.inpaint(np.ascontiguousarray(resize(around, small)), coarse_hole, 3, cv2.INPAINT_TELEA).astype(
        np.uint8
    )
    full = resize(filled, (around.shape[0], around.shape[1]))
    return full[box.top - top : box.top - top + box.height, box.left - left : box.left - left + box.width]


def _quiet_patch(image: Image, box: Box, rng: np.random.Generator) -> Image:
    """Return a patch u8[h,w,3] of the box's size that is calm and like the surroundings of the box: a piece of
    background.
    """
    pad = max(2, min(box.height, box.width) // 4)
    around = image[
        max(0, box.top - pad) : box.top + box.height + pad, max(0, box.left - pad) : box.left + box.width + pad
    ]
    wanted = np.median(around.reshape(-1, 3), axis=0)
    tops = rng.integers(0, image.shape[0] - box.height + 1, 24)
    lefts = rng.integers(0, image.shape[1] - box.width + 1, 24)
    patches = [image[Box(int(t), int(left), box.height, box.width).window] for t, left in zip(tops, lefts, strict=True)]

    def unlike(patch: Image) -> float:
        pixels = patch.reshape(-1, 3)
        return float(pixels.std(axis=0).sum() + np.abs(pixels.mean(axis=0) - wanted).sum())

    return min(patches, key=unlike)


def _erase(target: Image, box: Box, shape: npt.NDArray[np.uint8], rng: np.random.Generator) -> Alpha:
    alpha = feather(shape)
    patch = _background(target, box, shape) if rng.random() < 0.7 else _quiet_patch(target, box, rng)
    blend(target, patch, box, alpha)
    return alpha


def _remove(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    result = image.copy()
    box = place(image, random_size(image, rng), rng, detail)
    return result, on_canvas(image, [(box, _erase(result, box, random_shape(box, rng), rng))])


def _swap(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    result = image.copy()
    first = place(image, random_size(image, rng), rng, detail)
    second = place_apart(image, first, rng, detail)
    alpha = feather(random_shape(first, rng))
    blend(result, image[second.window], first, alpha)
    blend(result, image[first.window], second, alpha)
    return result, on_canvas(image, [(first, alpha), (second, alpha)])


def _replace(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    result = image.copy()
    box = place(image, random_size(image, rng, 0.15, 0.45), rng, detail)
    chosen = rng.choice(len(others), min(6, len(others)), replace=False)
    patches = [resize(others[int(index)], image.shape[:2])[box.window] for index in chosen]
    here = image[box.window].astype(np.float32)
    patch = max(patches, key=lambda candidate: float(np.abs(candidate.astype(np.float32) - here).mean()))
    alpha = feather(random_shape(box, rng))
    blend(result, patch, box, alpha)
    return result, on_canvas(image, [(box, alpha)])


def _recolour(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    return recolour(image, others, rng) or _replace(image, others, rng, detail)


def _duplicate(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    result = image.copy()
    source = place(image, random_size(image, rng), rng, detail)
    target = place_apart(image, source, rng, detail)
    alpha = feather(random_shape(target, rng))
    blend(result, image[source.window], target, alpha)
    return result, on_canvas(image, [(target, alpha)])


def _shift(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    result = image.copy()
    source = place(image, random_size(image, rng), rng, detail)
    angle, reach = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.3, 1.2))
    top = round(source.top + np.sin(angle) * reach * source.height)
    left = round(source.left + np.cos(angle) * reach * source.width)
    height, width = image.shape[:2]
    top, left = min(max(top, 0), height - source.height), min(max(left, 0), width - source.width)
    target = Box(top, left, source.height, source.width)
    shape = random_shape(source, rng)
    erased = _erase(result, source, shape, rng)
    alpha = feather(shape)
    blend(result, image[source.window], target, alpha)
    return result, on_canvas(image, [(source, erased), (target, alpha)])


def _cutpaste(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    result = image.copy()
    other = resize(others[int(rng.integers(len(others)))], image.shape[:2])
    target = place(image, random_size(image, rng, 0.08, 0.2), rng, detail)
    source = place_apart(other, target, rng, detail_of(other))
    patch = other[source.window].astype(np.float32) * rng.uniform(0.8, 1.2, 3) + rng.uniform(-15, 15)
    alpha = random_shape(target, rng).astype(np.float32)
    blend(result, np.clip(patch, 0, 255).astype(np.uint8), target, alpha)
    return result, on_canvas(image, [(target, alpha)])


def _scratch(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    side = float(np.sqrt(image.shape[0] * image.shape[1]))
    box = place(image, random_size(image, rng), rng, detail)
    point = np.array([box.left + box.width / 2, box.top + box.height / 2])
    angle, points = float(rng.uniform(0, 2 * np.pi)), [point]
    steps = int(rng.integers(6, 14))
    for _ in range(steps):
        angle += float(rng.normal(0, 0.25))
        point = point + float(rng.uniform(0.08, 0.3)) * side / steps * 2 * np.array([np.cos(angle), np.sin(angle)])
        points.append(point)
    drawn = np.zeros(image.shape[:2], np.uint8)
    thickness = max(1, round(side / 256 * float(rng.uniform(0.8, 2.2))))
    cv2.polylines(drawn, [np.rint(points).astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    alpha = np.asarray(drawn / np.float32(255), dtype=np.float32)
    bright = float(image[drawn > 127].mean()) if (drawn > 127).any() else 128.0
    change = float(rng.uniform(50, 120)) * (1 if bright < 128 else -1)
    result = np.clip(image + alpha[..., None] * change, 0, 255)
    return result.astype(np.uint8), alpha


def _stain(
    image: Image, others: Sequence[Image], rng: np.random.Generator, detail: npt.NDArray[np.float64]
) -> tuple[Image, Alpha]:
    box = place(image, random_size(image, rng, 0.08, 0.25), rng, detail)
    rows = (np.arange(box.height) + 0.5) / box.height * 2 - 1
    columns = (np.arange(box.width) + 0.5) / box.width * 2 - 1
    radius = np.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2)
    noise = cv2.resize(
        rng.normal(0, 1, (5, 5)).astype(np.float32), (box.width, box.height), interpolation=cv2.INTER_CUBIC
    )
    blob = np.clip((0.85 + 0.25 * noise - radius) * 6, 0, 1).astype(np.float32)
    tint = rng.uniform(20, 110, 3) if float(image[box.window].mean()) > 100 else rng.uniform(120, 230, 3)
    result = image.copy()
    patch = np.broadcast_to(tint, (box.height, box.width, 3)).astype(np.uint8)
    blend(result, patch, box, blob * np.float32(rng.uniform(0.45, 0.85)))
    return result, on_canvas(image, [(box, blob)])


_MAKERS: dict[
    str, Callable[[Image, Sequence[Image], np.random.Generator, npt.NDArray[np.float64]], tuple[Image, Alpha]]
] = {
    "remove": _remove,
    "swap": _swap,
    "replace": _replace,
    "duplicate": _duplicate,
    "shift": _shift,
    "recolour": _recolour,
    "cutpaste": _cutpaste,
    "scratch": _scratch,
    "stain": _stain,
}
