"""Remembered cells: distances by hand, what a coreset covers, and which cells a region knows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.scoring.memory import (
    Regions,
    banks_of,
    constants_of,
    coreset,
    distances,
    fit_cells,
    gaussian_distances,
    joined_cells,
    remember,
    whitening_of,
)

Cells = NDArray[np.float32]


def line(*values: float) -> Cells:
    """Cells f32 [N, 1] on a line."""
    return np.array(values, np.float32)[:, None]


def test_distances_by_hand() -> None:
    bank = np.array([[[0, 0], [3, 4]]], np.float32)
    cells = np.array([[[0, 0], [3, 0]], [[3, 5], [6, 8]]], np.float32)[None]  # a grid of 2 x 2
    result = distances(cells, bank, Regions.whole((2, 2)))
    np.testing.assert_allclose(result, [[[0, 3], [1, 5]]], atol=1e-6)


def test_a_region_knows_its_own_bank_alone() -> None:
    banks = np.array([[[0.0]], [[10.0]]], np.float32)  # left, right
    cells = np.array([[[1.0], [1.0]]], np.float32)[None]
    np.testing.assert_allclose(distances(cells, banks, Regions((1, 2), (1, 1))), [[[1, 9]]])


def test_a_coreset_takes_the_farthest_cell_each_time() -> None:
    cells = line(0, 1, 2, 100, 101, 50)
    chosen = cells[coreset(cells, 3, seed=0), 0]
    assert {min(chosen) <= 2, max(chosen) >= 100, 50.0 in chosen} == {True}
    np.testing.assert_array_equal(coreset(cells, 3, seed=0), coreset(cells, 3, seed=0))
    assert sorted(coreset(cells, 99, seed=0)) == list(range(6))


@pytest.mark.parametrize("count", [8, 32, 128])
def test_a_coreset_covers_better_than_chance(count: int) -> None:
    cells = np.random.default_rng(1).normal(size=(2000, 6)).astype(np.float32)

    def farthest(chosen: NDArray[np.intp]) -> float:
        return float(np.linalg.norm(cells[:, None] - cells[chosen][None], axis=2).min(axis=1).max())

    assert farthest(coreset(cells, count, seed=0)) < farthest(np.arange(count))


def test_whitened_cells_have_equal_spread_in_every_direction_that_varies() -> None:
    rng = np.random.default_rng(2)
    cells = (rng.normal(size=(20_000, 3)) * (10.0, 9.0, 8.0) + 5.0).astype(np.float32)
    centre, matrix = whitening_of(cells)
    white = (cells - centre) @ matrix.T
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=0.15)  # shrunk by a tenth: not exactly
    _, narrow = whitening_of(cells, 2)
    np.testing.assert_allclose(np.abs(narrow @ matrix.T), np.eye(2, 3) * np.sum(matrix**2, axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("grid", "side", "size", "counts"),
    [
        ((32, 32), 16, (16, 16), (2, 2)),
        ((64, 16), 16, (16, 16), (4, 1)),
        ((52, 20), 16, (4, 4), (13, 5)),
        ((28, 36), 8, (4, 4), (7, 9)),
    ],
)
def test_regions_divide_any_grid(
    grid: tuple[int, int], side: int, size: tuple[int, int], counts: tuple[int, int]
) -> None:
    regions = Regions.local(grid, side, overlap=0)
    assert (regions.size, regions.counts) == (size, counts)
    covered = np.zeros(grid, int)
    for window in regions.windows():
        covered[window] += 1
    assert (covered == 1).all()


def test_regions_overlap_inside_the_grid() -> None:
    windows = list(Regions.local((4, 8), 4, overlap=1).windows())
    assert [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in windows] == [(0, 5, 0, 5), (0, 5, 3, 9)]


def test_what_is_remembered_lies_in_the_region_and_around_it() -> None:
    white = np.tile(np.arange(8, dtype=np.float32), (3, 4, 1))[..., None]  # a cell is its column
    banks = remember(white, Regions.local((4, 8), 4, overlap=1), 5, seed=0)
    assert [sorted(bank[:, 0]) for bank in banks] == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]]
    assert distances(white, banks, Regions.local((4, 8), 4, overlap=1)).max() == 0


def test_banks_survive_the_constants_of_a_graph() -> None:
    banks = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    bank, norms = constants_of(banks)
    np.testing.assert_array_equal(banks_of(bank), banks)
    np.testing.assert_allclose(norms[..., 0], np.linalg.norm(banks, axis=2) ** 2, rtol=1e-6)


def test_a_gaussian_measures_in_deviations_of_the_place() -> None:
    """Two blocks of one cell: the left varies by 1, the right by 3; shrinkage and floor are told by the formula."""
    rng = np.random.default_rng(4)
    white = (rng.normal(size=(50_000, 1, 2, 1)) * [[[1.0], [3.0]]] + [[[5.0], [-2.0]]]).astype(np.float32)
    regions = Regions.local((1, 2), 1, overlap=0)
    mean, roots = fit_cells(white, regions)
    np.testing.assert_allclose(mean[0, :, 0], [5, -2], atol=0.05)
    shared = (1.0 + 9.0) / 2
    variances = [0.8 * value + 0.2 * shared + 0.05 * shared for value in (1.0, 9.0)]
    result = gaussian_distances(np.array([[[[7.0], [4.0]]]], np.float32), (mean, roots), regions)
    np.testing.assert_allclose(result[0, 0], [2 / np.sqrt(variances[0]), 6 / np.sqrt(variances[1])], rtol=0.03)


def test_a_gaussian_of_several_directions_agrees_with_the_precision() -> None:
    rng = np.random.default_rng(5)
    white = rng.normal(size=(400, 4, 4, 3)).astype(np.float32) @ rng.normal(size=(3, 3)).astype(np.float32)
    regions = Regions.local((4, 4), 2, overlap=0)
    mean, roots = fit_cells(white, regions)
    result = gaussian_distances(white[:2], (mean, roots), regions)
    precision = roots[1].T @ roots[1]  # the block at the top right
    away = white[1, 1, 3] - mean[1, 3]
    assert result[1, 1, 3] == pytest.approx(float(np.sqrt(away @ precision @ away)), rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_gaussian_of_old_and_new_images_is_that_of_all_at_once(shift: float) -> None:
    rng = np.random.default_rng(6)
    mix = rng.normal(size=(5, 5)).astype(np.float32)
    white = rng.normal(size=(70, 4, 6, 5)).astype(np.float32) @ mix
    white[50:] += np.float32(shift)
    regions = Regions.local((4, 6), 2, overlap=0)
    mean, roots = joined_cells(fit_cells(white[:50], regions), white[50:], regions, (len(white) - 50) / len(white))
    expected_mean, expected_roots = fit_cells(white, regions)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-5)
    np.testing.assert_allclose(roots, expected_roots, atol=2e-4 * np.abs(expected_roots).max())
