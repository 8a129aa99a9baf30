"""The promise of thresholds: the interval against scipy's beta-binomial, the verdict on draws that keep it or do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.evaluation.promise import count_interval, measure


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 500), st.integers(1, 300), st.sampled_from([0.005, 0.01, 0.05, 0.2, 0.9]))
def test_the_interval_is_that_of_the_beta_binomial(goods: int, unseen: int, rate: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    above = max(1, int(rate * (goods + 1) + 1e-9))
    law = stats.betabinom(unseen, above, goods + 1 - above)
    low, high = count_interval(goods, unseen, rate)
    assert law.cdf(low - 1) <= 0.025 + 1e-9
    assert law.cdf(low) > 0.025 - 1e-9
    assert law.sf(high) <= 0.025 + 1e-9
    assert high == 0 or law.sf(high - 1) > 0.025 - 1e-9


def test_the_interval_of_the_measurement() -> None:
    """400 normal images at 1 %: the fifth highest score is the threshold, Beta(4, 397), mean 4/401 of 2,000 = 20."""
    low, high = count_interval(400, 2000, 0.01)
    assert 0 < low < 20 < high < 60


def draws(shift: float, seeds: int = 20, goods: int = 400, unseen: int = 2000) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [(rng.normal(0, 1, goods), rng.normal(shift, 1, unseen)) for _ in range(seeds)]


@pytest.mark.parametrize("target", [0.01, 0.05])
def test_goods_of_the_same_kind_keep_it(target: float) -> None:
    found = measure(draws(0.0), target)
    assert found.holds
    assert found.supported == target
    assert found.inside >= 17
    assert found.mean == pytest.approx(np.mean(found.counts) / 2000)
    assert found.error == pytest.approx(np.std(np.array(found.counts) / 2000, ddof=1) / np.sqrt(20))


def test_goods_that_drifted_do_not() -> None:
    found = measure(draws(0.7), 0.05)
    assert not found.holds
    assert found.inside < 17


def test_by_hand() -> None:
    """Nine normal images support 1/10: the threshold is the highest, 9. Of 10, 8, 9 and 12 two lie above it."""
    found = measure([(range(1, 10), [10, 8, 9, 12]), (range(1, 10), [0, 0, 0, 0])], 0.01)
    assert found.supported == pytest.approx(0.1)
    assert found.counts == (2, 0)
    assert found.mean == 0.25


def test_draws_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="same numbers of normal images"):
        measure([([1, 2], [3]), ([1, 2, 3], [4])], 0.1)
