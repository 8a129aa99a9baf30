"""The template locator: exact on shifted, turned and scaled scenes, robust to damage, and its refusals."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_ad.errors import BadInput
from edge_ad.geometry.matching import structure
from edge_ad.geometry.pose import Image, NotLocated, Pose, wrap
from edge_ad.geometry.template import Method, TemplateLocator
from edge_ad.geometry.template_fit import fit_template
from tests.geometry.scenes import SIZE, Shot, names, shot, shots
from tests.geometry.stored import packed, unpacked


def fitted(method: Method, reach: float = 15.0, **how: float) -> TemplateLocator:
    return fit_template([one.image for one in shots(10, **how)], names(10), method, turn=reach)


def errors(locator: TemplateLocator, tests: list[Shot]) -> tuple[np.ndarray, np.ndarray]:
    """Return errors against the truth, but for the constant of the template's frame: degrees, and pixels."""
    poses = [locator.locate(one.image) for one in tests]
    assert all(isinstance(pose, Pose) for pose in poses), poses
    angles, offsets = [], []
    for pose, one in zip(poses, tests, strict=True):
        assert isinstance(pose, Pose)
        angles.append(wrap(pose.angle - one.angle))
        radians = np.radians(one.angle)
        turn = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
        offsets.append(turn @ (pose.x - one.x, pose.y - one.y) / one.scale)
    centred = np.array(offsets) - np.median(offsets, axis=0)
    return np.abs(np.array(angles) - np.median(angles)), np.linalg.norm(centred, axis=1)


@pytest.mark.parametrize(
    ("method", "reach", "how"),
    [
        ("shift", 15.0, {}),
        ("rigid", 15.0, {"turn": 8}),
        ("scaled", 15.0, {"turn": 8, "zoom": 0.04}),
        ("rigid", 180.0, {"turn": 180, "shift": 8}),
    ],
)
def test_scenes_are_located_to_a_fraction_of_a_pixel_and_a_degree(method: Method, reach: float, how: dict[str, float]) -> None:
    locator = fitted(method, reach, **how)
    angles, offsets = errors(locator, [shot(seed, **how) for seed in range(100, 130)])  # type: ignore[arg-type]
    assert angles.max() <= 0.2
    assert offsets.max() <= 0.25


def test_the_scale_is_measured() -> None:
    locator = fitted("scaled", zoom=0.04)
    tests = [shot(seed, zoom=0.04) for seed in range(100, 110)]
    ratios = [pose.scale / one.scale for one in tests if isinstance(pose := locator.locate(one.image), Pose)]
    assert np.ptp(ratios) < 0.003


def test_a_covered_tenth_of_the_scene_does_not_move_the_frame() -> None:
    locator = fitted("rigid", turn=5)
    clean = [shot(seed, turn=5) for seed in range(200, 215)]
    covered = []
    for one in clean:
        image = one.image.copy()
        image[90:155, 100:168] = 230  # a tenth of the patch; a quarter of its structure changes
        covered.append(Shot(image, one.x, one.y, one.angle, one.scale))
    for tests in (clean, covered):
        angles, offsets = errors(locator, tests)
        assert angles.max() <= 0.2
        assert offsets.max() <= 0.3


def test_what_all_images_show_is_cut_out() -> None:
    locator = fitted("shift", shift=20)
    high, wide = SIZE
    # Shifts up to 20 pixels to both sides leave 280 x 200; the box keeps the image's proportions.
    assert 0.76 * wide <= locator.box[0] <= wide
    assert locator.box[0] / locator.box[1] == pytest.approx(wide / high)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((*SIZE, 3), 90, np.uint8), "no part is in view, or another one"),
        (shot(5, plate_seed=3).image, "no part is in view, or another one"),
        (shot(5, mirrored=True).image, "lies mirrored"),
        (np.zeros((120, 160, 3), np.uint8), "160 x 120 pixels, and the part was learned in images of 320 x 240"),
        (shot(7, shift=0).image[:, np.r_[np.full(110, 0), 0:210]], "cut by the image's border"),
    ],
    ids=["empty", "other", "mirrored", "size", "cut"],
)
def test_what_cannot_be_located_is_reported_in_a_sentence(image: Image, expected: str) -> None:
    location = fitted("rigid", turn=5).locate(np.ascontiguousarray(image))
    assert isinstance(location, NotLocated)
    assert expected in location.reason


def test_two_equal_parts_are_refused_by_one_and_listed_by_many() -> None:
    cell = shot(3, shift=0).image[60:180, 40:160]
    images = []
    for seed in range(6):
        image = np.full((*SIZE, 3), 100, np.uint8)
        image[60:180, 20 + 4 * seed : 140 + 4 * seed] = cell
        images.append(image)
    locator = fit_template(images, names(6), "rigid", region=(22, 62, 138, 178))
    two = images[0].copy()
    two[60:180, 180:300] = cell
    one = locator.locate(two)
    assert isinstance(one, NotLocated)
    assert "two parts" in one.reason
    both = [pose.x for pose in locator.locate_all(two) if isinstance(pose, Pose)]
    assert both == pytest.approx([79.5, 239.5], abs=1.0)
    (nothing,) = locator.locate_all(np.full((*SIZE, 3), 90, np.uint8))
    assert isinstance(nothing, NotLocated)
    assert nothing.empty


def test_images_with_nothing_in_common_are_refused_and_the_worst_are_named() -> None:
    images = [shot(seed).image for seed in range(9)] + [shot(seed, plate_seed=seed).image for seed in (21, 22, 23)]
    with pytest.raises(BadInput, match="nothing in common.*3 of 12 differ") as error:
        fit_template(images, names(12), "rigid")
    words = str(error.value).replace(",", "").replace(";", "").split()
    assert {word for word in words if word.endswith(".png")} == {"9.png", "10.png", "11.png"}


def test_a_region_too_small_is_refused() -> None:
    with pytest.raises(BadInput, match="too small to be found again: draw one of at least 16 pixels"):
        fit_template([shot(0).image], ["0.png"], region=(10, 10, 18, 40))


def test_a_template_is_data_and_locates_the_same_after_storing() -> None:
    locator = fitted("scaled", turn=5)
    values, arrays = unpacked(packed(*locator.state()))
    image = shot(50, turn=4).image
    assert TemplateLocator.from_state(values, arrays).locate(image) == locator.locate(image)


def test_structure_does_not_change_with_a_slope_of_the_light() -> None:
    grey = np.asarray(cv2.GaussianBlur(np.random.default_rng(0).integers(0, 120, (96, 128), dtype=np.uint8), (0, 0), 2), np.uint8)
    sloped = np.asarray(grey + np.linspace(0, 60, 128)[None, :], np.uint8)
    inner = (slice(16, -16), slice(16, -16))
    assert np.abs(structure(sloped) - structure(grey))[inner].max() < 2
