"""Ranges of the tensors of one graph as plain data: what calibration measured, and nothing about how it is used."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from calibration.methods import METHODS

SCHEMA = 1


@dataclass(frozen=True)
class TensorRange:
    """``minimum`` and ``maximum`` were seen; from ``low`` to ``high`` an 8-bit tensor should reach (0 lies between).

    ``mean`` and ``peak`` are the mean and the greatest magnitude of each channel of the input of a convolution or matrix
    product, and empty for other tensors.
    """

    low: float
    high: float
    minimum: float
    maximum: float
    mean: tuple[float, ...] = ()
    peak: tuple[float, ...] = ()

    @property
    def magnitude(self) -> float:
        """The greatest magnitude seen."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def bound(self) -> float:
        """The magnitude that a symmetric 8-bit tensor should reach."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Ranges:
    """Ranges by tensor name, with the ``method`` that chose them, the number of ``images`` and the hash of the graph."""

    graph_sha256: str
    method: str
    images: int
    tensors: Mapping[str, TensorRange]

    def scaled(self, factor: float) -> Ranges:
        """Return ranges whose 8-bit ends are ``factor`` times as far; what was seen stays."""
        wider = {
            name: replace(held, low=held.low * factor, high=held.high * factor) for name, held in self.tensors.items()
        }
        return replace(self, tensors=wider)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers are rounded to seven digits."""
        return {
            "schema": SCHEMA,
            "graph_sha256": self.graph_sha256,
            "method": self.method,
            "images": self.images,
            "tensors": {name: _plain(held) for name, held in self.tensors.items()},
        }

    @classmethod
    def from_json(cls, value: object) -> Ranges:
        """Build from what ``to_json`` gave; ValueError with one sentence for anything else."""
        if not isinstance(value, Mapping) or value.get("schema") != SCHEMA:
            raise ValueError(f"ranges must be a JSON object of schema {SCHEMA}")
        sha256, method, images, tensors = (value.get(key) for key in ("graph_sha256", "method", "images", "tensors"))
        if not isinstance(sha256, str) or not isinstance(method, str) or method not in METHODS:
            raise ValueError(f"ranges must name the hash of a graph and one of the methods {', '.join(METHODS)}")
        if not isinstance(images, int) or isinstance(images, bool) or images < 1 or not isinstance(tensors, Mapping):
            raise ValueError("ranges must hold a number of images, 1 or more, and an object of tensors")
        return cls(sha256, method, images, {str(name): _parse(str(name), held) for name, held in tensors.items()})


def graph_hash(model: bytes) -> str:
    """Return the sha256 of a serialised model."""
    return hashlib.sha256(model).hexdigest()


def _plain(held: TensorRange) -> dict[str, Any]:
    told: dict[str, Any] = {key: _digits(getattr(held, key)) for key in ("low", "high", "minimum", "maximum")}
    channels = {key: [_digits(value) for value in getattr(held, key)] for key in ("mean", "peak") if getattr(held, key)}
    return {**told, **channels}


def _digits(value: float) -> float:
    return float(f"{value:.7g}")


def _parse(name: str, value: object) -> TensorRange:
    if not isinstance(value, Mapping) or not set(value) <= {"low", "high", "minimum", "maximum", "mean", "peak"}:
        raise ValueError(
            f"the range of {name!r} must be an object with low, high, minimum, maximum and perhaps mean and peak"
        )
    ends = [value.get(key) for key in ("low", "high", "minimum", "maximum")]
    mean, peak = value.get("mean", []), value.get("peak", [])
    lists = isinstance(mean, list) and isinstance(peak, list)
    if not lists or not all(_is_number(item) for item in [*ends, *mean, *peak]):
        raise ValueError(f"the range of {name!r} must hold finite numbers")
    low, high, minimum, maximum = (float(item) for item in ends)  # type: ignore[arg-type]
    if not (low <= 0.0 <= high and minimum <= maximum):
        raise ValueError(f"the range of {name!r} is {low:g} to {high:g}, but 0 must lie in it")
    return TensorRange(low, high, minimum, maximum, tuple(map(float, mean)), tuple(map(float, peak)))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
