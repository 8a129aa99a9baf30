"""How healthy images of one station look: measured on the normal images, kept in the bundle, asked at the run."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.errors import BadInput

FORMAT = 1
MIN_IMAGES = 8
"""Fewer normal images than this tell too little of how normal images vary."""

Field = npt.NDArray[np.complex64]

_NUMBERS = ("median_low", "bright_low", "median_high", "saturated_high", "match_low")
_PAIRS = ("sharp_low", "sharp_median", "shift_x", "shift_y")


@dataclass(frozen=True, eq=False)
class HealthReference:
    """What was measured on normal images at ``size`` = (height, width) pixels; brightness is luminance from 0 to 255.

    ``median_low`` and ``median_high``: the least and greatest median brightness of an image; ``bright_low``: the least
    99th percentile; ``saturated_high``: the greatest share of saturated pixels. ``sharp_low`` and ``sharp_median``:
    least and median sharpness along x and y (see ``edge_ad.camera.measure``), NaN where normal images have too little
    contrast.
    ``template``: complex64[h,w] of unit norm, the mean of the normal images' edge fields; ``match_low``: the least
    correlation of a good with it; ``shift_x``, ``shift_y``: least and greatest place of best correlation, as shares of
    the size.
    """

    size: tuple[int, int]
    count: int
    median_low: float
    bright_low: float
    median_high: float
    saturated_high: float
    sharp_low: tuple[float, float]
    sharp_median: tuple[float, float]
    match_low: float
    shift_x: tuple[float, float]
    shift_y: tuple[float, float]
    template: Field = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; the template is base64 of int8[2,h,w] (real and imaginary part)."""
        peak = float(max(np.abs(self.template.real).max(), np.abs(self.template.imag).max(), 1e-12))
        parts = np.stack([self.template.real, self.template.imag]) * (127.0 / peak)
        rows, columns = self.template.shape
        return {
            "format": FORMAT,
            "size": list(self.size),
            "count": self.count,
            **{name: round(getattr(self, name), 6) for name in _NUMBERS},
            **{name: [_finite(value) for value in getattr(self, name)] for name in _PAIRS},
            "grid": [rows, columns],
            "template": base64.b64encode(np.rint(parts).astype(np.int8).tobytes()).decode("ascii"),
        }

    @classmethod
    def from_json(cls, value: Any) -> HealthReference:
        """Read what ``to_json`` wrote; BadInput when it is anything else."""
        try:
            return cls._read(value)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadInput(
                f"the health reference of the bundle is damaged ({type(error).__name__}: {error}): train it again"
            ) from error

    @classmethod
    def _read(cls, value: Any) -> HealthReference:
        if not isinstance(value, Mapping) or value["format"] != FORMAT:
            raise ValueError("unknown format")
        rows, columns = (int(side) for side in value["grid"])
        data = np.frombuffer(base64.b64decode(value["template"], validate=True), np.int8)
        parts = data.reshape(2, rows, columns).astype(np.float32)
        template = parts[0] + 1j * parts[1]
        norm = float(np.linalg.norm(template))
        numbers: dict[str, Any] = {name: float(value[name]) for name in _NUMBERS}
        if not norm > 0 or not all(math.isfinite(number) for number in numbers.values()):
            raise ValueError("a value is not finite")
        pairs: dict[str, Any] = {name: _pair(value[name]) for name in _PAIRS}
        height, width = (int(side) for side in value["size"])
        return cls((height, width), int(value["count"]), **numbers, **pairs, template=(template / norm).astype("c8"))


def _pair(value: Any) -> tuple[float, float]:
    first, second = (math.nan if number is None else float(number) for number in value)
    return first, second


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
