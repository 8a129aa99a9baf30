"""Near-duplicates: the same scene with noise is one group, different scenes are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_ad.data.near_duplicates import CLOSE, SIDE, distances, near_duplicate_groups, thumbnails
from tests.data.folders import goods, picture, save


def test_a_noisy_second_picture_of_the_same_scene_is_a_near_duplicate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = goods(tmp_path, 30)
    for name, brighter, index in (("x1.png", 0, 4), ("x2.png", 6, 4), ("x3.jpg", 0, 7)):
        scene = picture(index, (320, 480)).astype(float)
        noisy = np.clip(scene + brighter + rng.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
        paths.append(save(tmp_path / name, noisy))
    for index in (4, 7):
        save(paths[index], picture(index, (320, 480)))
    table, failed = thumbnails(paths)
    assert not failed
    assert [group for group in near_duplicate_groups(table) if len(group) > 1] == [[4, 30, 31], [7, 32]]


def test_distances_are_root_mean_squares() -> None:
    table = np.zeros((3, SIDE * SIDE), np.float32)
    table[1] = 3.0
    table[2, : SIDE * SIDE // 4] = 4.0  # a quarter of the cells differs by 4: sqrt(16 / 4) = 2
    np.testing.assert_allclose(distances(table)[0], [0.0, 3.0, 2.0], atol=1e-5)


def test_membership_is_passed_on() -> None:
    # 0, 0.6 and 1.2 apart: the ends are not near each other, but both are near the middle.
    table = np.zeros((40, SIDE * SIDE), np.float32)
    table += np.arange(40, dtype=np.float32)[:, None] * 50
    table[1], table[2] = table[0] + 0.6 * CLOSE, table[0] + 1.2 * CLOSE
    assert near_duplicate_groups(table)[0] == [0, 1, 2]


def test_goods_that_all_look_alike_are_not_one_group() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(0, 0.3, (50, SIDE * SIDE)).astype(np.float32)  # every pair is about 0.42 apart
    assert max(map(len, near_duplicate_groups(table))) == 1


def test_identical_pictures_stay_together() -> None:
    table = np.zeros((20, SIDE * SIDE), np.float32)
    assert near_duplicate_groups(table) == [list(range(20))]


def test_a_file_that_does_not_decode_is_reported(tmp_path: Path) -> None:
    paths = goods(tmp_path, 3)
    paths[1].write_bytes(b"broken")
    table, failed = thumbnails(paths)
    assert list(failed) == [1]
    assert "001.png" in failed[1]
    assert table.shape == (3, SIDE * SIDE)
