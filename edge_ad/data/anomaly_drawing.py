"""What every synthetic anomaly is drawn with: the scene, sizes and places on the part, shapes, blending, inpainting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Image, resize
from edge_ad.data.part_regions import Mask, Shape, find_components, outline_of

Alpha = npt.NDArray[np.float32]
Drawn = tuple[Image, Alpha]
"""An image with an anomaly and where it was changed, f32[H,W] from 0 (as it was) to 1."""

MIN_SIDE = 3  # pixels of the input below which nothing remains visible
MIN_AREA, MAX_AREA = 0.001, 0.08  # shares of the part
MAX_ASPECT = 3.0
PLAIN_SHARE = 0.3  # of the anomalies that lie anywhere on a part, the others on detail


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class Scene:
    """A normal image, other ones for patches and colours, and where its part lies, bool[H,W]."""

    image: Image
    others: Sequence[Image]
    part: Mask

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.image.shape[:2]
        return height, width

    @cached_property
    def area(self) -> float:
        """Pixels of the part."""
        return float(self.part.sum())

    @cached_property
    def density(self) -> npt.NDArray[np.float64]:
        """Probability of each cell of a 64 x 64 grid to be the middle of an anomaly."""
        return density_of(self.image, self.part)

    @cached_property
    def components(self) -> list[tuple[tuple[slice, slice], Shape]]:
        """Small regions on the part that stand out from their surroundings."""
        return find_components(self.image, self.part)

    def random_component(self, rng: np.random.Generator) -> tuple[tuple[slice, slice], Shape]:
        """Return one of the ``components``, a larger one more often: many small ones are mere glints."""
        share = np.sqrt([float(shape.sum()) for _, shape in self.components])
        return self.components[int(rng.choice(len(share), p=share / share.sum()))]

    @cached_property
    def outline(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Points of the part's outline and the normals out of it."""
        return outline_of(self.part)


def density_of(image: Image, part: Mask) -> npt.NDArray[np.float64]:
    """Return a probability for each cell of a 64 x 64 grid: in proportion to the gradient energy around it, on the part.

    On a part that ends within the image, a share of PLAIN_SHARE lies anywhere.
    """
    small = resize(image, (64, 64)).astype(np.float32)
    across, down = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    energy = cv2.GaussianBlur(np.sqrt(across**2 + down**2).sum(axis=2), (0, 0), 2.0).astype(np.float64)
    on_part = resize(part.astype(np.uint8) * np.uint8(255), (64, 64)) > 127
    if part.all() or not on_part.any():
        energy[energy < np.quantile(energy, 0.5)] *= 0.1  # the quiet half of the image is rarely the object
        energy += 1e-6
        return np.asarray(energy / energy.sum(), dtype=np.float64)
    energy = (energy + 1e-6) * on_part
    plain = on_part / on_part.sum()
    return np.asarray((1 - PLAIN_SHARE) * energy / energy.sum() + PLAIN_SHARE * plain, dtype=np.float64)


def random_area(scene: Scene, rng: np.random.Generator, low: float = MIN_AREA, high: float = MAX_AREA) -> float:
    """Return a number of pixels, log-uniform between two shares of the part, of at least MIN_SIDE x MIN_SIDE."""
    # Log-uniform: small anomalies are the ones that tell methods apart.
    smallest = max(low * scene.area, float(MIN_SIDE**2))
    largest = max(high * scene.area, smallest)
    return float(smallest * (largest / smallest) ** rng.random())


def random_size(
    scene: Scene, rng: np.random.Generator, low: float = MIN_AREA, high: float = MAX_AREA
) -> tuple[int, int]:
    """Return a random (height, width) in pixels whose area is a ``random_area``, of an aspect ratio up to MAX_ASPECT."""
    area, aspect = random_area(scene, rng, low, high), MAX_ASPECT ** float(rng.uniform(-1, 1))
    height = min(max(MIN_SIDE, round(np.sqrt(area * aspect))), scene.size[0])
    return height, min(max(MIN_SIDE, round(area / height)), scene.size[1])


def place(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Return a box of ``size`` whose middle lies on the part as ``density`` says, moved inside the image."""
    density = scene.density
    row, column = divmod(int(rng.choice(density.size, p=density.ravel())), density.shape[1])
    height, width = scene.size
    top = round((row + float(rng.random())) / density.shape[0] * height - size[0] / 2)
    left = round((column + float(rng.random())) / density.shape[1] * width - size[1] / 2)
    return box_inside(scene, top, left, size)


def box_inside(scene: Scene, top: int, left: int, size: tuple[int, int]) -> Box:
    """Return a box of ``size`` at ``top`` and ``left``, moved inside the image."""
    height, width = scene.size
    return Box(min(max(top, 0), height - size[0]), min(max(left, 0), width - size[1]), *size)


def place_apart(scene: Scene, box: Box, rng: np.random.Generator) -> Box:
    """Return a box of the same size elsewhere, not overlapping ``box`` if that can be found in 12 draws."""
    size = (box.height, box.width)
    candidates = [place(scene, size, rng) for _ in range(12)]
    return next((candidate for candidate in candidates if candidate.apart_from(box)), candidates[-1])


def random_shape(box: Box, rng: np.random.Generator) -> Shape:
    """Return a random solid shape u8[h,w] of 0 and 1 filling the box: a rectangle or an ellipse."""
    shape = np.ones((box.height, box.width), np.uint8)
    return shape if rng.random() < 0.5 else (_radius(box.height, box.width) <= 1).astype(np.uint8)


def blob(height: int, width: int, rng: np.random.Generator) -> Shape:
    """Return an irregular solid shape u8[h,w] of 0 and 1 in a box."""
    rows, columns = _axes(height, width)
    angle = np.arctan2(rows[:, None], columns[None, :])
    edge = np.full(angle.shape, 0.85)
    for waves in (2, 3, 5):
        edge += float(rng.uniform(0, 0.25 / waves)) * np.cos(waves * angle + float(rng.uniform(0, 2 * np.pi)))
    return np.asarray(_radius(height, width) <= np.maximum(edge, 0.5), np.uint8)


def _axes(height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return (np.arange(height) + 0.5) / height * 2 - 1, (np.arange(width) + 0.5) / width * 2 - 1


def _radius(height: int, width: int) -> npt.NDArray[np.float64]:
    rows, columns = _axes(height, width)
    return np.asarray(np.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2), np.float64)


def dome(height: int, width: int) -> Alpha:
    """Return a smooth weight f32[h,w]: 1 in the middle of the box, 0 with no slope at its inscribed ellipse."""
    return np.asarray(np.clip(1 - _radius(height, width) ** 2, 0, 1) ** 2, np.float32)


def feather(shape: Shape) -> Alpha:
    """Return a weight 0..1 that rises inside the shape over a tenth of its smaller side, so that no seam shows."""
    padded = cv2.copyMakeBorder(shape, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(np.clip(inside / max(1.5, 0.1 * min(shape.shape)), 0, 1), dtype=np.float32)


def on_part(scene: Scene, box: Box, shape: Shape) -> Shape:
    """Return what of a shape in a box lies on the part."""
    return shape * scene.part[box.window].astype(np.uint8)


def blend(target: Image, patch: Image, box: Box, alpha: Alpha) -> None:
    """Lay ``patch`` u8[h,w,3] over the box of ``target``, in place."""
    weight = alpha[..., None]
    under = target[box.window].astype(np.float32)
    target[box.window] = np.rint(under + weight * (patch.astype(np.float32) - under)).astype(np.uint8)


def on_canvas(scene: Scene, pieces: Sequence[tuple[Box, Alpha]]) -> Alpha:
    """Return the weights of all boxes f32[H,W] on an empty image of the scene's size; the larger one counts."""
    full = np.zeros(scene.size, np.float32)
    for box, alpha in pieces:
        np.maximum(full[box.window], alpha, out=full[box.window])
    return full


def inpainted(image: Image, hole: Mask, box: Box, margin: int) -> Image:
    """Return what could lie in a hole bool[H,W] of the image, u8[h,w,3] of the box: its surroundings carried inwards.

    ``margin`` is how far around the box they reach. Computed at no more than 96 pixels a side.
    """
    top, left = max(0, box.top - margin), max(0, box.left - margin)
    window = (slice(top, box.top + box.height + margin), slice(left, box.left + box.width + margin))
    around, inside = image[window], hole[window].astype(np.uint8) * np.uint8(255)
    scale = min(1.0, 96 / max(around.shape[:2]))
    small = (max(2, round(around.shape[0] * scale)), max(2, round(around.shape[1] * scale)))
    coarse_hole = (resize(inside, small) > 0).astype(np.uint8)
    filled = cv2.inpaint(np.ascontiguousarray(resize(around, small)), coarse_hole, 3, cv2.INPAINT_TELEA)
    full = resize(filled.astype(np.uint8), (around.shape[0], around.shape[1]))
    return full[box.top - top : box.top - top + box.height, box.left - left : box.left - left + box.width]


def background(image: Image, box: Box, shape: Shape) -> Image:
    """Return what could lie behind a shape in a box, u8[h,w,3]."""
    hole = np.zeros(image.shape[:2], bool)
    hole[box.window] = shape > 0
    return inpainted(image, hole, box, max(4, max(box.height, box.width) // 6))
