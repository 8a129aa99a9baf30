"""Photographs: found anywhere below a folder, split by a seed, cropped within their bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.training.images import (
    Photographs,
    central_crop,
    find_photographs,
    random_crop,
    split_photographs,
)
from tests.data.folders import picture, save


@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 2**32))
def test_a_random_crop_shows_a_part_of_the_picture(height: int, width: int, seed: int) -> None:
    rows = np.arange(height, dtype=np.uint8)[:, None, None]
    columns = np.arange(width, dtype=np.uint8)[None, :, None]
    image = np.concatenate(np.broadcast_arrays(rows, columns, columns), axis=2)
    result = random_crop(image, 16, np.random.default_rng(seed))
    assert result.shape == (16, 16, 3)
    assert result.dtype == np.uint8
    assert result.max() <= max(height, width) - 1
    grey = np.ptp(result.astype(int), axis=2).max() == 0
    if not grey:  # the rows still go down, and the columns one way
        assert (np.diff(result[:, 0, 0].astype(int)) >= 0).all()
        steps = np.diff(result[0, :, 1].astype(int))
        assert (steps >= 0).all() or (steps <= 0).all()


def test_about_one_crop_in_ten_is_grey_and_half_are_mirrored() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0], image[..., 1] = 200, np.arange(64, dtype=np.uint8)[None]
    crops = [random_crop(image, 16, np.random.default_rng(seed)) for seed in range(600)]
    grey = [np.ptp(crop.astype(int), axis=2).max() == 0 for crop in crops]
    mirrored = [crop[0, 0, 1] > crop[0, -1, 1] for crop, flat in zip(crops, grey, strict=True) if not flat]
    assert 0.06 < np.mean(grey) < 0.14  # 3.3 standard errors of a share of 0.1
    assert 0.43 < np.mean(mirrored) < 0.57


def test_crops_cover_a_fifth_to_all_of_the_area() -> None:
    rows, columns = np.mgrid[0:240, 0:240].astype(np.uint8)
    image = np.stack([rows, columns, columns], axis=2)
    shares = []
    for seed in range(200):
        crop = random_crop(image, 64, np.random.default_rng(seed)).astype(float)
        if np.ptp(crop, axis=2).max() == 0:
            continue
        shares.append(np.ptp(crop[..., 0]) * np.ptp(crop[..., 1]) / 239**2)
    assert 0.15 < min(shares) < 0.35
    assert 0.85 < max(shares) <= 1.0


def test_the_central_square() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 255
    assert central_crop(image, 10).min() == 255


def test_photographs_are_found_below_folders_and_by_name(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/deep/1.png", "c.png"):
        save(tmp_path / name, picture(1))
    (tmp_path / "notes.txt").write_text("no image")
    result = find_photographs([tmp_path / "a", tmp_path / "b", tmp_path / "c.png"])
    assert [path.name for path in result] == ["1.png", "2.png", "c.png"]


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_folder_without_photographs_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=f"{name} holds no photograph"):
        find_photographs([tmp_path / name])


def test_the_split_is_seeded_and_whole() -> None:
    paths = [Path(f"{number:03}.png") for number in range(50)]
    learned, held_out = split_photographs(paths, 3, 8)
    assert len(held_out) == 8
    assert sorted([*learned, *held_out]) == paths
    assert (learned, held_out) == split_photographs(paths, 3, 8)
    assert held_out != split_photographs(paths, 4, 8)[1]


def test_too_few_photographs_are_refused() -> None:
    with pytest.raises(BadInput, match="15 photographs are too few: name at least 16"):
        split_photographs([Path("a.png")] * 15, 0, 8)


def test_crops_do_not_depend_on_what_is_kept_in_memory(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{number}.png", picture(number, (40, 50))) for number in range(4)]
    crops = [Photographs(paths, memory).random_crops(6, 16, np.random.default_rng(2)) for memory in (0, 1 << 20)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert not Photographs(paths, 0).cache
