"""What a little more light, a soft lens or a moved camera does to the scores of normal images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Image, read_image, resize
from edge_ad.evaluation.scores import Judge, TestScores
from edge_ad.scoring import BRANCHES, Statistics, Thresholds

MAX_NORMAL_IMAGES = 32  # at most so many normal images are disturbed: five more inferences each
SHIFT = 0.02  # of the side


def drift(judge: Judge, scores: TestScores, statistics: Statistics, thresholds: Thresholds) -> dict[str, Any] | None:
    """Return, by disturbance, how the fused score of normal images changes; None without normal images.

    {name: {"of", "score" (mean change), "z" (the same by branch), "warn_count", "count" (normal images that are then
    WARN or NG, and NG), "before" (those counts of the same normal images undisturbed)}}. At most ``GOODS`` normal
    images are taken, spread evenly.
    """
    normal = scores.of("good")
    if not normal.size:
        return None
    chosen = normal[np.unique(np.linspace(0, normal.size - 1, min(MAX_NORMAL_IMAGES, normal.size)).round().astype(int))]
    items = [scores.items[index] for index in chosen]
    images = [resize(read_image(item.path, item.bits), judge.image_size) for item in items]
    before = _counts(scores.score[chosen], thresholds)
    return {
        name: _change(judge, scores, chosen, [change(image) for image in images], statistics, thresholds, before)
        for name, change in DISTURBANCES.items()
    }


def _change(
    judge: Judge,
    scores: TestScores,
    chosen: npt.NDArray[np.intp],
    images: list[Image],
    statistics: Statistics,
    thresholds: Thresholds,
    before: dict[str, int],
) -> dict[str, Any]:
    results = [judge.infer(image) for image in images]
    score = np.array([one.score for one in results])
    moved = (np.stack([one.raw for one in results]) - scores.raw[chosen]) / statistics.std
    known = [branch in judge.branches for branch in BRANCHES]
    return {
        "of": len(images),
        "score": float(np.mean(score - scores.score[chosen])),
        "z": {branch: float(moved[:, k].mean()) if known[k] else None for k, branch in enumerate(BRANCHES)},
        **_counts(score, thresholds),
        "before": before,
    }


def _counts(score: npt.NDArray[Any], thresholds: Thresholds) -> dict[str, int]:
    return {"warn_count": int((score > thresholds.warn).sum()), "count": int((score > thresholds.ng).sum())}


def brighten(image: Image, gain: float) -> Image:
    """Multiply u8 [H, W, 3] by ``gain``, clipped."""
    brighter: Image = np.clip(image.astype(np.float32) * gain, 0, 255).round().astype(np.uint8)
    return brighter


def blur(image: Image, share: float) -> Image:
    """Blur u8 [H, W, 3] with a Gaussian whose deviation is ``share`` of the height."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), share * image.shape[0]), np.uint8)


def shift(image: Image, right: float, down: float) -> Image:
    """Move u8 [H, W, 3] by shares of its sides; the rim is repeated."""
    height, width = image.shape[:2]
    matrix = np.array([[1, 0, round(right * width)], [0, 1, round(down * height)]], np.float32)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


DISTURBANCES: dict[str, Callable[[Image], Image]] = {
    "darker 10 %": lambda image: brighten(image, 0.9),
    "brighter 10 %": lambda image: brighten(image, 1.1),
    "blur of 1 pixel in 256": lambda image: blur(image, 1 / 256),
    "shift right 2 %": lambda image: shift(image, SHIFT, 0.0),
    "shift down 2 %": lambda image: shift(image, 0.0, SHIFT),
}
