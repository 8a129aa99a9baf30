"""Weights as 8-bit numbers, one scale a channel, and the bias that makes up for their rounding.

Rounding weights together, so that a filter answers what images are made of as before.

For FP16, filters keep their sum. Rounding each weight to the nearest value changes the gain of a small filter for good:
all places of an image err alike, and the errors do not average out. In a depthwise layer nothing else makes up for it.
Rounding a few weights the other way keeps the sum of the filter, at no cost when running. In 8 bits, filters on images
err least where images have most, in what is alike from pixel to pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

INT8_LIMIT = 127
INT7_LIMIT = 63  # of CPUs without VNNI: the sum of two products of u8 and s8 must fit into 16 bits there
_MIN_SCALE = 2.0**-24  # the smallest number of FP16
_BIAS_LIMIT = 2.0**30  # of an int32 bias, with room for the sum that it is added to


def half_scale(scale: NDArray[Any]) -> Floats:
    """Return the next FP16 numbers at or above ``scale``, as f32: FP32 and FP16 graphs then hold the same scales."""
    wanted = np.maximum(np.asarray(scale, np.float64), _MIN_SCALE)
    near = wanted.astype(np.float16)
    above = np.where(near.astype(np.float64) < wanted, np.nextafter(near, np.float16(np.inf)), near)
    return above.astype(np.float32)


def weight_scale(weight: NDArray[Any], axis: int | None, limit: int) -> Floats:
    """Return one scale a channel along ``axis`` (one in all for None) that takes the largest weight to ``limit``."""
    magnitude = np.abs(np.asarray(weight, np.float64))
    others = tuple(i for i in range(magnitude.ndim) if i != axis)
    greatest = magnitude.max(axis=others if axis is not None else None)
    return np.maximum(np.atleast_1d(greatest) / limit, _MIN_SCALE).astype(np.float32)


def room_for_bias(scale: Floats, bias: NDArray[Any], data_scale: float) -> Floats:
    """Return scales large enough that ``bias`` fits into an int32 in steps of ``data_scale`` x scale."""
    minimum = np.abs(np.asarray(bias, np.float64)) / (data_scale * _BIAS_LIMIT)
    return np.maximum(scale, minimum).astype(np.float32)


def rounded(weight: NDArray[Any], scale: Floats, axis: int | None, limit: int) -> NDArray[np.int8]:
    """Return ``weight`` in steps of ``scale``, from -limit to limit."""
    steps = np.rint(np.asarray(weight, np.float64) / spread(scale, axis, weight.ndim))
    return np.clip(steps, -limit, limit).astype(np.int8)


def spread(scale: Floats, axis: int | None, ndim: int) -> Floats:
    """Shape scales so that they multiply a weight of ``ndim`` axes along ``axis``."""
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)]) if axis is not None else scale.reshape(())


def mean_error(kind: str, error: NDArray[Any], mean: tuple[float, ...], axis: int | None) -> NDArray[np.float64]:
    """Return what rounding takes from the mean of each output channel: ``error`` (exact less rounded) times ``mean``.

    ``error`` is shaped like the weight of a Conv, Gemm or MatMul (output channels along ``axis``), ``mean`` holds the
    mean of each input channel. Added to the bias, it leaves no channel with a shift (Nagel et al., ICCV 2019, section
    4.2). Padding is taken to hold the mean too. Zeros where shapes do not fit or the channel axis is not known.
    """
    inputs = np.asarray(mean, np.float64)
    if axis is None or kind == "ConvTranspose":
        return np.zeros(0)
    if kind == "Conv":
        share = error.reshape(error.shape[0], error.shape[1], -1).sum(axis=2, dtype=np.float64)
        groups = len(inputs) // share.shape[1] if share.shape[1] else 0
        if not groups or groups * share.shape[1] != len(inputs) or share.shape[0] % groups:
            return np.zeros(0)
        table = np.repeat(inputs.reshape(groups, -1), share.shape[0] // groups, axis=0)
        return np.asarray((share * table).sum(axis=1))
    table = np.asarray(error if axis == 1 else error.T, np.float64)
    return np.asarray(inputs @ table) if len(inputs) == table.shape[0] else np.zeros(0)


_NEIGHBOURS, _COLOURS = 0.95, 0.9
_MAX_PASSES = 30


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
    """Round weights [O, C, H, W], in steps, to one of the two whole numbers beside each, for a filter on images.

    Neighbouring pixels and colours of an image are alike, so errors of neighbouring weights should cancel: of the error
    r of a filter, r' S r is made small, where S is how pixels of natural images go together, 0.95 to the power of their
    distance, times 0.9 between colours. Starting from the nearest numbers, weight after weight takes the better of its
    two until none changes. Ours, after adaptive rounding (Nagel et al., ICML 2020), with a prior in place of images.
    """
    wanted = np.asarray(exact, np.float64).reshape(len(exact), -1)
    low, high = np.floor(wanted), np.ceil(wanted)
    alike = _alike(*exact.shape[1:])
    steps = np.rint(wanted)
    for _ in range(_MAX_PASSES):
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
