"""Rounding weights together, so that a filter answers what pictures are made of as before.

For FP16, filters keep their sum. Rounding each weight to the nearest value changes the gain of a small filter for good: all
places of a picture err alike, and the errors do not average out. In a depthwise layer nothing else makes up for it. Rounding
a few weights the other way keeps the sum of the filter, at no cost when running. In 8 bits, filters on pictures err least
where pictures have most, in what is alike from pixel to pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_NEIGHBOURS, _COLOURS = 0.95, 0.9
_MOST_PASSES = 30


def nearest(weights: NDArray[Any]) -> NDArray[np.float16]:
    """Return ``weights`` rounded to the nearest FP16 values."""
    return np.asarray(weights).astype(np.float16)


def sum_preserving(weights: NDArray[Any]) -> NDArray[np.float16]:
    """Round f32 [rows, n] to FP16 neighbours so that the sum of each row changes as little as possible.

    Every value becomes one of its two FP16 neighbours: the nearest one, unless the other one brings the sum of the row
    closer to its FP32 value; values that lie almost in the middle between their neighbours are turned first.
    """
    exact = np.asarray(weights, dtype=np.float64)
    near = exact.astype(np.float16)
    direction = np.where(exact > near, np.inf, -np.inf).astype(np.float16)
    other = np.where(exact == near, near, np.nextafter(near, direction))
    steps = other.astype(np.float64) - near
    cost = np.abs(other - exact) - np.abs(near - exact)
    errors = (near - exact).sum(axis=1)
    rounded = near.copy()
    for row, order in enumerate(np.argsort(cost, axis=1, kind="stable")):
        for column in order:
            if abs(errors[row] + steps[row, column]) < abs(errors[row]):
                rounded[row, column] = other[row, column]
                errors[row] += steps[row, column]
    return rounded


def for_pictures(exact: NDArray[Any], limit: int) -> NDArray[np.int8]:
    """Round weights [O, C, H, W], in steps, to one of the two whole numbers beside each, for a filter on pictures.

    Neighbouring pixels and colours of a picture are alike, so errors of neighbouring weights should cancel: of the error
    r of a filter, r' S r is made small, where S is how pixels of natural pictures go together, 0.95 to the power of their
    distance, times 0.9 between colours. Starting from the nearest numbers, weight after weight takes the better of its
    two until none changes. Ours, after adaptive rounding (Nagel et al., ICML 2020), with a prior in place of pictures.
    """
    wanted = np.asarray(exact, np.float64).reshape(len(exact), -1)
    low, high = np.floor(wanted), np.ceil(wanted)
    alike = _alike(*exact.shape[1:])
    steps = np.rint(wanted)
    for _ in range(_MOST_PASSES):
        before = steps.copy()
        for index in range(steps.shape[1]):
            others = (steps - wanted) @ alike[:, index] - (steps - wanted)[:, index]
            steps[:, index] = np.clip(np.rint(wanted[:, index] - others), low[:, index], high[:, index])
        if np.array_equal(steps, before):
            break
    return np.clip(steps, -limit, limit).astype(np.int8).reshape(exact.shape)


def _alike(channels: int, height: int, width: int) -> NDArray[np.float64]:
    """Return the correlation of the pixels of a window, channel by channel and row by row."""
    rows, columns = np.divmod(np.arange(height * width), width)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    colours = np.where(np.eye(channels, dtype=bool), 1.0, _COLOURS)
    return np.asarray(np.kron(colours, _NEIGHBOURS**distance))
