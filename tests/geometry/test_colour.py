"""Gains of the colour channels: what they make of pixels, how they are estimated, and what a geometry does with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.geometry.colour import MAX_GAIN, channel_levels, gains_between, is_gains, with_gains, with_inverse_gains
from edge_ad.geometry.geometry import Geometry, Prepared, example_frame
from edge_ad.geometry.zones import AppliedZones, Zone, Zones
from tests.fixtures.located_bundle import located_geometry, part_image

GAINS = (1.25, 1.0, 0.8)


def test_every_channel_is_multiplied_rounded_and_cut() -> None:
    image = np.array([[[100, 100, 100], [220, 3, 255]]], np.uint8)
    # 1.25 * 220 = 275 is cut; 0.8 * 255 = 204
    np.testing.assert_array_equal(with_gains(image, GAINS), [[[125, 100, 80], [255, 3, 204]]])


@given(st.tuples(*[st.floats(1 / MAX_GAIN, MAX_GAIN)] * 3))
def test_the_inverse_gives_back_what_does_not_saturate(gains: tuple[float, float, float]) -> None:
    image = np.arange(170, dtype=np.uint8)[None, :, None].repeat(3, axis=2)  # 169 * 1.5 = 253.5
    back = with_gains(with_inverse_gains(image, gains), gains).astype(int)
    assert np.abs(back - image).max() <= 2  # rounded twice, enlarged by up to 1.5


@pytest.mark.parametrize(
    "value", [(1.0, 1.0), (1.0, 1.0, 1.6), (1.0, 0.6, 1.0), (1.0, float("nan"), 1.0), (True, 1.0, 1.0), "abc", 1.0]
)
def test_other_values_are_no_gains(value: object) -> None:
    assert not is_gains(value)


def test_gains_bring_medians_together_and_leave_one_odd_image_out() -> None:
    levels = channel_levels([np.full((2, 2, 3), (80, 100, 120), np.uint8)] * 4 + [np.full((2, 2, 3), 255, np.uint8)])
    assert gains_between(levels, np.array([[100.0, 100.0, 96.0]])) == pytest.approx((1.25, 1.0, 0.8))
    assert gains_between(levels, np.array([[200.0, 100.0, 96.0]])) is None, "2.5 is beyond the limit"


def test_levels_are_those_of_what_is_inspected() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = (10, 20, 30)
    inspected = np.array([[True, True], [False, False]])
    np.testing.assert_allclose(channel_levels([image], inspected), [[10, 20, 30]])
    np.testing.assert_allclose(channel_levels([image]), [[5, 10, 15]])


def test_a_whole_image_is_resized_and_then_multiplied_and_what_is_ignored_stays_the_mean() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    zones = Zones((8, 8), (Zone("ignore", ((0, 0), (4, 0), (4, 4), (0, 4)), "corner"),))
    geometry = replace(Geometry.square((8, 8)), gains=GAINS)
    prepared = geometry.prepare(image)
    assert isinstance(prepared, Prepared)
    np.testing.assert_array_equal(prepared.image, np.full((8, 8, 3), (125, 100, 80)))
    zoned = replace(geometry, zones=AppliedZones(zones, np.full((8, 8, 3), 7, np.uint8))).prepare(image)
    assert isinstance(zoned, Prepared)
    assert (zoned.image[0, 0] == 7).all()
    np.testing.assert_array_equal(zoned.image[7, 7], (125, 100, 80))


def test_a_part_is_located_without_gains_and_cut_out_with_them() -> None:
    plain, image = located_geometry(), part_image(700)
    one, other = plain.prepare(image), replace(plain, gains=GAINS).prepare(image)
    assert isinstance(one, Prepared)
    assert isinstance(other, Prepared)
    assert one.pose == other.pose
    np.testing.assert_array_equal(with_gains(one.image, GAINS), other.image)


def test_a_state_keeps_gains_and_refuses_others() -> None:
    geometry = replace(Geometry.square((8, 8)), gains=GAINS)
    values, arrays = geometry.state()
    assert Geometry.from_state(values, arrays) == geometry
    assert "gains" not in Geometry.square((8, 8)).state()[0], "older versions read what has none"
    with pytest.raises(BadInput, match="the gains"):
        Geometry.from_state({**values, "gains": [1.0, 1.0, 9.0]}, arrays)


def test_an_input_is_drawn_back_in_the_light_of_the_camera() -> None:
    geometry, image = replace(Geometry.square((8, 8)), gains=GAINS), np.full((8, 8, 3), 100, np.uint8)
    np.testing.assert_array_equal(example_frame(geometry, image), np.full((8, 8, 3), (80, 100, 125)))
