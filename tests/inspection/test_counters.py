"""Counters and percentiles in constant memory."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.inspection.camera_worker import Counters, Latencies


def test_percentiles_are_exact_while_the_sample_holds_all() -> None:
    latencies = Latencies(size=200)
    for value in range(101):
        latencies.add(float(value))
    assert [latencies.percentile(percent) for percent in (0, 50, 99, 100)] == [0.0, 50.0, 99.0, 100.0]


def test_a_long_stream_is_sampled_evenly() -> None:
    latencies = Latencies(size=1000)
    for value in np.random.default_rng(3).permutation(20_000):
        latencies.add(float(value))
    # The median of 1,000 out of 20,000 has a standard error of 20,000 * 0.5 / sqrt(1,000) = 316.
    assert latencies.percentile(50) == pytest.approx(10_000, abs=5 * 316)
    assert latencies.max == 19_999.0
    assert latencies.count == 20_000


def test_nothing_measured() -> None:
    assert Latencies().percentile(50) is None


def test_counters_add_up() -> None:
    one = Counters(5, 2, 1, 2, 3, 1, {"OK": 1, "WARN": 1, "NG": 0, "NONE": 3})
    both = one + one
    assert both == Counters(10, 4, 2, 4, 6, 2, {"OK": 2, "WARN": 2, "NG": 0, "NONE": 6})
