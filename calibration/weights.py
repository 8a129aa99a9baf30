"""Weights as 8-bit numbers, one scale a channel, and the bias that makes up for their rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

INT8_LIMIT = 127
INT7_LIMIT = 63  # of CPUs without VNNI: the sum of two products of u8 and s8 must fit into 16 bits there
_LEAST_SCALE = 2.0**-24  # the smallest number of FP16
_BIAS_LIMIT = 2.0**30  # of an int32 bias, with room for the sum that it is added to


def half_scale(scale: NDArray[Any]) -> Floats:
    """Return the next FP16 numbers at or above ``scale``, as f32: FP32 and FP16 graphs then hold the same scales."""
    wanted = np.maximum(np.asarray(scale, np.float64), _LEAST_SCALE)
    near = wanted.astype(np.float16)
    above = np.where(near.astype(np.float64) < wanted, np.nextafter(near, np.float16(np.inf)), near)
    return above.astype(np.float32)


def weight_scale(weight: NDArray[Any], axis: int | None, limit: int) -> Floats:
    """Return one scale a channel along ``axis`` (one in all for None) that takes the largest weight to ``limit``."""
    magnitude = np.abs(np.asarray(weight, np.float64))
    others = tuple(i for i in range(magnitude.ndim) if i != axis)
    greatest = magnitude.max(axis=others if axis is not None else None)
    return np.maximum(np.atleast_1d(greatest) / limit, _LEAST_SCALE).astype(np.float32)


def room_for_bias(scale: Floats, bias: NDArray[Any], data_scale: float) -> Floats:
    """Return scales large enough that ``bias`` fits into an int32 in steps of ``data_scale`` x scale."""
    least = np.abs(np.asarray(bias, np.float64)) / (data_scale * _BIAS_LIMIT)
    return np.maximum(scale, least).astype(np.float32)


def rounded(weight: NDArray[Any], scale: Floats, axis: int | None, limit: int) -> NDArray[np.int8]:
    """Return ``weight`` in steps of ``scale``, from -limit to limit."""
    steps = np.rint(np.asarray(weight, np.float64) / spread(scale, axis, weight.ndim))
    return np.clip(steps, -limit, limit).astype(np.int8)


def spread(scale: Floats, axis: int | None, ndim: int) -> Floats:
    """Shape scales so that they multiply a weight of ``ndim`` axes along ``axis``."""
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)]) if axis is not None else scale.reshape(())


def lost_mean(kind: str, error: NDArray[Any], mean: tuple[float, ...], axis: int | None) -> NDArray[np.float64]:
    """Return what rounding takes from the mean of each output channel: ``error`` (exact less rounded) times ``mean``.

    ``error`` is shaped like the weight of a Conv, Gemm or MatMul (output channels along ``axis``), ``mean`` holds the mean
    of each input channel. Added to the bias, it leaves no channel with a shift (Nagel et al., ICCV 2019, section 4.2).
    Padding is taken to hold the mean too. Zeros where shapes do not fit or the channel axis is not known.
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
