"""From a histogram of magnitudes to the magnitude at which an 8-bit tensor saturates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Histogram

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


def _edges(counts: Floats, width: float, least: int) -> Floats:
    last = len(counts)
    ends = np.unique(np.linspace(min(least, last), last, _CANDIDATES).round().astype(int))
    return ends[ends > 0] * width


def _greatest(counts: Floats, width: float) -> float:
    return len(counts) * width


METHODS: dict[str, Callable[[Floats, float], float]] = {
    "minmax": _greatest,
    "percentile": percentile_edge,
    "entropy": entropy,
    "mse": least_squares,
}
