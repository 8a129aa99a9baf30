"""Anomalies made from the user's own good images: to choose weights and the moment to stop, never to train on.

Regions of an image: where it has detail, boxes on it, and blending a patch in without a seam.

Give one coloured part of an image the colour that another good has there: a wrong combination without a seam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Image, resize

Alpha = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the rectangle in an image."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def apart_from(self, other: Box) -> bool:
        """Whether the two rectangles do not overlap."""
        return (
            self.top + self.height <= other.top
            or other.top + other.height <= self.top
            or self.left + self.width <= other.left
            or other.left + other.width <= self.left
        )


def detail_of(image: Image) -> npt.NDArray[np.float64]:
    """Return a probability for each cell of a 64 x 64 grid, in proportion to the gradient energy around it."""
    small = resize(image, (64, 64)).astype(np.float32)
    across, down = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    energy = cv2.GaussianBlur(np.sqrt(across**2 + down**2).sum(axis=2), (0, 0), 2.0).astype(np.float64)
    energy[energy < np.quantile(energy, 0.5)] *= 0.1  # the quiet half of the image is rarely the object
    energy += 1e-6
    return np.asarray(energy / energy.sum(), dtype=np.float64)


def random_size(image: Image, rng: np.random.Generator, low: float = 0.08, high: float = 0.30) -> tuple[int, int]:
    """Return a random (height, width) in pixels, each side drawn between two shares of the image\'s."""
    shares = low * (high / low) ** rng.random(2)  # log-uniform: small anomalies are the ones that tell methods apart
    height, width = (max(2, round(float(share) * side)) for share, side in zip(shares, image.shape[:2], strict=True))
    return height, width


def place(image: Image, size: tuple[int, int], rng: np.random.Generator, detail: npt.NDArray[np.float64]) -> Box:
    """Return a box of ``size`` whose centre falls on detail, moved inside the image."""
    row, column = divmod(int(rng.choice(detail.size, p=detail.ravel())), detail.shape[1])
    height, width = image.shape[:2]
    top = round((row + float(rng.random())) / detail.shape[0] * height - size[0] / 2)
    left = round((column + float(rng.random())) / detail.shape[1] * width - size[1] / 2)
    return Box(min(max(top, 0), height - size[0]), min(max(left, 0), width - size[1]), *size)


def place_apart(image: Image, box: Box, rng: np.random.Generator, detail: npt.NDArray[np.float64]) -> Box:
    """Return a box of the same size on detail elsewhere, not overlapping ``box`` if that can be found in 12 draws."""
    size = (box.height, box.width)
    candidates = [place(image, size, rng, detail) for _ in range(12)]
    return next((candidate for candidate in candidates if candidate.apart_from(box)), candidates[-1])


def random_shape(box: Box, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a random solid shape u8[h,w] of 0 and 1 filling the box: a rectangle or an ellipse."""
    shape = np.ones((box.height, box.width), np.uint8)
    if rng.random() < 0.5:
        rows = (np.arange(box.height) + 0.5) / box.height * 2 - 1
        columns = (np.arange(box.width) + 0.5) / box.width * 2 - 1
        shape = (rows[:, None] ** 2 + columns[None, :] ** 2 <= 1).astype(np.uint8)
    return shape


def feather(shape: npt.NDArray[np.uint8]) -> Alpha:
    """Return a weight 0..1 that rises inside the shape over a tenth of its smaller side, so that no seam shows."""
    padded = cv2.copyMakeBorder(shape, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(np.clip(inside / max(1.5, 0.1 * min(shape.shape)), 0, 1), dtype=np.float32)


def blend(target: Image, patch: Image, box: Box, alpha: Alpha) -> None:
    """Lay ``patch`` u8[h,w,3] over the box of ``target``, in place."""
    weight = alpha[..., None]
    under = target[box.window].astype(np.float32)
    target[box.window] = np.rint(under + weight * (patch.astype(np.float32) - under)).astype(np.uint8)


def on_canvas(image: Image, parts: Sequence[tuple[Box, Alpha]]) -> Alpha:
    """Return the weights of all boxes f32[H,W] on an empty image of the size of ``image``; the larger one counts."""
    full = np.zeros(image.shape[:2], np.float32)
    for box, alpha in parts:
        np.maximum(full[box.window], alpha, out=full[box.window])
    return full


COLOURS = 5
MIN_AREA, MAX_AREA = 0.015, 0.5  # shares of the image that a part may have
MIN_CHANGE = 12.0  # distance in CIE L*a*b*: clearly another colour
MAX_SPREAD = 12.0  # of the other good's colour within the part; above it the part is not one thing there
MIN_CORE = 12  # cells of the small image

Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def recolour(image: Image, others: Sequence[Image], rng: np.random.Generator) -> tuple[Image, Alpha] | None:
    """Return a copy of ``image`` u8[H,W,3] with one part in the colour it has in one of ``others``, and where f32[H,W].

    Parts are connected areas of one of five colours (k-means in L*a*b*). Light and shade inside the part stay. None
    when no other good has a clearly different colour in the place of a part, as where all normal images are of one
    colour. Ours.
    """
    lab = _lab(image)
    labels = _colours(lab, rng)
    small = [_lab(resize(other, (64, 64))) for other in others]
    here = _lab(resize(image, (64, 64)))
    candidates = [
        (part, shift) for part in _parts(labels) for other in small if (shift := _shift_colours(part, here, other)) is not None
    ]
    if not candidates:
        return None
    part, shift = candidates[int(rng.integers(len(candidates)))]
    blur = max(0.8, min(image.shape[:2]) / 256)
    alpha: Alpha = np.asarray(cv2.GaussianBlur(part.astype(np.float32), (0, 0), blur), dtype=np.float32)
    changed = cv2.cvtColor(lab + alpha[..., None] * shift, cv2.COLOR_LAB2RGB)
    painted = np.clip(np.rint(changed * 255), 0, 255).astype(np.uint8)
    return np.where(alpha[..., None] > 0, painted, image), alpha  # elsewhere L*a*b* and back would cost a last bit


def _lab(image: Image) -> Float:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)


def _colours(lab: Float, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return for each pixel which of the image's main colours it has, i32[H,W]."""
    calm = cv2.GaussianBlur(lab, (0, 0), max(0.8, min(lab.shape[:2]) / 128))
    sample = cv2.resize(calm, (64, 64), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    start = np.zeros((len(sample), 1), np.int32)
    _, _, centres = cv2.kmeans(sample, COLOURS, start, stop, 2, cv2.KMEANS_PP_CENTERS)
    distance = np.stack([((calm - centre) ** 2).sum(axis=2) for centre in centres])
    return np.asarray(distance.argmin(axis=0), dtype=np.int32)


def _parts(labels: npt.NDArray[np.int32]) -> list[Mask]:
    """Return the connected areas bool[H,W] of one colour that are neither specks nor the whole image."""
    results = []
    for colour in range(COLOURS):
        count, pieces, details, _ = cv2.connectedComponentsWithStats((labels == colour).astype(np.uint8), connectivity=4)
        shares = details[:, cv2.CC_STAT_AREA] / labels.size
        results += [pieces == piece for piece in range(1, count) if MIN_AREA <= shares[piece] <= MAX_AREA]
    return results


def _shift_colours(part: Mask, here: Float, other: Float) -> Float | None:
    """Return the step in L*a*b* from the part's colour to the other good's in its place, if that is clear."""
    inside = cv2.erode(resize(part.astype(np.uint8) * np.uint8(255), (64, 64)), np.ones((3, 3), np.uint8)) > 127
    if inside.sum() < MIN_CORE:
        return None
    there = other[inside]
    colour = np.median(there, axis=0)
    shift = colour - np.median(here[inside], axis=0)
    clear = float(np.linalg.norm(shift)) >= MIN_CHANGE and float(np.abs(there - colour).mean()) < MAX_SPREAD
    return np.asarray(shift, dtype=np.float32) if clear else None


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
    damage the surface. Regions lie where the image has detail, and are 8 to 30 % of its sides (``replace``: up to
    45 %). ``recolour`` is the same as ``replace`` where normal images do not differ in colour. Raises ValueError for an
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
