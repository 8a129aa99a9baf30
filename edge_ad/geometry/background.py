"""What differs from the background: from the image's own border, or from images of the empty station.

The border model is a plane for each channel, fitted robustly to a ring at the image's border, so that a slope or a
change of the light moves it along. It needs a calm background; where that has structure of its own, images of the empty
station give the median of each pixel instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.geometry.pose import Image

RING = 3
MAX_WORKING_PIXELS = 350_000
NOISE_FACTOR = 6.0
MIN_CONTRAST = 10.0
# Added to brightness before a ratio is taken: a black background does not show the light.
DARK = 32.0


def reduce(image: Image, level: int) -> Image:
    """Return an image halved ``level`` times by exact means of 2 x 2 pixels; an odd last row or column is dropped."""
    for _ in range(level):
        height, width = image.shape[0] // 2, image.shape[1] // 2
        image = np.asarray(
            cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA), np.uint8
        )
    return image


def grey_of(image: Image) -> Image:
    """Return an image u8[h,w,3] or u8[h,w] in grey, u8[h,w]."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image, np.uint8)


def min_level(size: tuple[int, int]) -> int:
    """Return how often an image of ``size`` (height, width) is halved at least, so that locating stays fast."""
    return math.ceil(math.log2(max(1.0, size[0] * size[1] / MAX_WORKING_PIXELS)) / 2)


@dataclass(frozen=True, eq=False)
class Background:
    """A background of reduced images: its brightness when it was learned, the contrast that makes foreground, the empty station."""

    level: float
    threshold: float
    empty: Image | None = None

    def difference(self, reduced: Image) -> tuple[Image, float]:
        """Return the greatest difference over the channels, u8[h,w], and the threshold for this image's light."""
        plane, level = self.expected(reduced)
        difference = cv2.absdiff(reduced, plane)
        if difference.ndim == 3:
            first, second, third = cv2.split(difference)
            difference = cv2.max(cv2.max(first, second), third)
        threshold = self.threshold * (level + DARK) / (self.level + DARK)
        return np.asarray(cv2.blur(difference, (3, 3)), np.uint8), threshold

    def expected(self, reduced: Image) -> tuple[Image, float]:
        """Return the background that a reduced image would show without a part, u8 as it, and its brightness."""
        if self.empty is None:
            return border_plane(reduced)
        if self.empty.shape != reduced.shape:
            raise BadInput("images of the empty station must have the size of the images of parts: record them again")
        # The light of this image against the empty station's, where both show background: at the border.
        now, then = np.median(_ring(reduced)), np.median(_ring(self.empty))
        gain = float((now + DARK) / (then + DARK))
        return np.asarray(cv2.convertScaleAbs(self.empty, alpha=gain), np.uint8), float(now)


def border_plane(reduced: Image) -> tuple[Image, float]:
    """Return the background that the border's ring foretells, u8 as ``reduced``, and its mean brightness."""
    height, width = reduced.shape[:2]
    x, y = _ring_positions(height, width)
    values = reduced.reshape(height, width, -1)[y, x].astype(np.float32)
    off = np.abs(values - np.median(values, axis=0)).max(axis=1)
    near = (off <= 3 * np.median(off) + 3).astype(np.float32)[:, None]
    design = np.stack([np.ones_like(x), x / width, y / height], axis=1).astype(np.float32)
    # The ring spans both axes, so that the normal equations are well conditioned.
    plane = np.linalg.solve((design * near).T @ design, (design * near).T @ values)
    # A plane is drawn coarsely and enlarged: an eighth of the arithmetic, and less than a grey level off.
    rows, columns = max(2, height // 8), max(2, width // 8)
    across = (np.arange(columns, dtype=np.float32)[:, None] + 0.5) / columns * plane[1]
    down = (np.arange(rows, dtype=np.float32)[:, None] + 0.5) / rows * plane[2]
    coarse = np.clip(plane[0] + across[None] + down[:, None] + 0.5, 0, 255).astype(np.uint8)
    expected = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(reduced.shape)
    return np.asarray(expected, np.uint8), float(coarse.mean())


def learn_background(reduced: Sequence[Image], empty: Sequence[Image] = ()) -> Background:
    """Return the background of normal images; BadInput where parts do not stand out from it."""
    station = np.median(np.stack(empty), axis=0).astype(np.uint8) if empty else None
    probe = Background(0.0, 0.0, station)
    differences = [probe.difference(image)[0] for image in reduced]
    pooled = np.bincount(np.concatenate([difference.ravel() for difference in differences]), minlength=256)
    noise = float(np.median([np.percentile(_ring(difference), 75) for difference in differences]))
    least = max(MIN_CONTRAST, NOISE_FACTOR * noise)
    upper = _otsu(pooled)
    contrast = float(np.average(np.arange(256), weights=pooled * (np.arange(256) > upper) + 1e-9))
    if contrast < 1.5 * least or not pooled[upper + 1 :].sum():
        raise BadInput(
            f"parts do not stand out from the background (contrast {contrast:.0f} grey levels, noise {noise:.0f}): use images "
            "of the empty station, a plainer background or a template"
        )
    level = float(np.median([probe.expected(image)[1] for image in reduced]))
    return replace(probe, level=level, threshold=_valley(pooled, least, max(least, upper)))


def _otsu(histogram: NDArray[np.intp]) -> int:
    """Return the grey level that parts a histogram best into two classes (Otsu 1979)."""
    share = histogram / histogram.sum()
    below, mean = np.cumsum(share), np.cumsum(share * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num((mean[-1] * below - mean) ** 2 / (below * (1 - below)))
    return int(np.argmax(between))


def _valley(histogram: NDArray[np.intp], low: float, high: float) -> float:
    """Return the threshold between two levels around which the fewest pixels lie, so that a change of light moves no edge.

    Shadows, and a part's dark sides, are modes of their own; Otsu's level alone may run through one of them.
    """
    cumulative = np.concatenate([[0], np.cumsum(histogram)])
    levels = np.arange(int(np.ceil(low)), int(high) + 1)
    if not levels.size:
        return low
    upper = np.minimum(256, np.floor(levels * 1.35).astype(int) + 1)
    around = cumulative[upper] - cumulative[np.ceil(levels / 1.35).astype(int)]
    return float(np.median(levels[around <= 1.1 * around.min()]))


def _ring(image: Image) -> NDArray[np.uint8]:
    x, y = _ring_positions(*image.shape[:2])
    return image[y, x]


@lru_cache(maxsize=16)
def _ring_positions(height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return x and y of about a thousand pixels of a ring of RING pixels at the border."""
    step = max(1, (height + width) * 2 * RING // 1000)
    columns, rows = np.arange(0, width, step), np.arange(0, height, step)
    lines = [(columns, np.full_like(columns, y)) for inset in range(RING) for y in (inset, height - 1 - inset)]
    sides = [(np.full_like(rows, x), rows) for inset in range(RING) for x in (inset, width - 1 - inset)]
    x, y = (np.concatenate([pair[axis] for pair in (*lines, *sides)]) for axis in (0, 1))
    return x, y
