"""Anchors drawn by a person: exact where the background moves, and every refusal."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_ad.errors import BadInput
from edge_ad.geometry.anchors import AnchorLocator, fit_anchors
from edge_ad.geometry.pose import Image, NotLocated, Pose
from tests.geometry.scenes import names
from tests.geometry.stored import packed, unpacked

BOX = (60.0, 80.0, 260.0, 160.0)
LEFT, RIGHT = (66.0, 90.0, 106.0, 130.0), (210.0, 90.0, 250.0, 130.0)


def scene(
    seed: int, shift: float = 15, turn: float = 6, stretch: float = 1.0, bare: bool = False
) -> tuple[Image, float, float, float]:
    """Return a bar with two marks before a background that is another one each time, and its middle and angle."""
    rng = np.random.default_rng([seed, 3])
    noise = cv2.GaussianBlur(rng.integers(0, 256, (240, 320), dtype=np.uint8), (0, 0), 5)
    image = np.asarray(cv2.normalize(noise, None, 40, 120, cv2.NORM_MINMAX), np.uint8)
    moving = seed > 0
    x, y = (160 + rng.uniform(-shift, shift) * moving, 120 + rng.uniform(-shift, shift) * moving)
    angle = float(rng.uniform(-turn, turn)) * moving
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))

    def at(points: list[tuple[float, float]]) -> np.ndarray:
        placed = np.array(points) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
        return np.rint(placed * 16).astype(np.int32)

    cv2.fillPoly(image, [at([(-100, -40), (100, -40), (100, 40), (-100, 40)])], 200, cv2.LINE_AA, 4)
    if not bare:
        far = 70 * stretch
        cv2.fillPoly(image, [at([(-86, -24), (-62, -24), (-62, 0), (-74, 0), (-74, -10), (-86, -10)])], 50, cv2.LINE_AA, 4)
        cv2.fillPoly(image, [at([(far - 14, -20), (far + 14, -8), (far - 6, 4)])], 70, cv2.LINE_AA, 4)
    grey = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), float(x), float(y), angle


def fitted(*regions: tuple[float, float, float, float]) -> AnchorLocator:
    return fit_anchors([scene(seed)[0] for seed in range(8)], names(8), regions, BOX)


@pytest.mark.parametrize(("regions", "degrees", "pixels"), [((LEFT, RIGHT), 0.5, 0.6), ((LEFT,), 1.5, 2.5)])
def test_a_part_before_a_moving_background_is_located(
    regions: tuple[tuple[float, float, float, float], ...], degrees: float, pixels: float
) -> None:
    locator = fitted(*regions)
    assert locator.box == (200, 80)
    for seed in range(30, 45):
        image, x, y, angle = scene(seed)
        pose = locator.locate(image)
        assert isinstance(pose, Pose), pose
        assert abs(pose.angle - angle) < degrees
        assert np.hypot(pose.x - x, pose.y - y) < pixels


def test_anchors_that_are_farther_apart_than_in_the_normal_images_are_refused() -> None:
    location = fitted(LEFT, RIGHT).locate(scene(31, stretch=1.12)[0])
    assert isinstance(location, NotLocated)
    assert "farther apart than in the normal images" in location.reason


@pytest.mark.parametrize(
    ("image", "expected"),
    [(scene(30, bare=True)[0], "anchor 1 is not in its window"), (np.zeros((60, 80, 3), np.uint8), "80 x 60 pixels")],
    ids=["bare", "size"],
)
def test_what_cannot_be_located_is_reported_in_a_sentence(image: Image, expected: str) -> None:
    location = fitted(LEFT, RIGHT).locate(image)
    assert isinstance(location, NotLocated)
    assert expected in location.reason


@pytest.mark.parametrize(
    ("regions", "expected"),
    [((), "0 anchor regions"), ((LEFT, RIGHT, LEFT), "3 anchor regions"), ((LEFT, (70, 92, 110, 132)), "too near each other")],
)
def test_regions_that_cannot_tell_a_pose_are_refused(regions: tuple[tuple[float, float, float, float], ...], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        fitted(*regions)


def test_anchors_are_data_and_locate_the_same_after_storing() -> None:
    locator = fitted(LEFT, RIGHT)
    values, arrays = unpacked(packed(*locator.state()))
    image = scene(33)[0]
    assert AnchorLocator.from_state(values, arrays).locate(image) == locator.locate(image)
    assert locator.locate_all(image) == [locator.locate(image)]
