"""The module of the memory against distances computed cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_ad.models.memory import CellGaussians, Memory
from edge_ad.scoring.memory import Regions

CHANNELS, WIDTH, COUNT = 6, 4, 5


@pytest.mark.parametrize("size", [(8, 8), (12, 4), (4, 20)])
@pytest.mark.parametrize("local", [False, True])
def test_the_map_holds_the_distance_of_every_cell_to_the_nearest_of_its_bank(
    size: tuple[int, int], local: bool
) -> None:
    rng = np.random.default_rng(0)
    regions = Regions.local(size, 4, overlap=1) if local else Regions.whole(size)
    centre, matrix = rng.normal(size=CHANNELS), rng.normal(size=(WIDTH, CHANNELS))
    banks = rng.normal(size=(regions.count, COUNT, WIDTH))
    memory = Memory(CHANNELS, regions, COUNT, WIDTH)
    memory.set(*(values.astype(np.float32) for values in (centre, matrix, banks)))
    features = rng.normal(size=(CHANNELS, *size))
    result = memory(torch.from_numpy(features[None]).float())
    assert result.shape == (1, 1, *size)
    for row, column in np.ndindex(*size):
        region = (row // 4) * (size[1] // 4) + column // 4 if local else 0
        cell = matrix @ (features[:, row, column] - centre)
        expected = min(np.linalg.norm(cell - remembered) for remembered in banks[region])
        assert float(result[0, 0, row, column]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_remembered_cell_has_no_distance() -> None:
    features = torch.randn(1, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    memory = Memory(CHANNELS, Regions.whole((4, 4)), 16)
    cells = features[0].flatten(1).T.numpy()
    memory.set(np.zeros(CHANNELS, np.float32), np.eye(CHANNELS, dtype=np.float32), cells[None])
    assert float(memory(features).max()) < 2e-3  # the root of what rounding leaves


@pytest.mark.parametrize("size", [(8, 8), (12, 4)])
def test_gaussians_measure_from_the_mean_of_the_cell_by_the_covariance_of_its_block(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    regions = Regions.local(size, 2, overlap=0)
    centre, matrix, mean = rng.normal(size=CHANNELS), rng.normal(size=(WIDTH, CHANNELS)), rng.normal(size=(*size, WIDTH))
    roots = rng.normal(size=(regions.count, WIDTH, WIDTH))
    gaussians = CellGaussians(CHANNELS, regions, WIDTH)
    gaussians.set(*(values.astype(np.float32) for values in (centre, matrix, mean, roots)))
    features = rng.normal(size=(CHANNELS, *size))
    result = gaussians(torch.from_numpy(features[None]).float())
    assert result.shape == (1, 1, *size)
    for row, column in np.ndindex(*size):
        root = roots[(row // 2) * (size[1] // 2) + column // 2]
        away = matrix @ (features[:, row, column] - centre) - mean[row, column]
        assert float(result[0, 0, row, column]) == pytest.approx(np.linalg.norm(root @ away), rel=1e-4, abs=1e-4)
