"""Two simple detectors that a hard data set must defeat: a global colour histogram, and the difference to a mean image.

Of the variants tried on the synthetic line (nearest neighbour, distance to the mean, other bins, windows and colour
spaces) these are among the strongest, so that a low figure says something about the line. Images are u8[N,H,W,3];
``train`` and ``goods`` are good parts, ``anomalies`` bad ones, all of one size. Both return the area under the
ROC curve of goods against anomalies: 0.5 is guessing, 1 is perfect. BadInput when a stack is empty or sizes differ.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.evaluation.auroc import auroc

_LEVELS = 8
_SHRINKAGE = 0.01
_WINDOW = 9
_LEAST_DEVIATION = 5.0


def colour_histogram_auroc(train: NDArray[np.uint8], goods: NDArray[np.uint8], anomalies: NDArray[np.uint8]) -> float:
    """Return the AUROC of the Mahalanobis distance between square roots of 8 x 8 x 8 colour histograms."""
    _check(train, goods, anomalies)
    fit, good, bad = (np.stack([_histogram(image) for image in images]) for images in (train, goods, anomalies))
    centre = fit.mean(axis=0)
    spread = (fit - centre).T @ (fit - centre) / len(fit)
    floor = max(float(np.trace(spread)) / len(spread), 1e-9)
    # With fewer pictures than bins the covariance is singular; pulling it towards a sphere makes it invertible.
    precision = np.linalg.inv((1 - _SHRINKAGE) * spread + _SHRINKAGE * floor * np.eye(len(spread)))
    return _auroc(*(np.einsum("nd,de,ne->n", x - centre, precision, x - centre) for x in (good, bad)))


def mean_difference_auroc(train: NDArray[np.uint8], goods: NDArray[np.uint8], anomalies: NDArray[np.uint8]) -> float:
    """Return the AUROC of the largest 9 x 9 average of |image - mean image|, in standard deviations of each pixel."""
    _check(train, goods, anomalies)
    total, squares = np.zeros(train.shape[1:]), np.zeros(train.shape[1:])
    for image in train:
        pixels = image.astype(np.float64)
        total += pixels
        squares += pixels * pixels
    mean = total / len(train)
    deviation = np.sqrt(np.maximum(squares / len(train) - mean * mean, 0)) + _LEAST_DEVIATION
    good, bad = (np.array([_worst_spot(image, mean, deviation) for image in images]) for images in (goods, anomalies))
    return _auroc(good, bad)


def _histogram(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the square roots of the shares of all 512 coarse colours, f64[512]."""
    coarse = image.astype(np.int64) * _LEVELS // 256
    bins = (coarse[..., 0] * _LEVELS + coarse[..., 1]) * _LEVELS + coarse[..., 2]
    shares = np.bincount(bins.ravel(), minlength=_LEVELS**3) / bins.size
    return np.asarray(np.sqrt(shares), dtype=np.float64)


def _worst_spot(image: NDArray[np.uint8], mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> float:
    difference = (np.abs(image - mean) / deviation).mean(axis=2)
    return float(np.asarray(cv2.blur(difference, (_WINDOW, _WINDOW))).max())


def _auroc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    value = auroc(good, bad)
    assert value is not None  # empty stacks were refused
    return value


def _check(*stacks: NDArray[np.uint8]) -> None:
    shapes = {stack.shape[1:] for stack in stacks}
    if not all(len(stack) for stack in stacks) or len(shapes) != 1:
        raise BadInput(f"baselines need images of one size in every stack, not {[stack.shape for stack in stacks]}")
