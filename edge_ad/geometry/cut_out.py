"""Cut a part out of an image, upright and in its own aspect ratio, and draw results back into the image.

A cut-out is sampled once: one linear interpolation, with the turn, the scale and the shift in one matrix. Where the
cut-out has less than half of the image's resolution, whole blocks of pixels are averaged first (exact means, no
interpolation), so that fine structure does not alias. The part keeps its proportions: where its box has another aspect
ratio than the input, more of its surroundings is shown, never a stretched part. Beyond the image's border its last
pixels go on (replicated), which adds no edge that could look like a defect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.geometry.pose import Image, Points, Pose

STEP = 32
MAX_ASPECT = 8.0
BUDGET = 65_536
# 416 x 160 is 1.6 % more than 256 x 256: near enough to be the same cost.
OVER_BUDGET = 1.02


@dataclass(frozen=True, eq=False)
class Transform:
    """The way between an original image of ``source`` (height, width) and a cut-out of ``target`` (height, width).

    ``matrix`` is f64[3,3], from pixels of the original to pixels of the cut-out; a homography is allowed.
    """

    matrix: Points
    source: tuple[int, int]
    target: tuple[int, int]

    @cached_property
    def inverse(self) -> Points:
        """Return f64[3,3] from the cut-out to the original."""
        return np.asarray(np.linalg.inv(self.matrix))

    def to_cut_out(self, points: Points) -> Points:
        """Return points or an outline f64[N,2] of the original in the cut-out."""
        return apply(self.matrix, points)

    def to_image(self, points: Points) -> Points:
        """Return points or an outline f64[N,2] of the cut-out in the original."""
        return apply(self.inverse, points)

    def cut(self, image: Image) -> Image:
        """Return the cut-out u8[H,W,...] of an original image."""
        self._check(image)
        block = max(1, math.floor(1 / self._scale() + 1e-6))
        reduced, binned = _binned(image, block, self.to_image(_frame_corners(self.target)))
        return np.asarray(_warp(reduced, self.matrix @ binned, self.target, cv2.INTER_LINEAR, border=None), np.uint8)

    def mask_to_cut_out(self, mask: Image) -> Image:
        """Return a mask u8[h,w] of the original in the cut-out, values as they are; 0 beyond the image."""
        self._check(mask)
        return np.asarray(_warp(mask, self.matrix, self.target, cv2.INTER_NEAREST, border=0), np.uint8)

    def mask_to_image(self, mask: Image) -> Image:
        """Return a mask of the cut-out, u8 of any grid [h,w] that covers it, in the original; 0 outside the cut-out."""
        return np.asarray(_warp(mask, self._from_grid(mask.shape), self.source, cv2.INTER_NEAREST, border=0), np.uint8)

    def map_to_image(self, values: NDArray[np.float32], outside: float = 0.0) -> NDArray[np.float32]:
        """Return a heat map of the cut-out, f32 of any grid [h,w] that covers it, in the original; ``outside`` elsewhere."""
        matrix = self._from_grid(values.shape)
        drawn = _warp(values.astype(np.float32, copy=False), matrix, self.source, cv2.INTER_LINEAR, border=None)
        inside = _warp(np.ones(self.target, np.uint8), self.inverse, self.source, cv2.INTER_NEAREST, border=0)
        return np.where(inside > 0, drawn, np.float32(outside)).astype(np.float32, copy=False)

    def _from_grid(self, shape: tuple[int, ...]) -> Points:
        """Return f64[3,3] from the cells of a grid over the cut-out to the original; a cell's value stands in its middle."""
        y, x = self.target[0] / shape[0], self.target[1] / shape[1]
        return np.asarray(self.inverse @ np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]))

    def _scale(self) -> float:
        """Return pixels of the cut-out per pixel of the original, in its middle."""
        height, width = self.target
        middle = np.array([[width / 2, height / 2], [width / 2 + 1, height / 2]])
        return float(1 / np.linalg.norm(np.diff(self.to_image(middle), axis=0)))

    def _check(self, image: NDArray[Any]) -> None:
        if image.shape[:2] != self.source:
            raise BadInput(
                f"the image is {image.shape[1]} x {image.shape[0]} pixels and the pose was measured in one of "
                f"{self.source[1]} x {self.source[0]}: locate the part in this image"
            )


def transform_of(pose: Pose, source: tuple[int, int], target: tuple[int, int]) -> Transform:
    """Return the transform that lays the box of ``pose`` upright into the middle of ``target``, as large as it fits."""
    factor = min(target[1] / pose.width, target[0] / pose.height)
    to_frame = np.linalg.inv(np.vstack([pose.matrix(), (0, 0, 1)]))
    middle_x, middle_y = (target[1] - 1) / 2, (target[0] - 1) / 2
    centring = np.array([[factor, 0, middle_x], [0, factor, middle_y], [0, 0, 1]])
    return Transform(np.asarray(centring @ to_frame), source, target)


def cut_out(image: Image, pose: Pose, size: tuple[int, int]) -> Image:
    """Return the part at ``pose`` upright as u8[H,W,...] with ``size`` = (height, width)."""
    source = (int(image.shape[0]), int(image.shape[1]))
    return transform_of(pose, source, size).cut(image)


def resizing(source: tuple[int, int], target: tuple[int, int]) -> Transform:
    """Return the transform that stands for resizing a whole image of ``source`` to ``target``, both (height, width)."""
    y, x = target[0] / source[0], target[1] / source[1]
    return Transform(np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]), source, target)


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Return u8[H,W,...] resized to ``size`` = (height, width); the aspect ratio is not kept.

    Area averaging where the image shrinks (antialiased), linear interpolation where it grows; an image that shrinks
    along one axis and grows along the other is shrunk first. An image that has the size already comes back as it is.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    smaller = (min(height, size[0]), min(width, size[1]))
    if smaller != (height, width):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    if smaller != size and smaller == (1, 1):  # OpenCV 4.5.4 refuses a single pixel
        return np.full((*size, *image.shape[2:]), image[0, 0], np.uint8)
    if smaller != size:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return image


def choose_size(width: float, height: float, pixels: int = BUDGET) -> tuple[int, int]:
    """Return the input's (height, width), multiples of 32, in which a box of ``width`` x ``height`` is largest.

    At most ``pixels`` are spent, but for 2 %. Raises BadInput beyond an aspect ratio of 8:1 or below 32 x 32 pixels.
    """
    aspect = max(width, height) / min(width, height)
    if aspect > MAX_ASPECT:
        raise BadInput(
            f"the part's box is {width:.0f} x {height:.0f} pixels ({aspect:.1f}:1), and up to {MAX_ASPECT:.0f}:1 can be cut "
            "out: draw a region around the piece that matters, or take the whole image (method none)"
        )
    most = int(pixels * OVER_BUDGET)
    if most < STEP * STEP:
        raise BadInput(f"an input of {pixels} pixels is too small: {STEP * STEP:,} or more are needed")
    sizes = [(high, most // high // STEP * STEP) for high in range(STEP, most // STEP + 1, STEP)]
    shown = [(min(high / height, wide / width), -high * wide) for high, wide in sizes]
    high, wide = sizes[shown.index(max(shown))]
    # What the budget leaves beside the part would only show more of the surroundings.
    factor = min(high / height, wide / width)
    return min(high, _round_up(factor * height)), min(wide, _round_up(factor * width))


def apply(matrix: Points, points: Points) -> Points:
    """Return points f64[N,2] under a matrix f64[3,3]."""
    lifted = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(lifted[:, :2] / lifted[:, 2:])


def _round_up(length: float) -> int:
    return max(STEP, math.ceil(length / STEP - 1e-6) * STEP)


def _frame_corners(size: tuple[int, int]) -> Points:
    high, wide = size
    return np.array([(-0.5, -0.5), (wide - 0.5, -0.5), (wide - 0.5, high - 0.5), (-0.5, high - 0.5)])


def _binned(image: NDArray[Any], block: int, corners: Points) -> tuple[NDArray[Any], Points]:
    """Return means of blocks of the piece of an image around ``corners``, and f64[3,3] from them to the image's pixels."""
    if block < 2:
        return image, np.eye(3)
    height, width = image.shape[:2]
    low = np.clip(np.floor(corners.min(axis=0)) - 2 * block, 0, (max(0, width - block), max(0, height - block)))
    left, top = (int(value) // block * block for value in low)
    right, bottom = (int(value) for value in np.minimum(np.ceil(corners.max(axis=0)) + 2 * block + 1, (width, height)))
    columns, rows = max(1, (right - left) // block), max(1, (bottom - top) // block)
    piece = image[top : top + rows * block, left : left + columns * block]
    means = cv2.resize(piece, (columns, rows), interpolation=cv2.INTER_AREA)
    offset = (block - 1) / 2
    return means, np.array([[block, 0, left + offset], [0, block, top + offset], [0, 0, 1]], np.float64)


def _warp(values: NDArray[Any], matrix: Points, size: tuple[int, int], how: int, *, border: float | None) -> NDArray[Any]:
    """Return ``values`` under a matrix f64[3,3] from them to an image of ``size``; ``border`` None replicates."""
    mode = cv2.BORDER_REPLICATE if border is None else cv2.BORDER_CONSTANT
    wide_high = (size[1], size[0])
    if np.allclose(matrix[2], (0, 0, 1), atol=1e-12):
        return np.asarray(cv2.warpAffine(values, matrix[:2], wide_high, None, how, mode, border or 0))
    return np.asarray(cv2.warpPerspective(values, matrix, wide_high, None, how, mode, border or 0))
