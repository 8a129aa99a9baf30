"""The mass of the logic map inside defects, by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.data.datasets import TestItem
from edge_ad.evaluation.figures import TestScores, logic_figures, mass_factor, suspect_masks, union

QUARTER = np.zeros((8, 8), bool)
QUARTER[:4, :4] = True


@pytest.mark.parametrize(
    ("heat", "factor"),
    [
        ([[1, 0], [0, 0]], 4.0),  # all of the mass in a quarter of the area
        ([[1, 1], [1, 1]], 1.0),  # chance
        ([[0, 1], [1, 1]], 0.0),
        ([[3, 1], [0, 0]], 3.0),
        ([[0, 0], [0, 0]], 0.0),  # it points nowhere
    ],
)
def test_factor_by_hand(heat: list[list[float]], factor: float) -> None:
    assert mass_factor(np.array(heat, np.float32), QUARTER) == pytest.approx(factor)


def test_a_cell_that_is_covered_in_part_counts_in_part() -> None:
    """The defect covers half of one cell of four: with all mass there the factor is (1/2) / (1/8)."""
    half = np.zeros((8, 8), bool)
    half[:2, :4] = True
    assert mass_factor(np.array([[1, 0], [0, 0]], np.float32), half) == pytest.approx(4.0)


def _mask(path: Path, rows: slice, columns: slice) -> Path:
    mask = np.zeros((8, 8), np.uint8)
    mask[rows, columns] = 200
    assert cv2.imwrite(str(path), mask)
    return path


def test_means_over_images_with_masks(tmp_path: Path) -> None:
    first = _mask(tmp_path / "a.png", slice(0, 4), slice(0, 4))
    second = _mask(tmp_path / "b.png", slice(4, 8), slice(0, 4))
    items = (
        TestItem(Path("g"), "good", "good"),
        TestItem(Path("l"), "logical", "x", (first,)),
        TestItem(Path("m"), "logical", "x", (first, second)),
        TestItem(Path("n"), "logical", "x"),  # no mask: not measured
    )
    heat = np.array([[1, 0], [0, -5]], np.float32)  # what is below zero is no mass
    scores = TestScores(
        items, np.zeros((4, 5), np.float32), np.zeros(4, np.float32), (heat,) * 4, ((8, 8),) * 4, (heat,) * 4
    )
    assert union(items[2]).sum() == 32
    assert logic_figures(scores) == {"logical": pytest.approx((4 + 2) / 2), "structural": None, "mean": None}
    without = TestScores(items, scores.raw, scores.score, scores.maps, scores.sizes)
    assert logic_figures(without) == {"logical": None, "structural": None, "mean": None}


@pytest.mark.parametrize(
    ("marked", "suspect"),
    [
        (slice(0, 4), False),  # marks the half that the map finds
        (slice(4, 8), False),  # marks the other half: no more than half, so a miss of the model
        (slice(2, 8), True),  # marks three quarters, and the map is lower there
        (slice(0, 6), False),  # marks three quarters, and the map is higher there
        (slice(0, 8), False),  # marks everything: nothing is outside to compare with
    ],
)
def test_a_mask_of_most_of_the_image_where_the_map_is_low_looks_inverted(
    tmp_path: Path, marked: slice, suspect: bool
) -> None:
    item = TestItem(tmp_path / "a.png", "structural", "broken", (_mask(tmp_path / "m.png", marked, slice(0, 8)),))
    heat = np.zeros((8, 8), np.float32)
    heat[:2] = 1.0
    scores = TestScores((item,), np.zeros((1, 5), np.float32), np.zeros(1, np.float32), (heat,), ((8, 8),))
    assert suspect_masks(scores) == ([str(item.path)] if suspect else [])
