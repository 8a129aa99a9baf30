"""Health against the normal images: normal images are healthy, anomalies are no faults, a changed camera is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.camera.frames import Frame
from edge_ad.camera.health import CameraHealth, HealthLimits, ReferenceCheck
from edge_ad.camera.layout import TemplateMatcher, edge_field
from edge_ad.camera.measure import (
    MIN_IMAGES,
    HealthReference,
    grey,
    light,
    measure_reference,
    sharpness,
)
from edge_ad.errors import BadInput
from edge_ad.synthetic.tray import LOGICAL, STRUCTURAL, render_tray
from tests.camera.pictures import Image, noise

SIDE = 128


def tray(seed: int, defect: str | None = None) -> Image:
    return render_tray(seed, defect, SIDE).image


def moved(image: Image, across: float = 0.0, down: float = 0.0, degrees: float = 0.0, zoom: float = 1.0) -> Image:
    """The image of a camera that was moved: shares of the size, degrees, a factor."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
    matrix[:, 2] += (across * width, down * height)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def brighter(image: Image, factor: float) -> Image:
    return np.asarray(np.clip(np.rint(image.astype(np.float32) * factor), 0, 255), np.uint8)


@pytest.fixture(scope="module")
def reference() -> HealthReference:
    return measure_reference(tray(seed) for seed in range(40))


@pytest.fixture(scope="module")
def likeness(reference: HealthReference) -> ReferenceCheck:
    return ReferenceCheck(HealthReference.from_json(json.loads(json.dumps(reference.to_json()))), HealthLimits())


def faults(likeness: ReferenceCheck, pictures: Iterator[Image]) -> list[str]:
    return [fault for picture in pictures if (fault := likeness.fault(picture))]


def test_other_goods_and_all_anomalies_are_healthy(likeness: ReferenceCheck) -> None:
    assert faults(likeness, (tray(1000 + seed) for seed in range(60))) == []
    assert faults(likeness, (tray(2000 + n, defect) for defect in LOGICAL + STRUCTURAL for n in range(3))) == []


@pytest.mark.slow
def test_five_hundred_goods_under_changing_light_are_healthy(likeness: ReferenceCheck) -> None:
    """Trays vary their light by themselves (gain, slope, corners, colour); here the lamp changes by 15 % on top."""
    rng = np.random.default_rng(5)
    pictures = (brighter(tray(10_000 + seed), rng.uniform(0.85, 1.15)) for seed in range(500))
    assert faults(likeness, pictures) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda image: moved(image, across=0.08), "moved"),
        (lambda image: moved(image, across=-0.08), "moved"),
        (lambda image: moved(image, down=0.1), "moved"),
        (lambda image: moved(image, across=0.15, down=-0.15), "moved"),
        (lambda image: moved(image, degrees=15), "moved"),
        (lambda image: moved(image, zoom=0.85), "moved"),
        (lambda image: cv2.GaussianBlur(image, (0, 0), 2.0), "blurred"),
        (lambda image: cv2.blur(image, (7, 1)), "blurred"),
        (lambda image: cv2.blur(image, (1, 7)), "blurred"),
        (lambda image: brighter(image, 0.2), "dark"),
        (lambda image: brighter(image, 4.0), "blown out"),
    ],
)
def test_a_changed_camera_is_a_fault(likeness: ReferenceCheck, change: Callable[[Image], Image], word: str) -> None:
    """At least 19 of 20: a tray that lies off by itself may make up for a small move."""
    told = [likeness.fault(np.asarray(change(tray(3000 + seed)), np.uint8)) for seed in range(20)]
    assert sum(fault is not None for fault in told) >= 19
    assert all(fault is None or fault.startswith(word) for fault in told)


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.2, 1.5])
def test_moderate_light_is_no_camera_fault(likeness: ReferenceCheck, factor: float) -> None:
    assert faults(likeness, (brighter(tray(4000 + seed), factor) for seed in range(10))) == []


def test_the_check_uses_the_reference_only_for_placed_parts(reference: HealthReference) -> None:
    empty = noise(1, SIDE, SIDE)
    health = CameraHealth("live", reference=reference)
    assert health.check(empty, placed=False).fault is None
    fault = health.check(noise(2, SIDE, SIDE)).fault
    assert fault is not None
    assert CameraHealth("live").check(noise(3, SIDE, SIDE)).fault is None, "no reference, no comparison"


def test_a_frame_is_resized_once_for_health_and_judge(reference: HealthReference) -> None:
    image = cv2.resize(tray(7), (300, 200), interpolation=cv2.INTER_CUBIC)
    frame = Frame(np.asarray(image, np.uint8), 0, 0.0, 0.0, "cam", "0")
    CameraHealth("images", reference=reference).check(frame)
    assert frame.resized((SIDE, SIDE)) is frame.resized((SIDE, SIDE))
    assert set(frame._made) == {("glance", None), (SIDE, SIDE)}


@pytest.mark.parametrize(
    ("stamps", "frozen"),
    [
        ((1.0, 2.0, 3.0, 4.0), (False, False, False, False)),
        ((1.0, 1.0, 1.0, 2.0), (False, False, True, False)),  # the third with one stamp
        ((5.0, 1.0, 2.0, 3.0), (False, False, False, False)),  # the camera was restarted
        ((None, None, None, None), (False, False, False, False)),
    ],
)
def test_a_stamp_that_stands_still_is_frozen(stamps: tuple[float | None, ...], frozen: tuple[bool, ...]) -> None:
    health = CameraHealth("live")
    told = [health.check(noise(seed), stamp).fault for seed, stamp in enumerate(stamps)]
    assert tuple(fault is not None and fault.startswith("frozen") for fault in told) == frozen


def test_json_keeps_what_matters(reference: HealthReference) -> None:
    again = HealthReference.from_json(json.loads(json.dumps(reference.to_json())))
    assert (again.size, again.count) == (reference.size, reference.count)
    assert again.shift_x == pytest.approx(reference.shift_x, abs=1e-6)
    assert np.abs(again.template - reference.template).max() < 0.005 * np.abs(reference.template).max() + 1e-3
    assert len(json.dumps(reference.to_json())) < 20_000


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"template": "!"},
        {"template": ""},
        {"grid": [3, 3]},
        {"match_low": float("nan")},
        {"match_low": "x"},
        {"sharp_low": [1.0]},
        {"size": [1]},
    ],
)
def test_damaged_json_is_bad_input(reference: HealthReference, change: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="damaged"):
        HealthReference.from_json({**reference.to_json(), **change})
    with pytest.raises(BadInput, match="damaged"):
        HealthReference.from_json([])


def test_too_few_or_different_goods_are_refused() -> None:
    with pytest.raises(BadInput, match="too few"):
        measure_reference(tray(seed) for seed in range(MIN_IMAGES - 1))
    with pytest.raises(BadInput, match="one size"):
        measure_reference([noise(1), noise(2, 32, 32)])


def test_flat_goods_have_no_sharpness_and_fault_nothing_for_it() -> None:
    goods = [np.full((SIDE, SIDE, 3), 100 + seed, np.uint8) for seed in range(10)]
    reference = measure_reference(goods)
    assert np.isnan(reference.sharp_low).all()
    again = HealthReference.from_json(json.loads(json.dumps(reference.to_json()))) if reference.match_low else reference
    assert not (ReferenceCheck(again, HealthLimits()).fault(goods[3]) or "").startswith("blurred")


def test_light_by_hand() -> None:
    picture = np.full((10, 10), 100, np.uint8)
    picture[0, :5] = 255  # 5 of 100
    picture[9, :2] = 3  # 2 of 100
    found = light(picture)
    assert (found.darkest, found.median, found.brightest, found.saturated) == (3.0, 100.0, 255.0, 0.05)


def test_sharpness_does_not_follow_gain_and_falls_with_blur() -> None:
    shades = grey(tray(5))
    sharp = sharpness(shades)
    assert sharpness((shades // 2).astype(np.uint8)) == pytest.approx(sharp, rel=0.06)
    softer = [sharpness(np.asarray(cv2.GaussianBlur(shades, (0, 0), sigma), np.uint8))[0] for sigma in (1.0, 2.0, 3.0)]
    assert sharp[0] > softer[0] > softer[1] > softer[2]


@settings(max_examples=20, deadline=None)
@given(st.integers(-12, 12), st.integers(-12, 12))
def test_a_shift_is_found_where_it_is(across: int, down: int) -> None:
    """An image rolled by whole pixels: its place is that share of the size, to half a cell."""
    shades = grey(tray(6))
    template = edge_field(shades)
    finder = TemplateMatcher(np.asarray(template / np.linalg.norm(template), np.complex64))
    place = finder.find(edge_field(np.ascontiguousarray(np.roll(shades, (down, across), (0, 1)))))
    assert place.x == pytest.approx(across / SIDE, abs=0.5 / 64)
    assert place.y == pytest.approx(down / SIDE, abs=0.5 / 64)
