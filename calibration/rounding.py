"""Rounding FP32 weights to FP16 so that filters keep their sum.

Rounding each weight to the nearest value changes the gain of a small filter for good: all places of a picture err alike,
and the errors do not average out. In a depthwise layer nothing else makes up for it. Rounding a few weights the other way
keeps the sum of the filter, at no cost when running.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
