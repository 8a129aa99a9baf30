"""Poses: frames, borders, ranges, and what a record keeps of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.geometry.pose import Pose, PoseRange, mean_angle, wrap


@pytest.mark.parametrize(
    ("angle", "period", "expected"), [(180, 360, -180), (-181, 360, 179), (540, 360, -180), (100, 180, -80), (44, 90, 44)]
)
def test_angles_are_wrapped_around_zero(angle: float, period: float, expected: float) -> None:
    assert wrap(angle, period) == expected


def test_a_quarter_turn_leads_the_parts_right_side_down() -> None:
    corners = Pose(100, 50, 90, width=40, height=20).corners()
    # Upper left (-20, -10) turned clockwise by a quarter is (10, -20).
    assert np.allclose(corners, [(110, 30), (110, 70), (90, 70), (90, 30)])


@pytest.mark.parametrize(
    ("x", "overhang", "inside"), [(19.5, 0, True), (19.4, 0, False), (18, 2, True), (179.5, 0, True), (180, 0, False)]
)
def test_a_box_is_inside_up_to_the_edges_of_the_outer_pixels(x: float, overhang: float, inside: bool) -> None:
    assert Pose(x, 50, 0, width=40, height=20).inside((100, 200), overhang) is inside


def test_the_margin_is_a_share_of_the_shorter_side() -> None:
    grown = Pose(0, 0, 0, width=100, height=20).grown(0.1)
    assert (grown.width, grown.height) == (104, 24)


def test_directions_on_both_sides_of_180_have_180_as_their_mean() -> None:
    assert abs(abs(mean_angle([179, -179])) - 180) < 1e-9


def test_a_range_holds_what_it_was_made_of_and_names_what_leaves_it() -> None:
    poses = [Pose(x, 50, angle, 10, 10) for x, angle in ((100, 170), (120, -170))]
    expected = PoseRange.of(poses)
    assert [expected.outside(pose) for pose in poses] == [None, None]
    assert "x is 130" in str(expected.outside(Pose(130, 50, 175, 10, 10)))
    assert "turned by 90.0 degrees" in str(expected.outside(Pose(110, 50, 90, 10, 10)))
    assert expected.outside(Pose(110, 50, 90, 10, 10, symmetric=True)) is None


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(-180, 180), st.floats(0.5, 2)), min_size=1, max_size=8))
def test_no_pose_is_outside_the_range_of_its_own_set_nor_after_json(values: list[tuple[float, float, float]]) -> None:
    poses = [Pose(x, x / 2, angle, 10, 10, scale) for x, angle, scale in values]
    expected = PoseRange.from_dict(PoseRange.of(poses).as_dict())
    assert [expected.outside(pose) for pose in poses] == [None] * len(poses)
