"""Images that move as a whole: a textured plate seen through a camera that is shifted, turned and scaled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.geometry.pose import Image

SIZE = (240, 320)


@dataclass(frozen=True)
class Shot:
    """An image and the true shift, turn and scale of what it shows."""

    image: Image
    x: float
    y: float
    angle: float
    scale: float


@cache
def plate(seed: int = 0) -> NDArray[np.uint8]:
    """Return a large image with blobs of several sizes and some marks."""
    rng = np.random.default_rng(seed)
    canvas = cv2.GaussianBlur(rng.integers(0, 256, (480, 640), dtype=np.uint8), (0, 0), 4)
    canvas = cv2.normalize(canvas, None, 60, 190, cv2.NORM_MINMAX)
    for _ in range(12):
        x, y = (int(value) for value in rng.integers(100, 400, 2))
        cv2.circle(canvas, (x + 100, y), int(rng.integers(6, 16)), int(rng.integers(0, 256)), -1, cv2.LINE_AA)
    return np.asarray(canvas, np.uint8)


def shot(seed: int, *, shift: float = 20, turn: float = 0, zoom: float = 0.0, plate_seed: int = 0, mirrored: bool = False) -> Shot:
    """Return a noisy image of the plate, its light varied; the plate's middle lies at (x, y) of the image."""
    rng = np.random.default_rng([seed, 7])
    high, wide = SIZE
    x, y = wide / 2 + rng.uniform(-shift, shift), high / 2 + rng.uniform(-shift, shift)
    angle, scale = float(rng.uniform(-turn, turn)), float(1 + rng.uniform(-zoom, zoom))
    cos, sin = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    matrix = np.array([[cos, -sin, x - cos * 320 + sin * 240], [sin, cos, y - sin * 320 - cos * 240]])
    drawn = cv2.warpAffine(plate(plate_seed), matrix, (wide, high), flags=cv2.INTER_LINEAR)
    values = drawn * float(rng.uniform(0.75, 1.1)) + rng.normal(0, 3, drawn.shape)
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    grey = grey[:, ::-1] if mirrored else grey
    return Shot(np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2)), float(x), float(y), angle, scale)


def shots(count: int, **how: float) -> list[Shot]:
    """Return the first ``count`` shots."""
    return [shot(seed, **how) for seed in range(count)]  # type: ignore[arg-type]


def names(count: int) -> list[str]:
    """Return names of that many files."""
    return [f"{index}.png" for index in range(count)]
