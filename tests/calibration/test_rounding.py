"""Weights rounded together: to FP16 neighbours, filters keep their sum; to 8 bits, filters on images err least."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from calibration.weights import for_pictures, nearest, sum_preserving

ULP = 2.0**-10  # the distance of FP16 values between 1 and 2


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([0.4, 0.4, 0.4], [0, 0, 1]),  # nearest errs by 1.2 steps; turning one leaves 0.2
        ([0.5, 0.0, 0.5], [1, 0, 0]),  # exactly in the middle twice: one each way
        ([0.1, 0.1, 0.1], [0, 0, 0]),  # an error of 0.3 is less than any turn would leave
        ([0.7, 0.6, 0.6], [0, 1, 1]),  # any one of them turned leaves 0.1; see the order below
        ([1.0, 2.0, 3.0], [1, 2, 3]),
    ],
)
def test_by_hand(steps: list[float], expected: list[int]) -> None:
    """Weights are 1 + steps x ULP; which of equal candidates turns is not fixed, so sums and neighbours are compared."""
    rounded = (sum_preserving(np.array([[1 + step * ULP for step in steps]])) - 1).astype(np.float64)[0] / ULP
    assert rounded.sum() == pytest.approx(sum(expected))
    assert all(abs(value - step) < 1 for value, step in zip(rounded, steps, strict=True))


ROWS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-8, 8, width=32))


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_neighbours_and_a_better_sum(weights: NDArray[np.float32]) -> None:
    exact = weights.astype(np.float64)
    near, unquantised = nearest(weights).astype(np.float64), sum_preserving(weights).astype(np.float64)
    spacing = np.spacing(np.maximum(np.abs(near), np.abs(unquantised)).astype(np.float16)).astype(np.float64)
    assert (np.abs(unquantised - exact) <= spacing).all()
    assert (unquantised[near == exact] == near[near == exact]).all()
    before, after = (np.abs((value - exact).sum(axis=1)) for value in (near, unquantised))
    assert (after <= before + 1e-12).all()


def test_a_flat_picture_keeps_its_brightness() -> None:
    """A filter answers an even area with its sum: over 500 filters the error falls to well under half."""
    filters = np.random.default_rng(0).normal(0.1, 0.05, (500, 9)).astype(np.float32)
    exact = filters.astype(np.float64).sum(axis=1)
    errors = [
        np.abs(rounded.astype(np.float64).sum(axis=1) - exact).mean()
        for rounded in (nearest(filters), sum_preserving(filters))
    ]
    assert errors[1] < 0.4 * errors[0]


FILTERS = np.random.default_rng(1).normal(0.0, 40.0, (60, 3, 4, 4)).clip(-127, 127)


def test_filters_on_pictures_take_neighbours_and_answer_grey_as_before() -> None:
    steps, near = for_pictures(FILTERS, 127), np.rint(FILTERS)
    assert steps.dtype == np.int8
    assert (np.abs(steps - FILTERS) < 1.0).all()
    for axes, share in (((1, 2, 3), 0.3), ((2, 3), 1.05)):  # a flat area of grey, and of one colour
        unquantised, plain = (np.abs((held - FILTERS).sum(axis=axes)).mean() for held in (steps, near))
        assert unquantised < share * plain


def test_filters_on_smooth_pictures_err_less() -> None:
    """Grey noise that a box of 9 x 9 has smoothed, seen through windows of 4 x 4."""
    rng = np.random.default_rng(2)
    noise = np.cumsum(np.cumsum(np.pad(rng.normal(0, 1, (64, 64)), ((9, 0), (9, 0))), axis=0), axis=1)
    smooth = noise[9:, 9:] - noise[:-9, 9:] - noise[9:, :-9] + noise[:-9, :-9]
    windows = np.lib.stride_tricks.sliding_window_view(smooth, (4, 4)).reshape(-1, 16)
    errors = [
        np.square(windows @ (held - FILTERS).sum(axis=1).reshape(60, 16).T).mean()
        for held in (for_pictures(FILTERS, 127), np.rint(FILTERS))
    ]
    assert errors[0] < 0.3 * errors[1]


@pytest.mark.parametrize("shape", [(4, 1, 3, 3), (2, 3, 1, 1), (1, 4, 2, 5)])
def test_whole_numbers_stay_and_the_limit_holds(shape: tuple[int, ...]) -> None:
    whole = np.random.default_rng(3).integers(-63, 64, shape)
    assert (for_pictures(whole.astype(np.float64), 63) == whole).all()
    assert np.abs(for_pictures(whole + 0.4, 63).astype(int)).max() <= 63
