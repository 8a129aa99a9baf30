"""Regions of a picture: where it has detail, boxes on it, and blending a patch in without a seam."""

from __future__ import annotations

from collections.abc import Sequence
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
    energy[energy < np.quantile(energy, 0.5)] *= 0.1  # the quiet half of the picture is rarely the object
    energy += 1e-6
    return np.asarray(energy / energy.sum(), dtype=np.float64)


def random_size(image: Image, rng: np.random.Generator, low: float = 0.08, high: float = 0.30) -> tuple[int, int]:
    """Return a random (height, width) in pixels, each side drawn between two shares of the picture\'s."""
    shares = low * (high / low) ** rng.random(2)  # log-uniform: small anomalies are the ones that tell methods apart
    height, width = (max(2, round(float(share) * side)) for share, side in zip(shares, image.shape[:2], strict=True))
    return height, width


def place(image: Image, size: tuple[int, int], rng: np.random.Generator, detail: npt.NDArray[np.float64]) -> Box:
    """Return a box of ``size`` whose centre falls on detail, moved inside the picture."""
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
    """Return the weights of all boxes f32[H,W] on an empty picture of the size of ``image``; the larger one counts."""
    full = np.zeros(image.shape[:2], np.float32)
    for box, alpha in parts:
        np.maximum(full[box.window], alpha, out=full[box.window])
    return full
