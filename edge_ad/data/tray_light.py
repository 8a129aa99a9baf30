"""Light, surface grain and sensor noise over a drawn tray."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.data.tray_pen import Canvas


def light_field(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return the brightness of the light at every pixel and channel, f32[size,size,3], around 1.

    Gain, a slope in any direction, darker corners and a warmer or colder lamp vary from tray to tray.
    """
    gain = float(rng.uniform(0.86, 1.14))
    heading, slope = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.0, 0.10))
    corner, warmth = float(rng.uniform(0.0, 0.12)), float(rng.uniform(-0.05, 0.05))
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    field = gain * (1 + slope * (math.cos(heading) * x + math.sin(heading) * y) - corner * (x * x + y * y) / 2)
    lamp = np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32)
    return (field[..., None] * lamp).astype(np.float32)


def grain(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return the grain of the moulded plastic, f32[size,size,1], in grey levels around 0: mottle and fine grit."""
    coarse = rng.standard_normal((size // 8, size // 8), dtype=np.float32) * float(rng.uniform(1.5, 3.0))
    fine = rng.standard_normal((size // 2, size // 2), dtype=np.float32) * float(rng.uniform(1.0, 2.0))
    mottle = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    grit = cv2.resize(fine, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(mottle + grit, dtype=np.float32)[..., None]


def sensor_noise(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return the noise of one exposure, f32[size,size,3], in grey levels."""
    level = float(rng.uniform(1.2, 2.4))
    return rng.standard_normal((size, size, 3), dtype=np.float32) * level


def expose(drawing: Canvas, light: NDArray[np.float32], rough: NDArray[np.float32],
           noise: NDArray[np.float32]) -> Canvas:
    """Return the picture of a drawing u8[H,W,3] under a light, with grain and noise, u8[H,W,3]."""
    picture = (drawing + rough) * light + noise
    return np.asarray(np.clip(np.rint(picture), 0, 255), dtype=np.uint8)
