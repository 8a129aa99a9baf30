"""Images that are unlike the others: the statistics, by hand, by a slow formula and on drawn images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.scoring.contamination import (
    CUT,
    Contamination,
    cross_fitted_cells,
    cross_fitted_wholes,
    find_contamination,
    folds_of,
    robust_deviations,
    shrunk_distances,
    used_for_fit,
)
from edge_ad.scoring.memory import Regions

Drawn = tuple[NDArray[np.float32], NDArray[np.float32]]


def draw(count: int, seed: int) -> Drawn:
    """Whitened cells of a grid of 6 x 6 and pooled features of images that are all alike."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6, 6, 4)).astype(np.float32), rng.normal(size=(count, 30)).astype(np.float32)


def test_deviations_are_those_of_median_and_upper_quartile() -> None:
    # The logarithms are 0, 1, 2, 3, 4: median 2, upper quartile 3, which is 0.6745 deviations above it.
    spread = (3 - 2) / 0.6745 * (1 + 8 / 5)
    expected = (np.arange(5.0) - 2) / spread
    np.testing.assert_allclose(robust_deviations(np.exp(np.arange(5.0))), expected)


def test_one_score_far_off_does_not_change_the_deviations_of_the_others() -> None:
    near, far = (robust_deviations(np.array([1.0, 2, 3, 4, 5, 6, 7, last])) for last in (8, 1e9))
    np.testing.assert_allclose(near[:-1], far[:-1])


def test_equal_scores_deviate_by_nothing() -> None:
    assert robust_deviations(np.full(10, 3.0)).tolist() == [0.0] * 10


@pytest.mark.parametrize(("limit", "kept"), [(-np.inf, 8), (CUT, 8), (100.0, 10)])
def test_a_fit_leaves_out_a_fifth_at_most(limit: float, kept: int) -> None:
    scores = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert used_for_fit(scores, limit).sum() == kept
    assert used_for_fit(scores[:4], CUT).all()


def test_distances_of_whole_images_are_those_of_the_shrunk_covariance() -> None:
    rng = np.random.default_rng(0)
    fitted, judged = rng.normal(size=(6, 9)), rng.normal(size=(3, 9))
    away = fitted - fitted.mean(axis=0)
    sample = sum(np.outer(row, row) for row in away) / 6
    covariance = 0.7 * sample + 0.3 * np.trace(sample) / 9 * np.eye(9)
    offsets = judged - fitted.mean(axis=0)
    expected = [np.sqrt(row @ np.linalg.inv(covariance) @ row) for row in offsets]
    np.testing.assert_allclose(shrunk_distances(judged, fitted), expected)


def test_no_image_is_judged_by_what_it_helped_to_fit() -> None:
    cells, pooled = draw(20, 0)
    folds, kept = np.arange(20) % 4, np.ones(20, bool)
    regions, wholes = Regions.local((6, 6), 2, 0), pooled.astype(np.float64)
    moved, shifted = cells.copy(), wholes.copy()
    moved[4] += 50
    shifted[4] += 50
    same = folds == 0  # the fold of image 4: fitted from the others, which did not change
    same[4] = False
    for before, after in (
        (cross_fitted_cells(cells, kept, folds, regions), cross_fitted_cells(moved, kept, folds, regions)),
        (cross_fitted_wholes(wholes, kept, folds), cross_fitted_wholes(shifted, kept, folds)),
    ):
        np.testing.assert_allclose(after[same], before[same])
        assert np.all(after[4] > before[4])
        assert not np.allclose(after[folds == 1], before[folds == 1])


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_are_judged_by_other_images_alone(seed: int) -> None:
    groups = [[0, 7, 9], [1], [2, 3], [4], [5], [6], [8]]
    folds = folds_of(groups, seed)
    assert all(len(set(folds[group])) == 1 for group in groups)
    assert len(set(folds)) == 5
    burst = draw(30, seed)
    for part in burst:
        part[1:4] = part[0]  # four frames of one part that is unlike the others in a place
    burst[0][:4, 2, 2] += 10
    together = find_contamination(*burst, seed, [[0, 1, 2, 3], *[[index] for index in range(4, 30)]])
    assert set(together.listed) >= {0, 1, 2, 3}


@pytest.mark.parametrize(("count", "draws"), [(10, 20), (50, 6), (200, 2)])
def test_of_images_that_are_all_alike_two_in_a_hundred_are_listed_at_most(count: int, draws: int) -> None:
    listed = sum(len(find_contamination(*draw(count, seed), seed).listed) for seed in range(draws))
    assert listed <= 0.02 * count * draws


def test_a_place_that_differs_is_listed_with_its_place() -> None:
    cells, pooled = draw(60, 1)
    cells[7, 4, 1] += 8
    result = find_contamination(cells, pooled)
    assert result.listed[0] == result.order[0] == 7
    assert tuple(result.places[7]) == (4, 1)
    assert result.grid == (6, 6)


def test_an_image_that_differs_as_a_whole_is_listed() -> None:
    cells, pooled = draw(60, 2)
    pooled[11] += 2.5
    result = find_contamination(cells, pooled)
    assert result.listed[0] == 11
    assert result.kind(11) == "whole"


def test_anomalies_that_are_all_the_same_do_not_hide_one_another() -> None:
    cells, pooled = draw(100, 3)
    same = [5, 20, 40, 77, 90]
    cells[same, 2:4, 2:4] += 5
    result = find_contamination(cells, pooled)
    assert set(same) <= set(result.listed)
    assert len(result.listed) <= len(same) + 2


def test_no_image_at_the_cut_is_listed() -> None:
    deviations = np.array([[0.0, CUT, 1.0], [CUT + 0.1, 0.0, 0.0], [CUT + 1, 0.0, 0.0]])
    result = Contamination(deviations, np.zeros((3, 2), np.intp), (1, 1))
    assert result.listed == [2, 1]
    assert [result.kind(index) for index in range(3)] == ["relative", "place", "place"]
