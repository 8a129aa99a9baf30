"""Cutting out: sizes, one interpolation, the border, and the way back."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.geometry.cut_out import BUDGET, OVER_BUDGET, Transform, choose_size, cut_out, transform_of
from edge_ad.geometry.pose import Pose

SIDES = st.floats(20, 2000)


@pytest.mark.parametrize(
    ("width", "height", "pixels", "size"),
    [
        (400, 100, 65536, (128, 512)),
        (100, 400, 65536, (512, 128)),
        (100, 100, 65536, (256, 256)),
        (260, 100, 65536, (160, 416)),
        (400, 100, 131072, (192, 672)),
        (800, 100, 65536, (96, 672)),
    ],
)
def test_the_input_has_the_parts_aspect_ratio(width: float, height: float, pixels: int, size: tuple[int, int]) -> None:
    assert choose_size(width, height, pixels) == size


@given(SIDES, st.floats(1 / 8, 8), st.sampled_from([16384, 65536, 131072]))
def test_sizes_are_multiples_of_32_within_the_budget_and_no_other_shows_the_part_larger(
    width: float, aspect: float, pixels: int
) -> None:
    height = width * aspect
    high, wide = choose_size(width, height, pixels)
    assert high % 32 == wide % 32 == 0
    assert high * wide <= OVER_BUDGET * pixels
    shown = min(high / height, wide / width)
    others = [(y, x) for y in range(32, pixels // 32, 32) for x in (int(OVER_BUDGET * pixels) // y // 32 * 32,) if x]
    assert shown >= max(min(y / height, x / width) for y, x in others) * (1 - 1e-9)


def test_beyond_8_to_1_is_refused_with_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"900 x 60 pixels \(15.0:1\), and up to 8:1.*method none"):
        choose_size(900, 60)


def test_a_budget_without_room_for_one_cell_is_refused() -> None:
    with pytest.raises(BadInput, match="1,024 or more"):
        choose_size(10, 10, pixels=900)


def test_a_pose_that_fits_exactly_gives_the_same_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    pose = Pose((96 - 1) / 2, (64 - 1) / 2, 0, width=96, height=64)
    assert np.array_equal(cut_out(image, pose, (64, 96)), image)


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_quarter_turns_are_exact(angle: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (65, 65), dtype=np.uint8)
    turned = cut_out(image, Pose(32, 32, angle, 65, 65), (65, 65))
    assert np.array_equal(turned, np.rot90(image, angle // 90))


def test_reduction_averages_whole_blocks() -> None:
    """Stripes of one pixel become their mean: nothing aliases."""
    image = np.zeros((256, 256), np.uint8)
    image[:, ::2] = 200
    small = cut_out(image, Pose(127.5, 127.5, 0, 256, 256), (64, 64))
    assert np.array_equal(small, np.full((64, 64), 100, np.uint8))


def test_a_reduced_piece_at_the_corner_lies_where_it_should() -> None:
    image = np.zeros((400, 400), np.uint8)
    image[300:340, 320:360] = 255
    pose = Pose(339.5, 319.5, 0, 120, 120)
    small = cut_out(image, pose, (40, 40))
    rows, columns = np.nonzero(small > 127)
    assert (rows.mean(), columns.mean()) == pytest.approx((19.5, 19.5), abs=0.51)
    assert small.sum() / 255 == pytest.approx(40 * 40 / 9, rel=0.02)


def test_beyond_the_border_the_last_pixels_go_on() -> None:
    image = np.full((50, 50), 80, np.uint8)
    assert np.array_equal(cut_out(image, Pose(0, 0, 30, 60, 60), (64, 64)), np.full((64, 64), 80, np.uint8))


def test_a_part_of_another_aspect_ratio_is_not_stretched() -> None:
    image = np.zeros((200, 200), np.uint8)
    cv2.circle(image, (100, 100), 30, 255, -1)
    cut = cut_out(image, Pose(100, 100, 0, 80, 70), (96, 160))
    rows, columns = np.nonzero(cut > 127)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)


@given(st.floats(50, 400), st.floats(50, 300), st.floats(-180, 180), SIDES, st.floats(1 / 8, 8))
def test_points_go_there_and_back(x: float, y: float, angle: float, width: float, aspect: float) -> None:
    transform = transform_of(Pose(x, y, angle, width, width * aspect), (480, 640), choose_size(width, width * aspect))
    points = np.array([(0.0, 0.0), (x, y), (639.0, 479.0)])
    assert np.allclose(transform.to_image(transform.to_cut_out(points)), points, atol=1e-6)
    high, wide = transform.target
    assert np.allclose(transform.to_cut_out(points)[1], ((wide - 1) / 2, (high - 1) / 2))


@pytest.mark.parametrize("angle", [0, 33, -120])
@pytest.mark.parametrize("grid", [(16, 32), (128, 256), (9, 7)])
def test_a_heat_map_is_drawn_back_where_it_was_hot(angle: float, grid: tuple[int, int]) -> None:
    transform = transform_of(Pose(300, 200, angle, 250, 120), (480, 640), (128, 256))
    heat = np.zeros(grid, np.float32)
    row, column = grid[0] // 2, grid[1] // 3
    heat[row, column] = 1.0
    drawn = transform.map_to_image(heat, outside=-1.0)
    y, x = np.unravel_index(int(drawn.argmax()), drawn.shape)
    middle = np.array([[(column + 0.5) * 256 / grid[1] - 0.5, (row + 0.5) * 128 / grid[0] - 0.5]])
    assert transform.to_image(middle)[0] == pytest.approx((x, y), abs=1.5)
    assert drawn[0, 0] == -1.0
    assert drawn.shape == (480, 640)


def test_masks_keep_their_values_both_ways() -> None:
    transform = transform_of(Pose(100, 80, 45, 60, 40), (160, 200), (96, 160))
    mask = np.zeros((160, 200), np.uint8)
    mask[70:90, 90:110] = 3
    cut = transform.mask_to_cut_out(mask)
    assert set(np.unique(cut)) == {0, 3}
    back = transform.mask_to_image(cut)
    overlap = np.logical_and(back == 3, mask == 3).sum() / np.logical_or(back == 3, mask == 3).sum()
    assert overlap > 0.93


def test_a_homography_straightens_a_tilted_plate() -> None:
    corners = np.array([(20, 30), (180, 20), (190, 140), (10, 130)], np.float32)
    target = np.array([(0, 0), (127, 0), (127, 95), (0, 95)], np.float32)
    transform = Transform(np.asarray(cv2.getPerspectiveTransform(corners, target), np.float64), (160, 200), (96, 128))
    image = np.zeros((160, 200), np.uint8)
    cv2.fillPoly(image, [corners.astype(np.int32)], 255)
    assert (transform.cut(image) > 127).mean() > 0.98
    assert np.allclose(transform.to_image(target.astype(np.float64)), corners, atol=1e-3)


def test_an_image_of_another_size_is_refused() -> None:
    transform = transform_of(Pose(50, 50, 0, 40, 40), (100, 100), (64, 64))
    with pytest.raises(BadInput, match="120 x 100 pixels.*one of 100 x 100"):
        transform.cut(np.zeros((100, 120), np.uint8))


def test_the_part_is_as_large_as_it_fits() -> None:
    transform = transform_of(Pose(50, 50, 20, 80, 20), (100, 100), (128, 512))
    corners = transform.to_cut_out(Pose(50, 50, 20, 80, 20).corners())
    assert np.ptp(corners, axis=0) == pytest.approx((512, 128))
    assert math.isclose(BUDGET, 512 * 128)
