"""Scale and zero point of a tensor of 8-bit numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration import weights
from calibration.placement import dequantised
from calibration.ranges import Ranges, TensorRange
from calibration.view import View


@dataclass(frozen=True)
class Step:
    """A number q stands for ``scale`` x (q - ``zero``)."""

    scale: float
    zero: int


def step_of(view: View, ranges: Ranges, name: str, signed: bool) -> Step:
    """Return the step of a tensor: its own where the graph holds it in bytes, else one that its range asks for.

    ``signed`` is symmetric S8, else U8. Raises ValueError for a tensor without a range.
    """
    if not signed and dequantised(view, name):
        scale, zero = (view.array(held).item() for held in view.node(view.producer[name]).input[1:3])
        return Step(float(scale), int(zero))
    held = ranges.tensors.get(name)
    if held is None:
        raise ValueError(f"the ranges lack the tensor {name!r}: calibrate again")
    return _symmetric(held) if signed else _asymmetric(held)


def _symmetric(held: TensorRange) -> Step:
    return Step(float(weights.half_scale(np.array(held.bound / weights.INT8_LIMIT))), 0)


def _asymmetric(held: TensorRange) -> Step:
    span = max(held.high - held.low, 1e-8)
    scale = float(np.float32(span / 255.0))
    return Step(scale, int(np.clip(round(-held.low / scale), 0, 255)))
