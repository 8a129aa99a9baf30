"""Camera health: what is a fault, and what must not be."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.camera.frames import Frame, SourceKind
from edge_ad.camera.health import CameraHealth, HealthLimits
from tests.camera.pictures import Image, noise


def flat(value: int, height: int = 48, width: int = 64) -> Image:
    return np.full((height, width, 3), value, np.uint8)


def with_part(ground: int, part: int) -> Image:
    """A flat ground of which a part covers a quarter of each side, so 1/16 of the picture."""
    image = flat(ground)
    image[:12, :16] = part
    return image


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (flat(0), "dark"),
        (flat(11), "dark"),
        (flat(13), None),
        (flat(255), "blown out"),
        (flat(253), "blown out"),
        (flat(250), None),
        (with_part(0, 200), None),  # a lit part on black ground
        (with_part(255, 60), None),  # a part before a back light
        (noise(1), None),
    ],
)
@pytest.mark.parametrize("kind", ["live", "synthetic", "video", "images"])
def test_light(image: Image, reason: str | None, kind: SourceKind) -> None:
    fault = CameraHealth(kind).check(image).fault
    assert (fault is None) if reason is None else (fault is not None and fault.startswith(reason))


def test_luminance_weighs_colours() -> None:
    image = flat(0)
    image[:, :, 2] = 100  # blue: 0.114 * 100 = 11.4 of luminance
    assert CameraHealth("live", HealthLimits(dark=11.0)).check(image).fault is None
    assert CameraHealth("live", HealthLimits(dark=12.0)).check(image).fault is not None


@pytest.mark.parametrize(("kind", "frozen"), [("live", True), ("synthetic", True), ("video", False), ("images", False)])
def test_repetition_is_a_fault_of_cameras_only(kind: SourceKind, frozen: bool) -> None:
    health = CameraHealth(kind)
    results = [health.check(noise(seed)) for seed in (1, 2, 2, 2, 3)]
    assert [result.repeats for result in results] == ([0, 0, 1, 2, 0] if frozen else [0] * 5)
    assert [bool(result.fault) for result in results] == ([False, False, True, True, False] if frozen else [False] * 5)


def test_frames_between_two_that_are_the_same_were_the_same() -> None:
    """A loop that is slower than the camera sees few frames of a frozen one."""
    health = CameraHealth("live")
    seen = [(0, 1), (5, 2), (6, 2), (9, 2), (10, 3)]  # index and picture
    found = [health.check(Frame(noise(seed), index, 0.0, 0.0, "cam", "")).repeats for index, seed in seen]
    assert found == [0, 0, 1, 4, 0]


def test_one_changed_pixel_is_no_repetition() -> None:
    health = CameraHealth("live")
    health.check(noise(1))
    changed = noise(1)
    changed[7, 9, 1] ^= 1  # not in one of the rows that are looked at first
    assert health.check(changed).repeats == 0


@pytest.mark.parametrize(("kind", "faulty"), [("live", True), ("synthetic", True), ("video", True), ("images", False)])
def test_resolution_must_not_change_but_in_a_folder(kind: SourceKind, faulty: bool) -> None:
    health = CameraHealth(kind)
    sizes = [(48, 64), (24, 32), (48, 64)]
    faults = [health.check(noise(seed, *size)).fault for seed, size in enumerate(sizes)]
    assert faults[0] is None
    assert faults[2] is None
    assert (faults[1] == "resolution: 32 x 24 pixels instead of 64 x 48") == faulty
