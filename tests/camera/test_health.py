"""Camera health: what is a fault, and what must not be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.camera.frames import Frame, SourceKind
from edge_ad.camera.health import CameraHealth, HealthLimits, digest
from tests.camera.pictures import Image, noise


def flat(value: int, height: int = 48, width: int = 64) -> Image:
    return np.full((height, width, 3), value, np.uint8)


def with_part(ground: int, part: int) -> Image:
    """A flat ground of which a part covers a quarter of each side, so 1/16 of the image."""
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
    seen = [(0, 1), (5, 2), (6, 2), (9, 2), (10, 3)]  # index and image
    results = [health.check(Frame(noise(seed), index, 0.0, 0.0, "cam", "")).repeats for index, seed in seen]
    assert results == [0, 0, 1, 4, 0]


def test_one_changed_pixel_is_no_repetition() -> None:
    health = CameraHealth("live")
    health.check(noise(1))
    changed = noise(1)
    changed[7, 9, 1] ^= 1  # not in one of the rows that are looked at first
    assert health.check(changed).repeats == 0


def with_clock(picture: Image, tick: int) -> Image:
    """The image with a clock that the camera writes into its upper left corner."""
    image = picture.copy()
    image[:8, :16] = tick
    return image


REGION = (64, 32, 100, 80)


def test_a_clock_beside_the_judged_region_is_no_sign_of_life() -> None:
    """60 frames of a camera that is frozen from the second on, while the clock it writes goes on."""
    still = noise(1, 128, 192)
    whole, judged = CameraHealth("live"), CameraHealth("live", region=REGION)
    frames = [Frame(with_clock(still, tick), tick, 0.0, 0.0, "cam", "") for tick in range(60)]
    assert sum(whole.check(frame).fault is None for frame in frames) == 60, "the whole image changes"
    results = [judged.check(frame) for frame in frames]
    assert sum(health.fault is None for health in results) == 1
    assert results[1].fault == "frozen: the judged region repeats an earlier one to the last bit (1 in a row)"


@pytest.mark.parametrize("buffers", [2, 3, 16])
def test_stale_buffers_in_turn_are_frozen(buffers: int) -> None:
    health = CameraHealth("live")
    results = [health.check(noise(tick % buffers)).fault for tick in range(60)]
    assert sum(fault is None for fault in results) == buffers
    assert all(fault is not None for fault in results[buffers:])


def test_a_picture_that_is_new_ends_the_repetitions() -> None:
    health = CameraHealth("live")
    assert [health.check(noise(seed)).repeats for seed in (1, 2, 1, 2, 3, 4)] == [0, 0, 1, 2, 0, 0]


def test_a_thousand_noisy_pictures_of_one_scene_never_repeat() -> None:
    """A sensor of 1.5 grey levels of noise before a still scene, region and whole."""
    rng = np.random.default_rng(5)
    scene = noise(1, 96, 128).astype(np.float32)
    health = CameraHealth("live", region=(20, 10, 100, 80))
    for _ in range(1000):
        picture = np.clip(np.rint(scene + rng.normal(0.0, 1.5, scene.shape)), 0, 255).astype(np.uint8)
        assert health.check(picture).fault is None


@pytest.mark.parametrize("value", [0, 255])
def test_a_region_that_is_black_or_saturated_is_not_compared(value: int) -> None:
    """The empty stage before a back light looks the same however well the camera is."""
    health = CameraHealth("live", region=REGION)
    for seed in range(10):
        picture = noise(seed, 128, 192)
        picture[32:112, 64:164] = value
        assert health.check(picture).repeats == 0
    assert health.check(picture).repeats == 1, "the whole image repeats"


def test_a_small_region_is_not_compared() -> None:
    health = CameraHealth("live", region=(0, 0, 8, 8))
    still = noise(1, 128, 192)[:8, :8]
    for seed in range(2, 6):
        picture = noise(seed, 128, 192)
        picture[:8, :8] = still
        assert health.check(picture).repeats == 0


@given(st.integers(0, 47), st.integers(0, 63), st.integers(0, 2), st.integers(1, 255))
def test_any_changed_value_changes_the_digest(row: int, column: int, channel: int, change: int) -> None:
    picture = noise(1, 48, 61 + column % 3)  # widths that are no multiple of eight bytes
    changed = picture.copy()
    changed[row, min(column, changed.shape[1] - 1), channel] ^= change
    assert digest(changed) != digest(picture)


@pytest.mark.parametrize(("kind", "faulty"), [("live", True), ("synthetic", True), ("video", True), ("images", False)])
def test_resolution_must_not_change_but_in_a_folder(kind: SourceKind, faulty: bool) -> None:
    health = CameraHealth(kind)
    sizes = [(48, 64), (24, 32), (48, 64)]
    faults = [health.check(noise(seed, *size)).fault for seed, size in enumerate(sizes)]
    assert faults[0] is None
    assert faults[2] is None
    assert (faults[1] == "resolution: 32 x 24 pixels instead of 64 x 48") == faulty
