"""Intervals by bootstrap: seeded, as wide as the sampling makes them, narrower when paired."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.scoring.auroc import auroc_difference, auroc_interval


def test_the_interval_is_seeded_and_holds_the_value() -> None:
    rng = np.random.default_rng(0)
    goods, anomalies = rng.normal(0, 1, 40), rng.normal(1, 1, 50)
    first, again, other = (auroc_interval(goods, anomalies, seed) for seed in (0, 0, 1))
    assert first is not None
    assert first == again
    assert first != other
    assert 0 <= first.low < first.value < first.high <= 1


def test_the_width_of_the_interval_is_that_of_the_sampling() -> None:
    # Hanley and McNeil's standard error of an AUROC of 0.76 with 200 + 200 exponential-like scores is about 0.024.
    rng = np.random.default_rng(1)
    interval = auroc_interval(rng.normal(0, 1, 200), rng.normal(1, 1, 200))
    assert interval is not None
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(0.024, abs=0.005)


def test_perfect_separation_has_no_width() -> None:
    interval = auroc_interval([0, 1, 2], [5, 6])
    assert interval is not None
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_nothing_to_compare_is_none() -> None:
    assert auroc_interval([1.0], []) is None
    assert auroc_difference(([1.0], []), ([1.0], [])) is None


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    rng = np.random.default_rng(2)
    goods, anomalies = rng.normal(0, 1, 60), rng.normal(0.8, 1, 60)
    noisy = goods + rng.normal(0, 0.1, 60), anomalies + rng.normal(0, 0.1, 60)
    paired = auroc_difference((goods, anomalies), noisy)
    alone = auroc_interval(goods, anomalies)
    assert paired is not None
    assert alone is not None
    assert paired.high - paired.low < (alone.high - alone.low) / 3
    same = auroc_difference((goods, anomalies), (goods, anomalies))
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the same images"):
        auroc_difference(([1, 2], [3]), ([1], [3]))


def test_large_tables_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    goods, anomalies = rng.normal(0, 1, 30), rng.normal(1, 1, 40)
    whole = auroc_interval(goods, anomalies)
    monkeypatch.setattr("edge_ad.scoring.auroc._CELLS", 100)
    parts = auroc_interval(goods, anomalies)
    assert whole is not None
    assert parts is not None
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-12)
