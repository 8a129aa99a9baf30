"""Ranges of the tensors of one graph as plain data: what calibration measured, and nothing about how it is used.

A histogram of magnitudes that grows with its values: constant memory, however many values it is given.

From a histogram of magnitudes to the magnitude at which an 8-bit tensor saturates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
_SMALLEST = 2.0**-60


class Histogram:
    """Counts of |x| in ``BINS`` bins of equal ``width``, and the least and greatest x.

    The width is a power of two and doubles, neighbours being merged, whenever a value lies beyond the last bin. So the
    counts do not depend on the order in which values came, at least half of the bins are in use, and nothing is kept
    of the values themselves. onnxruntime's histogram calibrators keep every activation of every image instead.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.counts = np.zeros(bins, np.int64)
        self.width = _SMALLEST
        self.minimum, self.maximum = np.inf, -np.inf

    def update(self, values: NDArray[Any]) -> None:
        """Count values of any shape; those that are not finite raise ValueError."""
        flat = np.abs(np.asarray(values, np.float32).ravel())
        if not flat.size:
            return
        self.widen(float(np.min(values)), float(np.max(values)))
        indices = (flat * np.float32(1.0 / self.width)).astype(np.int32)
        self.counts += np.bincount(np.minimum(indices, len(self.counts) - 1), minlength=len(self.counts))

    def widen(self, low: float, high: float) -> None:
        """Make room for values from ``low`` to ``high``, and remember that they occur."""
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"a tensor holds {low} to {high}: calibration needs finite numbers")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        while self.width * len(self.counts) <= self.top:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
            self.width *= 2.0

    @property
    def top(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


LEVELS = 127  # steps on one side of a symmetric 8-bit tensor
PERCENTILE = 99.99
_CANDIDATES = 256
_EMPTY = 1e-4  # what an empty bin of the quantised distribution counts as, in samples

Floats = NDArray[np.float64]


def saturation(histogram: Histogram, method: str, percentile: float = PERCENTILE) -> float:
    """Return the magnitude, at most the greatest one seen, at which ``method`` saturates; ValueError if unknown."""
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; allowed are {', '.join(METHODS)}")
    if not histogram.counts.sum() or histogram.top == 0.0:
        return histogram.top if np.isfinite(histogram.top) else 0.0
    counts = np.trim_zeros(histogram.counts, "b").astype(np.float64)
    if method == "percentile":
        return min(percentile_edge(counts, histogram.width, percentile), histogram.top)
    return min(METHODS[method](counts, histogram.width), histogram.top)


def percentile_edge(counts: Floats, width: float, percentile: float = PERCENTILE) -> float:
    """Return the upper edge of the first bin at which ``percentile`` percent of all values are reached."""
    wanted = counts.sum() * percentile / 100.0
    return float(np.searchsorted(np.cumsum(counts), wanted - 1e-9) + 1) * width


def least_squares(counts: Floats, width: float) -> float:
    """Return the edge at which rounding to 127 steps and cutting off give the least mean squared error.

    Values are taken to lie in the middle of their bins; the error of rounding within a step is measured, not assumed.
    """
    middles = (np.arange(len(counts)) + 0.5) * width
    edges = _edges(counts, width, LEVELS // 4)

    def error(edge: float) -> float:
        step = edge / LEVELS
        rounded = np.minimum(np.rint(middles / step), LEVELS) * step
        return float(counts @ (middles - rounded) ** 2)

    errors = np.array([error(edge) for edge in edges])
    return float(edges[int(errors.argmin())])


def entropy(counts: Floats, width: float) -> float:
    """Return the edge that loses the least information, by Kullback-Leibler divergence (Migacz, GTC 2017).

    For each edge the reference is the histogram up to it, with everything beyond added to its last bin; the candidate
    spreads the counts of each of 128 levels evenly over those of its bins that are not empty.
    """
    first = LEVELS + 1
    if len(counts) <= first:
        return len(counts) * width
    ends = np.unique(np.linspace(first, len(counts), _CANDIDATES).round().astype(int))
    scores = [_divergence(counts, int(end)) for end in ends]
    return float(ends[int(np.argmin(scores))]) * width


def _divergence(counts: Floats, end: int) -> float:
    inside = counts[:end]
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    starts = (np.arange(LEVELS + 1) * end) // (LEVELS + 1)
    sums = np.add.reduceat(inside, starts)
    filled = np.add.reduceat((inside > 0).astype(np.float64), starts)
    level = np.searchsorted(starts, np.arange(end), side="right") - 1
    share = np.divide(sums, filled, out=np.zeros_like(sums), where=filled > 0)
    candidate = np.where(inside > 0, share[level], 0.0)
    p, q = reference / reference.sum(), np.maximum(candidate, _EMPTY) / np.maximum(candidate, _EMPTY).sum()
    used = p > 0
    return float((p[used] * np.log(p[used] / q[used])).sum())


def _edges(counts: Floats, width: float, minimum: int) -> Floats:
    last = len(counts)
    ends = np.unique(np.linspace(min(minimum, last), last, _CANDIDATES).round().astype(int))
    return ends[ends > 0] * width


def _greatest(counts: Floats, width: float) -> float:
    return len(counts) * width


METHODS: dict[str, Callable[[Floats, float], float]] = {
    "minmax": _greatest,
    "percentile": percentile_edge,
    "entropy": entropy,
    "mse": least_squares,
}


SCHEMA = 1


@dataclass(frozen=True)
class TensorRange:
    """``minimum`` and ``maximum`` were seen; from ``low`` to ``high`` an 8-bit tensor should reach (0 lies between).

    ``mean`` and ``peak`` are the mean and the greatest magnitude of each channel of the input of a convolution or
    matrix product, and empty for other tensors.
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
    """Ranges by tensor name, with the ``method`` that chose them, the number of ``images`` and the hash of the graph.
    """

    graph_sha256: str
    method: str
    images: int
    tensors: Mapping[str, TensorRange]

    def scaled(self, factor: float) -> Ranges:
        """Return ranges whose 8-bit ends are ``factor`` times as far; what was seen stays."""
        wider = {
            name: replace(tensor_range, low=tensor_range.low * factor, high=tensor_range.high * factor)
            for name, tensor_range in self.tensors.items()
        }
        return replace(self, tensors=wider)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers are rounded to seven digits."""
        return {
            "schema": SCHEMA,
            "graph_sha256": self.graph_sha256,
            "method": self.method,
            "images": self.images,
            "tensors": {name: _plain(tensor_range) for name, tensor_range in self.tensors.items()},
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
        return cls(sha256, method, images, {str(name): _parse(str(name), tensor_range) for name, tensor_range in tensors.items()})


def graph_hash(model: bytes) -> str:
    """Return the sha256 of a serialised model."""
    return hashlib.sha256(model).hexdigest()


def _plain(tensor_range: TensorRange) -> dict[str, Any]:
    messages: dict[str, Any] = {key: _digits(getattr(tensor_range, key)) for key in ("low", "high", "minimum", "maximum")}
    per_channel = (key for key in ("mean", "peak") if getattr(tensor_range, key))
    channels = {key: [_digits(value) for value in getattr(tensor_range, key)] for key in per_channel}
    return {**messages, **channels}


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
    if not lists or not all(is_number(item) for item in [*ends, *mean, *peak]):
        raise ValueError(f"the range of {name!r} must hold finite numbers")
    low, high, minimum, maximum = (float(item) for item in ends)  # type: ignore[arg-type]
    if not (low <= 0.0 <= high and minimum <= maximum):
        raise ValueError(f"the range of {name!r} is {low:g} to {high:g}, but 0 must lie in it")
    return TensorRange(low, high, minimum, maximum, tuple(map(float, mean)), tuple(map(float, peak)))


def is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
