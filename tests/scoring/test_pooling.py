"""How many highest cells count, on maps whose best number follows from how they are made."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.scoring.pooling import TOPS, choose_top, highest_mean

CELLS = 1024
Maps = NDArray[np.float32]


def maps(count: int, seed: int, *, cells: int = 0, height: float = 0.0) -> Maps:
    """Return normal noise f32 [N, 1024], in which ``cells`` cells of each map are ``height`` higher."""
    random = np.random.default_rng(seed)
    result = random.normal(size=(count, CELLS)).astype(np.float32)
    for row in result:
        row[random.choice(CELLS, cells, replace=False)] += np.float32(height)
    return result


def kinds(count: int) -> list[str]:
    """Return four kinds in turn."""
    return [f"kind {number % 4}" for number in range(count)]


@pytest.mark.parametrize("top", [1, 3, 10, 1024])
def test_the_mean_of_the_highest_cells(top: int) -> None:
    given = maps(5, 0)
    np.testing.assert_allclose(highest_mean(given, top), np.sort(given, axis=1)[:, -top:].mean(axis=1), rtol=1e-5)
    assert highest_mean(given, top).dtype == np.float32


@pytest.mark.parametrize(
    ("cells", "height", "default", "allowed"),
    [
        (1, 4.0, 30, {1, 3}),  # a dot
        (3, 3.6, 100, {1, 3, 10}),
        (100, 1.0, 1, {30, 100}),  # a faint haze over a tenth of the map
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_the_size_of_defects_decides(cells: int, height: float, default: int, allowed: set[int], seed: int) -> None:
    normal, anomalies = maps(60, seed), maps(120, 100 + seed, cells=cells, height=height)
    choice = choose_top(normal, anomalies, kinds(120), default)
    assert choice.top in allowed
    assert choice.default == default
    assert choice.aurocs[choice.top] == max(choice.aurocs.values())
    assert choice.aurocs[choice.top] > choice.aurocs[default] + 0.01


@pytest.mark.parametrize("images", [4, 8, 30])
def test_the_default_stays_where_nothing_is_better(images: int) -> None:
    """Anomalies that look like normal images: whatever a sample of few says is noise."""
    left = [choose_top(maps(images, seed), maps(120, 100 + seed), kinds(120), 10).top != 10 for seed in range(40)]
    assert np.mean(left) <= 0.05


def test_four_images_cannot_move_it_for_a_small_gain() -> None:
    left = [
        choose_top(maps(4, seed), maps(120, 100 + seed, cells=10, height=2.0), kinds(120), 10).top != 10 for seed in range(20)
    ]
    assert np.mean(left) <= 0.15


@pytest.mark.parametrize("bad", ["none", "nan", "constant"])
def test_the_default_stays_without_evidence(bad: str) -> None:
    normal, anomalies = maps(10, 0), maps(20, 1, cells=1, height=9.0)
    if bad == "none":
        anomalies = anomalies[:0]
    elif bad == "nan":
        anomalies[3, 7] = np.nan
    else:
        normal[:], anomalies[:] = 0.0, 0.0
    choice = choose_top(normal, anomalies, kinds(len(anomalies)), 30)
    assert choice.top == choice.default == 30


def test_small_maps_have_fewer_candidates_and_keep_any_default() -> None:
    """A quarter of 36 cells is 9."""
    choice = choose_top(maps(10, 0)[:, :36], maps(20, 1)[:, :36], kinds(20), 12)
    assert tuple(choice.aurocs) == (1, 3, 12)
    assert tuple(choose_top(maps(10, 0), maps(20, 1), kinds(20), 10).aurocs) == TOPS
    assert choice.as_dict()["auroc"].keys() == {"1", "3", "12"}
