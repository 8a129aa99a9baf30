"""Saturation by each method against slow formulas written independently, on histograms made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.ranges import METHODS, Histogram, entropy, least_squares, percentile_edge, saturation

Floats = NDArray[np.float64]
RNG = np.random.default_rng(0)


def half_normal(bins: int = 1024, sigma: float = 0.12) -> Floats:
    x = (np.arange(bins) + 0.5) / bins
    return np.rint(1e6 * np.exp(-((x / sigma) ** 2) / 2))


HISTOGRAMS = {
    "half normal": half_normal(),
    "long tail": half_normal() + np.where(np.arange(1024) > 900, 1.0, 0.0),
    "uniform": np.full(1024, 50.0),
    "two heaps": np.where(np.arange(1024) < 40, 1000.0, np.where(np.arange(1024) > 1000, 30.0, 0.0)),
    "holes": np.where(np.arange(1024) % 3 == 0, 20.0, 0.0),
    "few bins": np.array([5.0, 3.0, 1.0]),
}


def slow_percentile(counts: Floats, width: float, percentile: float) -> float:
    values = [index for index, count in enumerate(counts) for _ in range(int(count))]
    place = max(0, math.ceil(len(values) * percentile / 100.0 - 1e-9) - 1)
    return (values[place] + 1) * width


def slow_error(counts: Floats, width: float, edge: float) -> float:
    total = 0.0
    for index, count in enumerate(counts):
        x = (index + 0.5) * width
        q = min(round(x / edge * 127.0), 127) * edge / 127.0
        total += count * (x - q) ** 2
    return total


def slow_divergence(counts: Floats, end: int) -> float:
    """Kullback-Leibler divergence as in the slides, bin by bin."""
    p = [float(value) for value in counts[:end]]
    p[-1] += float(sum(counts[end:]))
    q = [0.0] * end
    for level in range(128):
        start, stop = level * end // 128, (level + 1) * end // 128
        inside = [float(value) for value in counts[start:stop]]
        filled = sum(value > 0 for value in inside)
        for index, value in enumerate(inside):
            q[start + index] = sum(inside) / filled if value > 0 else 0.0
    q = [max(value, 1e-4) for value in q]
    sums = sum(p), sum(q)
    return sum(a / sums[0] * math.log((a / sums[0]) / (b / sums[1])) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("name", HISTOGRAMS)
@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.99, 100.0])
def test_percentile(name: str, percentile: float) -> None:
    counts = np.minimum(HISTOGRAMS[name], 60.0)  # so that the slow way can list every value
    assert percentile_edge(counts, 0.5, percentile) == pytest.approx(slow_percentile(counts, 0.5, percentile))


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_least_squares(name: str) -> None:
    """No edge of any bin beats the one that is found by more than the grid of candidates allows."""
    counts = HISTOGRAMS[name]
    result = least_squares(counts, 0.25)
    best = min(slow_error(counts, 0.25, (end + 1) * 0.25) for end in range(max(len(counts) // 40, 1), len(counts), 7))
    assert slow_error(counts, 0.25, result) <= 1.02 * best + 1e-9


@pytest.mark.parametrize("name", [name for name in HISTOGRAMS if name != "few bins"])
def test_entropy(name: str) -> None:
    counts = HISTOGRAMS[name]
    result = entropy(counts, 1.0)
    ends = range(128, len(counts) + 1, 8)
    best = min(slow_divergence(counts, end) for end in ends)
    assert slow_divergence(counts, round(result)) <= best + 5e-3


def test_entropy_of_few_bins_keeps_all() -> None:
    assert entropy(HISTOGRAMS["few bins"], 2.0) == 6.0


def test_methods_order_and_cut_outliers() -> None:
    """One value in 100,000 lies ten times as far out as the rest: every method but min-max cuts it."""
    values = np.abs(RNG.normal(0, 1, 100_000)).clip(0, 4)
    held = Histogram()
    held.update(np.append(values, 40.0))
    result = {name: saturation(held, name) for name in METHODS}
    assert result["minmax"] == 40.0
    assert result["percentile"] < 5.0
    assert result["entropy"] < 8.0
    assert result["mse"] < 40.0  # a square weighs one far value more


def test_nothing_seen_and_only_zeros() -> None:
    held = Histogram()
    assert saturation(held, "mse") == 0.0
    held.update(np.zeros(5))
    assert [saturation(held, name) for name in METHODS] == [0.0] * 4


def test_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="allowed are minmax, percentile, entropy, mse"):
        saturation(Histogram(), "guess")


def test_entropy_agrees_with_onnxruntime() -> None:
    """onnxruntime's own search on the same counts, mirrored as it wants them, cuts a normal at about the same place."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    counts = HISTOGRAMS["half normal"]
    collector = calibrate.HistogramCollector("entropy", True, 128, 128, 99.99, None)
    both = np.concatenate([counts[::-1], counts]).astype(np.int64)
    edges = np.linspace(-1.0, 1.0, len(both) + 1).astype(np.float32)
    threshold = collector.get_entropy_threshold((both, edges, -1.0, 1.0, 1.0), 128)
    theirs = float(np.max(np.abs(np.asarray(threshold[:2], np.float64))))
    assert entropy(counts, 1 / 1024) == pytest.approx(theirs, rel=0.5)
