"""AU-sPRO against the definition, written out as slow loops over every threshold, and against values by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.evaluation.spro import LIMITS, Channel, MapOfImage, au_spro

Defects = list[tuple[np.ndarray, int]]


def slow_au_spro(images: Sequence[tuple[np.ndarray, Defects]], limit: float) -> float:
    """Mean saturated overlap over false positive rate at every threshold, then trapezoids up to the limit."""
    distinct = sorted({float(value) for scores, _ in images for value in scores.ravel()}, reverse=True)
    curve = []
    for threshold in [*distinct, distinct[-1] - 1]:
        false_positives = negatives = 0
        overlaps = []
        for scores, defects in images:
            predicted = scores > threshold
            free = np.ones(scores.shape, bool)
            for pixels, saturation in defects:
                free[pixels] = False
                overlaps.append(min(np.sum(predicted & pixels) / saturation, 1.0))
            false_positives += int(np.sum(predicted & free))
            negatives += int(np.sum(free))
        curve.append((false_positives / negatives, float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x1 > limit:
            return (area + (limit - x0) * (y0 + y0 + (y1 - y0) * (limit - x0) / (x1 - x0)) / 2) / limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def _channels(defects: Defects) -> Callable[[], list[Channel]]:
    return lambda: [Channel(pixels, saturation) for pixels, saturation in defects]


def _random(seed: int, grid: float | None) -> list[tuple[np.ndarray, Defects]]:
    rng = np.random.default_rng(seed)
    images = []
    for index in range(4):
        scores = rng.normal(0, 1, (11, 9)).astype(np.float32)
        defects: Defects = []
        for _ in range(int(rng.integers(0, 3)) if index else 2):  # channels may overlap
            pixels = np.zeros(scores.shape, bool)
            top, left = rng.integers(0, 7), rng.integers(0, 6)
            pixels[top : top + 4, left : left + 3] = True
            scores[pixels] += np.float32(rng.choice([0, 0.5, 1.5]))
            defects.append((pixels, int(rng.integers(1, 13))))
        if grid is not None:
            scores = (np.round(scores / grid) * grid).astype(np.float32)  # many ties
        images.append((scores, defects))
    return images


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, 0.25, 1.0, 5.0]))
def test_as_defined(seed: int, grid: float | None) -> None:
    images = _random(seed, grid)
    result = au_spro([MapOfImage(scores, (11, 9), _channels(defects)) for scores, defects in images])
    assert result is not None
    for limit in LIMITS:
        assert result[limit] == pytest.approx(slow_au_spro(images, limit), abs=1e-6)


def _one(scores: list[list[float]], defect: list[list[int]], saturation: int) -> list[MapOfImage]:
    pixels = np.array(defect, bool)
    values = np.array(scores, np.float32)
    return [MapOfImage(values, (values.shape[0], values.shape[1]), lambda: [Channel(pixels, saturation)])]


@pytest.mark.parametrize(
    ("scores", "saturation", "limit", "expected"),
    [
        # Both defect pixels above both others: found before any false positive.
        ([[4, 3], [2, 1]], 2, 1.0, 1.0),
        # Below both others: nothing until the rate is 1.
        ([[2, 1], [4, 3]], 2, 1.0, 0.0),
        # Order: defect, other, defect, other. Overlap 1/2 up to rate 1/2, then 1.
        ([[4, 2], [3, 1]], 2, 1.0, 0.75),
        ([[4, 2], [3, 1]], 2, 0.5, 0.5),
        # One pixel saturates: the second does not matter.
        ([[4, 2], [3, 1]], 1, 1.0, 1.0),
        # All scores equal: a straight line from (0, 0) to (1, 1), so half the limit.
        ([[1, 1], [1, 1]], 2, 1.0, 0.5),
        ([[1, 1], [1, 1]], 2, 0.3, 0.15),
        # A tie of one defect and one other pixel at the top: rate 0 to 1/2 while overlap goes from 0 to 1/2.
        ([[4, 2], [4, 1]], 2, 0.5, 0.25),
        ([[4, 2], [4, 1]], 2, 0.25, 0.125),
        # Negative scores and zeros of both signs are ordered like any others.
        ([[0.0, -2], [-1, -3]], 2, 1.0, 0.75),
        ([[0.0, -0.0], [-1, -3]], 2, 1.0, 1.0),
    ],
)
def test_by_hand(scores: list[list[float]], saturation: int, limit: float, expected: float) -> None:
    result = au_spro(_one(scores, [[1, 1], [0, 0]], saturation), [limit])
    assert result is not None
    assert result[limit] == pytest.approx(expected, abs=1e-9)


def test_maps_are_enlarged_to_the_image() -> None:
    rng = np.random.default_rng(0)
    small = rng.normal(0, 1, (6, 5)).astype(np.float32)
    pixels = np.zeros((24, 15), bool)
    pixels[4:12, 3:9] = True
    large = cv2.resize(small, (15, 24), interpolation=cv2.INTER_LINEAR)
    result = au_spro([MapOfImage(small, (24, 15), _channels([(pixels, 20)]))], [0.3])
    assert result is not None
    assert result[0.3] == pytest.approx(slow_au_spro([(large, [(pixels, 20)])], 0.3), abs=1e-6)


def test_images_of_different_sizes_pool_their_pixels() -> None:
    images = [(scores, defects) for scores, defects in _random(1, None)]
    rng = np.random.default_rng(9)
    images.append((rng.normal(0, 1, (20, 4)).astype(np.float32), []))
    result = au_spro([MapOfImage(scores, scores.shape, _channels(defects)) for scores, defects in images], [0.05])
    assert result is not None
    assert result[0.05] == pytest.approx(slow_au_spro(images, 0.05), abs=1e-6)


def test_nothing_to_measure_is_none() -> None:
    scores = np.zeros((3, 3), np.float32)
    assert au_spro([MapOfImage(scores, (3, 3))]) is None
    everywhere = [(np.ones((3, 3), bool), 9)]
    assert au_spro([MapOfImage(scores, (3, 3), _channels(everywhere))]) is None


def test_a_map_that_is_not_finite_is_refused() -> None:
    scores = np.array([[np.nan, 1.0]], np.float32)
    with pytest.raises(ValueError, match="not finite"):
        au_spro([MapOfImage(scores, (1, 2), _channels([(np.ones((1, 2), bool), 1)]))])
