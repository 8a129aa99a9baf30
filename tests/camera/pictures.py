"""Real files for the tests: videos written by OpenCV, images with noise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def noise(seed: int, height: int = 48, width: int = 64, level: float = 110.0) -> Image:
    """Return a grey image u8[height,width,3] with noise."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(level, 12.0, (height, width, 3)), 0, 255).astype(np.uint8)


def write_video(path: Path, frames: list[Image], fps: float = 25.0, codec: str = "FFV1") -> Path:
    """Write RGB frames as a video; FFV1 keeps every pixel."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return path


def write_image(path: Path, image: Image) -> Path:
    """Write an RGB image in the format of its suffix."""
    assert cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))
    return path
