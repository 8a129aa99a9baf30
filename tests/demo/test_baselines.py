"""Simple detectors: right on images whose answer is known, and defeated by the synthetic line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.demo.run import colour_histogram_auroc, mean_difference_auroc
from edge_ad.errors import BadInput
from edge_ad.synthetic import line

Images = NDArray[np.uint8]


def noise(seed: int, count: int) -> Images:
    return np.random.default_rng(seed).integers(100, 130, (count, 32, 32, 3)).astype(np.uint8)


def red_square(images: Images) -> Images:
    marked = images.copy()
    marked[:, 8:24, 8:24] = (220, 20, 20)
    return marked


@pytest.mark.parametrize("baseline", [colour_histogram_auroc, mean_difference_auroc])
def test_a_plain_defect_is_found_and_no_defect_is_guessing(baseline: object) -> None:
    assert callable(baseline)
    train, goods = noise(0, 60), noise(1, 40)
    assert baseline(train, goods, red_square(goods)) == 1.0
    assert baseline(train, goods, goods) == 0.5


def test_a_histogram_is_blind_to_places_and_a_mean_image_is_not() -> None:
    left, right = noise(0, 80), noise(1, 80)
    left[:, :, :16] //= 4
    right[:, :, 16:] //= 4
    assert mean_difference_auroc(left[:40], left[40:], right[:40]) == 1.0
    # Mirrored images have the very same histograms as their originals.
    assert colour_histogram_auroc(left[:40], left[40:], left[40:, :, ::-1]) == 0.5


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 9, 8, 3)])
def test_empty_or_unequal_stacks_are_told(shape: tuple[int, ...]) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    for baseline in (colour_histogram_auroc, mean_difference_auroc):
        with pytest.raises(BadInput, match="one size"):
            baseline(images, images, np.zeros(shape, np.uint8))


def trays(split: str, count: int, defects: Sequence[str | None]) -> Images:
    return np.stack(
        [line.render_tray(line.split_seed(3, split, i), defects[i % len(defects)]).image for i in range(count)]
    )


@pytest.mark.slow
def test_the_line_is_not_trivial() -> None:
    train, goods = trays("train", 100, [None]), trays("test_good", 100, [None])
    anomalies = trays("test_logical", 100, line.LOGICAL + line.STRUCTURAL)
    assert colour_histogram_auroc(train, goods, anomalies) <= 0.7
    assert mean_difference_auroc(train, goods, anomalies) <= 0.8
