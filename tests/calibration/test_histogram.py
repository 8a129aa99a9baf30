"""The growing histogram: the same counts whatever the order, in constant memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.ranges import Histogram

VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


def filled(*parts: list[float], bins: int = 64) -> Histogram:
    held = Histogram(bins)
    for part in parts:
        held.update(np.array(part, np.float32))
    return held


def test_by_hand() -> None:
    held = filled([0.0, 0.5, 1.0, -3.9], bins=4)
    assert held.width == 1.0
    assert held.counts.tolist() == [2, 1, 0, 1]
    assert (held.minimum, held.maximum, held.top) == (pytest.approx(-3.9), 1.0, pytest.approx(3.9))
    held.update(np.array([7.0]))
    assert held.width == 2.0
    assert held.counts.tolist() == [3, 1, 0, 1]


@settings(max_examples=60, deadline=None)
@given(VALUES, VALUES)
def test_order_does_not_matter_and_nothing_is_lost(first: list[float], second: list[float]) -> None:
    one, other, whole = filled(first, second), filled(second, first), filled(first + second)
    assert one.counts.tolist() == other.counts.tolist() == whole.counts.tolist()
    assert one.width == other.width == whole.width
    assert one.counts.sum() == len(first) + len(second)
    assert one.top < one.width * 64


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_counts_are_those_of_numpy(values: list[float]) -> None:
    held = filled(values)
    magnitudes = np.abs(np.array(values, np.float32)).astype(np.float64)
    expected, _ = np.histogram(magnitudes, bins=64, range=(0, held.width * 64))
    assert held.counts.tolist() == expected.tolist()


def test_half_of_the_bins_are_in_use() -> None:
    for top in (1e-6, 0.3, 5.0, 1e9):
        held = filled([top, top / 3])
        assert np.flatnonzero(held.counts).max() >= 31


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        filled([1.0, bad])


def test_nothing_and_zeros() -> None:
    held = filled([], [0.0, 0.0])
    assert held.counts.sum() == 2
    assert held.top == 0.0
