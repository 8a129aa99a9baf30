"""The foreground locator: accuracy under damage, symmetry, and every refusal in a sentence."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.geometry.background import border_plane, reduce
from edge_ad.geometry.foreground import ROUND, ForegroundLocator
from edge_ad.geometry.foreground_fit import fit_foreground
from edge_ad.geometry.pose import Image, Location, NotLocated, Pose
from edge_ad.synthetic.single_part import KINDS, Damage, Kind, PartOptions, render_part
from tests.geometry.rendered import LENGTH, error_of, fitted, frame_offset, normal_parts
from tests.geometry.stored import packed, unpacked

SLOW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def reason(location: Location) -> str:
    assert isinstance(location, NotLocated), location
    return location.reason


@SLOW
@given(st.sampled_from(KINDS), st.sampled_from(["none", "missing", "added"]), st.floats(0, 0.15), st.integers(1000, 10**6))
def test_missing_or_added_material_does_not_move_the_frame(kind: Kind, damage: Damage, share: float, seed: int) -> None:
    locator, offset = fitted(kind)
    part = render_part(seed, PartOptions(kind=kind, damage=damage, share=share, length=LENGTH))
    pose = locator.locate(part.image)
    assert isinstance(pose, Pose), pose
    error = error_of(pose, offset, part)
    assert error.angle <= 0.5
    assert error.shift <= 0.005


def test_an_outline_with_a_bite_does_not_slide_along_itself() -> None:
    options = PartOptions(kind="lever", length=0.45)
    fit = [render_part(seed, options) for seed in range(24)]
    locator = fit_foreground([part.image for part in fit], [str(seed) for seed in range(24)])
    offset = frame_offset(locator, fit)
    part = render_part(10_078, replace(options, damage="missing"))
    pose = locator.locate(part.image)
    assert isinstance(pose, Pose)
    assert error_of(pose, offset, part).shift <= 0.004


def test_the_frame_is_the_box_of_least_area_with_the_long_side_level() -> None:
    locator, _ = fitted("plate")
    extent = normal_parts("plate")[0].extent
    # 100 x 60 units of the outline; the threshold lies on the blurred edge, a pixel or two outside.
    assert locator.box == pytest.approx((extent, 0.6 * extent), abs=6)


def test_a_part_with_a_shape_of_its_own_is_not_symmetric() -> None:
    assert [fitted(kind)[0].symmetry for kind in KINDS] == [1, 1, 1, 1]


def drawn(shape: str, angle: float, x: float = 320, y: float = 240, marked: bool = False) -> Image:
    """Return an even image with a disc, a rectangle or a square on it."""
    image = np.full((480, 640, 3), 60, np.uint8)
    if shape == "disc":
        cv2.circle(image, (round(x), round(y)), 80, (200, 190, 180), -1, cv2.LINE_AA)
        return image
    size = {"rectangle": (220, 90), "square": (140, 140)}[shape]
    box = cv2.boxPoints(((x, y), size, angle))
    cv2.fillPoly(image, [np.rint(box * 16).astype(np.int32)], (200, 190, 180), cv2.LINE_AA, 4)
    if marked:
        radians = np.radians(angle)
        spot = (round(x + 70 * np.cos(radians)), round(y + 70 * np.sin(radians)))
        cv2.circle(image, spot, 25, (90, 90, 90), -1, cv2.LINE_AA)
    return image


@pytest.mark.parametrize(
    ("shape", "marked", "symmetry"), [("disc", False, ROUND), ("rectangle", False, 2), ("square", False, 4), ("rectangle", True, 1)]
)
def test_symmetry_is_found_and_a_mark_on_the_surface_breaks_it(shape: str, marked: bool, symmetry: int) -> None:
    angles = [0, 25, 130, 200, 290, 333]
    images = [drawn(shape, angle, 300 + angle / 10, marked=marked) for angle in angles]
    locator = fit_foreground(images, [str(angle) for angle in angles])
    assert locator.symmetry == symmetry
    poses = [locator.locate(image) for image in images]
    assert all(isinstance(pose, Pose) and pose.symmetric == (symmetry != 1) for pose in poses)
    if symmetry != ROUND:
        turns = np.array([pose.angle for pose in poses if isinstance(pose, Pose)]) - angles
        period = 360 / symmetry
        assert np.ptp((turns - turns[0] + period / 2) % period) < 0.5


def test_parts_that_lie_the_same_way_keep_the_images_directions() -> None:
    images = [drawn("rectangle", 90 + angle, marked=True) for angle in (-3, 0, 2, 4)]
    locator = fit_foreground(images, list("abcd"))
    pose = locator.locate(images[1])
    assert isinstance(pose, Pose)
    assert pose.angle == pytest.approx(0, abs=3)
    assert pose.height > pose.width


def two_parts(**options: object) -> Image:
    return render_part(5, PartOptions(kind="key", count=2, length=LENGTH, **options)).image  # type: ignore[arg-type]


def shifted(image: Image, x: float) -> Image:
    matrix = np.array([[1, 0, x], [0, 1, 0.0]])
    return np.asarray(cv2.warpAffine(image, matrix, (640, 480), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def test_several_parts_are_located_one_by_one() -> None:
    locator, _ = fitted("key")
    first, second = locator.locate_all(two_parts())
    assert isinstance(first, Pose)
    assert isinstance(second, Pose)
    assert first.x < 320 < second.x


def test_only_an_empty_view_is_reported_as_empty_and_many_parts_give_its_reason() -> None:
    locator, _ = fitted("key")
    for name, (image, expected) in refused_images().items():
        location = locator.locate(image)
        assert isinstance(location, NotLocated)
        assert location.empty == (name == "empty")
        if name == "empty":
            (only,) = locator.locate_all(image)
            assert expected in reason(only)


def test_the_contour_of_a_pose_lies_on_the_parts_edge() -> None:
    locator, _ = fitted("key")
    part = render_part(77, PartOptions(kind="key", length=LENGTH))
    pose = locator.locate(part.image)
    assert isinstance(pose, Pose)
    away = cv2.distanceTransform(255 - cv2.Canny(part.mask, 100, 200), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    x, y = np.rint(locator.contour(pose)).astype(int).T
    # The mean outline is half a reduced pixel (2 of the original) wide, and runs on pixels inside the edge.
    assert np.percentile(away[y, x], 95) <= 4


def refused_images() -> dict[str, tuple[Image, str]]:
    part = render_part(3, PartOptions(kind="key", length=LENGTH))
    empty = np.full((480, 640, 3), 66, np.uint8)
    return {
        "two": (two_parts(), "two parts are in view where one is expected"),
        "cut": (shifted(part.image, 60 - part.x), "cut by the image's border"),
        "mirrored": (render_part(6, PartOptions(kind="key", mirrored=True, length=LENGTH)).image, "lies mirrored"),
        "empty": (empty, "no part is in view"),
        "small": (cv2.resize(part.image, (64, 48)), "64 x 48 pixels, and the part was learned in images of 640 x 480"),
        "other": (render_part(7, PartOptions(kind="plate", length=LENGTH)).image, "% of the part's"),
        "half": (render_part(7, PartOptions(kind="key", length=LENGTH / 2)).image, "% of the part's area"),
    }


@pytest.mark.parametrize("name", ["two", "cut", "mirrored", "empty", "small", "other", "half"])
def test_what_cannot_be_located_is_reported_in_a_sentence(name: str) -> None:
    image, expected = refused_images()[name]
    assert expected in reason(fitted("key")[0].locate(image))


def test_images_without_a_common_part_are_refused_and_the_worst_are_named() -> None:
    keys = [part.image for part in normal_parts("key")[:9]]
    others = [render_part(seed, PartOptions(kind="plate", length=0.3)).image for seed in (50, 51, 52)]
    names = [*(f"key{index}.png" for index in range(9)), *(f"plate{index}.png" for index in range(3))]
    with pytest.raises(BadInput, match=r"no part in common: 3 of 12 differ in outline, most of all plate\d.png, plate") as error:
        fit_foreground([*keys, *others], names)
    assert "key" not in str(error.value)


def test_parts_that_do_not_stand_out_are_refused() -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8) for seed in range(4)]
    with pytest.raises(BadInput, match=r"stand out|stands out"):
        fit_foreground(noise, list("abcd"))


def test_images_of_the_empty_station_take_a_busy_background_away() -> None:
    options = PartOptions(kind="bracket", ground="tray", length=LENGTH)
    parts = [render_part(seed, options) for seed in range(NORMAL_IN_TRAY)]
    empty = [emptied(seed) for seed in range(5)]
    locator = fit_foreground([part.image for part in parts], [str(seed) for seed in range(NORMAL_IN_TRAY)], empty=empty)
    offset = frame_offset(locator, parts)
    for seed in range(500, 520):
        part = render_part(seed, replace(options, damage="missing"))
        pose = locator.locate(part.image)
        assert isinstance(pose, Pose), pose
        error = error_of(pose, offset, part)
        assert error.angle <= 0.5
        assert error.shift <= 0.005


NORMAL_IN_TRAY = 8


def emptied(seed: int) -> Image:
    """Return a tray without a part: one far smaller than a pixel."""
    return render_part(seed, PartOptions(ground="tray", length=0.001)).image


def test_a_locator_is_data_and_locates_the_same_after_storing() -> None:
    locator, _ = fitted("lever")
    values, arrays = unpacked(packed(*locator.state()))
    again = ForegroundLocator.from_state(values, arrays)
    image = render_part(77, PartOptions(kind="lever", length=LENGTH)).image
    assert again.locate(image) == locator.locate(image)


def test_damaged_data_are_refused() -> None:
    data = packed(*fitted("lever")[0].state())
    with pytest.raises(BadInput, match="template cannot be read"):
        unpacked(data[: len(data) // 2])


def test_fitting_the_same_images_gives_the_same_bytes() -> None:
    images, names = [part.image for part in normal_parts("key")], [str(index) for index in range(16)]
    first, second = (packed(*fit_foreground(images, names).state()) for _ in range(2))
    assert first == second


def test_a_slope_of_the_light_is_followed() -> None:
    slope = np.linspace(60, 120, 160)[None, :] + np.linspace(0, 30, 120)[:, None]
    image = np.repeat(slope[..., None], 3, axis=2).astype(np.uint8)
    image[40:80, 60:110] = 255
    expected, level = border_plane(image)
    assert np.abs(expected[..., 0] - slope).max() < 5
    assert level == pytest.approx(slope.mean(), abs=1)


def test_halving_is_the_mean_of_four_pixels_and_drops_an_odd_row() -> None:
    image = np.array([[0, 4, 8, 8], [4, 8, 8, 8], [9, 9, 9, 9]], np.uint8)
    assert np.array_equal(reduce(image, 1), [[4, 8]])
