"""Fixed gains of the colour channels: a lot in other light is brought back to that of the training. Ours.

The gains belong to the lot, not to the image: a part that is darker than the others of its lot stays darker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.geometry.pose import Image

Gains: TypeAlias = tuple[float, float, float]

MAX_GAIN = 1.5
"""Beyond it, or below its inverse, too much is lost in dark or saturated pixels for a gain to bring it back."""


def is_gains(value: object) -> bool:
    """Whether a value is three numbers within the limits."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(gain, int | float) and not isinstance(gain, bool) for gain in value)
        and all(math.isfinite(gain) and 1 / MAX_GAIN <= gain <= MAX_GAIN for gain in value)
    )


def with_gains(image: Image, gains: Gains) -> Image:
    """Return u8[H,W,3] with every channel times its gain, rounded to even and cut to 0..255."""
    return np.asarray(cv2.LUT(image, _table(gains)), np.uint8)


def with_inverse_gains(image: Image, gains: Gains) -> Image:
    """Return u8[H,W,3] of which ``with_gains`` makes the given image, but for rounding and what saturates."""
    red, green, blue = gains
    return with_gains(image, (1 / red, 1 / green, 1 / blue))


def describe_gains(gains: Sequence[float]) -> str:
    """Return the gains as a person reads them."""
    return ", ".join(f"{name} x {gain:.3f}" for name, gain in zip(("red", "green", "blue"), gains, strict=True))


def channel_levels(images: Iterable[Image], inspected: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the mean of each channel f64[N,3] of images u8[H,W,3], over what is ``inspected``, bool[H,W]."""
    rows = [(image.reshape(-1, 3) if inspected is None else image[inspected]).mean(axis=0) for image in images]
    return np.array(rows, np.float64).reshape(-1, 3)


def gains_between(levels: NDArray[np.float64], wanted: NDArray[np.float64]) -> Gains | None:
    """Return the gains that bring the median of ``levels`` f64[N,3] to that of ``wanted`` f64[M,3]; None beyond the limits."""
    ratio = np.median(wanted, axis=0) / np.maximum(np.median(levels, axis=0), 1e-6)
    gains = (float(ratio[0]), float(ratio[1]), float(ratio[2]))
    return gains if is_gains(gains) else None


@lru_cache(maxsize=16)
def _table(gains: Gains) -> NDArray[np.uint8]:
    """Return what each value of each channel becomes, u8[1,256,3]."""
    scaled = np.arange(256, dtype=np.float32)[:, None] * np.array(gains, np.float32)
    return np.asarray(np.rint(scaled).clip(0, 255), np.uint8)[None]
