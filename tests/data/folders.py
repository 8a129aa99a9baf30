"""Folders of small images in the three layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

DEFECTS = [{"defect_name": "spot", "pixel_value": 255, "saturation_threshold": 1.0, "relative_saturation": True}]


def picture(seed: int, size: tuple[int, int] = (40, 60)) -> NDArray[np.uint8]:
    """Return a smooth random image u8 [h, w, 3]; two seeds are far from near-duplicates."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 220, (5, 5, 3)).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8)


def save(path: Path, image: NDArray[Any]) -> Path:
    """Write an image (RGB) with OpenCV, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image if image.ndim == 2 else image[:, :, ::-1])
    return path


def goods(folder: Path, count: int, first: int = 0, suffix: str = ".png") -> list[Path]:
    """Write ``count`` different images named by number."""
    return [save(folder / f"{index:03}{suffix}", picture(first + index)) for index in range(count)]


def mvtec(root: Path, train: int = 30, good: int = 4, defects: tuple[str, ...] = ("broken", "dirt")) -> Path:
    """Write the MVTec AD layout, with one mask for each of 3 anomalies per defect."""
    goods(root / "train" / "good", train)
    goods(root / "test" / "good", good, 500)
    for number, defect in enumerate(defects):
        for path in goods(root / "test" / defect, 3, 600 + 10 * number):
            save(root / "ground_truth" / defect / f"{path.stem}_mask.png", spot(path.stem))
    return root


def loco(root: Path, train: int = 30, validation: int = 24, good: int = 4) -> Path:
    """Write the MVTec LOCO AD layout, with one mask channel for each of 3 anomalies per kind."""
    goods(root / "train" / "good", train)
    goods(root / "validation" / "good", validation, 300)
    goods(root / "test" / "good", good, 500)
    for number, kind in enumerate(("logical_anomalies", "structural_anomalies")):
        for path in goods(root / "test" / kind, 3, 600 + 10 * number):
            save(root / "ground_truth" / kind / path.stem / "000.png", spot(path.stem))
    (root / "defects_config.json").write_text(json.dumps(DEFECTS))
    return root


def spot(stem: str) -> NDArray[np.uint8]:
    """Return a mask u8 [40, 60] of 0 and 255 whose place depends on the number in ``stem``."""
    mask = np.zeros((40, 60), np.uint8)
    left = 5 + 10 * int(stem)
    mask[10:20, left : left + 10] = 255
    return mask
