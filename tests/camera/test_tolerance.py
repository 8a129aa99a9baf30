"""Image quality against a tolerance: what it allows is judged, three times as much is a fault with the right name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_ad.camera.health import HealthLimits, ReferenceCheck
from edge_ad.camera.layout import LayoutChange, edge_field
from edge_ad.camera.measure import (
    HealthReference,
    grey,
    measure_quality,
    measure_reference,
)
from edge_ad.camera.quality import QualityLimits, colour_cast, noise_level
from edge_ad.camera.tolerance_limits import LimitLearner
from edge_ad.data.tolerance import BEYOND, DEFAULT, Disturbance
from edge_ad.errors import BadInput
from edge_ad.synthetic.tray import render_tray
from tests.camera.pictures import Image


def tray(seed: int) -> Image:
    """Return a tray under a light that does not change by itself, nor does its colour."""
    image = render_tray(seed, None, 128).image.astype(np.float32)
    return np.clip(np.rint(image * (80 / image.mean(axis=(0, 1)))), 0, 255).astype(np.uint8)


def fixture_plate(seed: int) -> Image:
    """Return a plate with holes of which each image shows the same, under noise and another light."""
    image, holes, rng = np.full((128, 128), 150, np.float32), np.random.default_rng(7), np.random.default_rng(seed)
    for x, y, radius in zip(holes.integers(20, 108, 14), holes.integers(20, 108, 14), holes.integers(4, 12, 14), strict=True):
        cv2.circle(image, (int(x), int(y)), int(radius), float(holes.integers(20, 240)), -1)
    noisy = image * rng.uniform(0.98, 1.02) + rng.normal(0, 1.0, image.shape)
    return np.repeat(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def reference_with_limits(normal: list[Image]) -> HealthReference:
    rng, whole = np.random.default_rng(0), measure_reference(normal)
    learner = LimitLearner(DEFAULT, LayoutChange(whole.template))
    for image in normal:
        learner.add(image, image, rng, np.eye(3))
    made = replace(whole, limits=learner.limits)
    return HealthReference.from_json(json.loads(json.dumps(made.to_json())))


@pytest.fixture(scope="module")
def reference() -> HealthReference:
    return reference_with_limits([tray(seed) for seed in range(12)])


@pytest.fixture(scope="module")
def plate_reference() -> HealthReference:
    return reference_with_limits([fixture_plate(seed) for seed in range(12)])


@pytest.mark.parametrize(
    ("fault", "disturbance"),
    [
        ("dark", lambda times: Disturbance((1 - times * DEFAULT.light,) * 3)),
        ("bright", lambda times: Disturbance((1 + times * DEFAULT.light,) * 3)),
        ("blurred", lambda times: Disturbance(blur=times * DEFAULT.blur)),
        ("noisy", lambda times: Disturbance(noise=times * DEFAULT.noise)),
        ("tinted warm", lambda times: Disturbance((1 + times * DEFAULT.colour, 1, 1 - times * DEFAULT.colour))),
        ("tinted cool", lambda times: Disturbance((1 - times * DEFAULT.colour, 1, 1 + times * DEFAULT.colour))),
        ("tinted green", lambda times: Disturbance((1, 1 + 2 * times * DEFAULT.colour, 1))),
        ("tinted magenta", lambda times: Disturbance((1, 1 - 2 * times * DEFAULT.colour, 1))),
    ],
)
def test_frames_within_the_tolerance_are_judged_and_three_times_beyond_it_are_named(
    reference: HealthReference, fault: str, disturbance: Callable[[float], Disturbance]
) -> None:
    check, rng = ReferenceCheck(reference, HealthLimits()), np.random.default_rng(1)
    others = [tray(seed) for seed in range(100, 120)]
    assert [check.fault(disturbance(1).degrade(image, rng)) for image in others] == [None] * len(others)
    reasons = [check.fault(disturbance(BEYOND).degrade(image, rng)) or "" for image in others]
    assert np.mean([reason.startswith(f"{fault}: beyond the tolerance") for reason in reasons]) >= 0.9


@pytest.mark.parametrize(
    ("fault", "disturbance"),
    [
        ("turned clockwise", lambda times: Disturbance(angle=-times * DEFAULT.rotation)),
        ("turned counter-clockwise", lambda times: Disturbance(angle=times * DEFAULT.rotation)),
        ("too near", lambda times: Disturbance(scale=1 + times * DEFAULT.scale)),
        ("too far", lambda times: Disturbance(scale=1 - times * DEFAULT.scale)),
    ],
)
def test_turned_and_scaled_frames_beyond_the_tolerance_are_named_where_parts_are_not_located(
    plate_reference: HealthReference, fault: str, disturbance: Callable[[float], Disturbance]
) -> None:
    check, images = ReferenceCheck(plate_reference, HealthLimits()), [fixture_plate(seed) for seed in range(100, 110)]
    assert [check.fault(disturbance(1).move(image)) for image in images] == [None] * len(images)
    beyond = [disturbance(BEYOND).move(image) for image in images]
    assert all((check.fault(image) or "").startswith(f"{fault}: beyond the tolerance") for image in beyond)
    located = ReferenceCheck(plate_reference, HealthLimits(), layout=False)
    assert not any(re.match("turned|too", located.fault(image) or "") for image in beyond)


@pytest.mark.parametrize("angle", [-7.0, -4.0, 0.0, 3.0, 6.0])
def test_turn_of_an_image_is_measured_wherever_it_lies(plate_reference: HealthReference, angle: float) -> None:
    image = Disturbance(shift=(0.03, -0.02), angle=angle).move(fixture_plate(50))
    assert LayoutChange(plate_reference.template).measure(edge_field(grey(image)))[0] == pytest.approx(angle, abs=0.7)


@pytest.mark.parametrize("scale", [0.94, 0.98, 1.0, 1.05])
def test_scale_of_an_image_is_measured_wherever_it_lies(plate_reference: HealthReference, scale: float) -> None:
    image = Disturbance(shift=(0.03, -0.02), scale=scale).move(fixture_plate(50))
    assert LayoutChange(plate_reference.template).measure(edge_field(grey(image)))[1] == pytest.approx(scale - 1, abs=0.01)


def test_turn_of_an_image_of_another_size_is_not_known(plate_reference: HealthReference) -> None:
    assert np.isnan(LayoutChange(plate_reference.template).measure(edge_field(np.zeros((65, 90), np.uint8)))).all()


def test_reference_without_a_tolerance_is_as_ever() -> None:
    made = measure_reference([tray(seed) for seed in range(12)])
    assert "limits" not in made.to_json()
    assert HealthReference.from_json(made.to_json()).limits is None


def test_fault_that_normal_images_hide_is_unseen_and_never_raised() -> None:
    flat = [{**measure_quality(tray(0)), "noise": value} for value in (0.1, 5.0, 9.0)]
    limits = QualityLimits.of({"noisy": flat}, {"noisy": flat})
    assert limits.unseen == ("noisy",)
    assert not limits.by_fault


@pytest.mark.parametrize(
    "damage",
    [{"by_fault": {"zoomed": ["mean", 1.0, True]}, "unseen": []}, {"by_fault": [["dark", 1]], "unseen": []}, {"unseen": []}, 3],
)
def test_damaged_limits_are_refused(reference: HealthReference, damage: object) -> None:
    with pytest.raises(BadInput, match="train it again"):
        HealthReference.from_json({**reference.to_json(), "limits": damage})


def test_cast_is_that_of_what_is_not_saturated_or_not_known() -> None:
    scene = np.empty((64, 64, 3), np.uint8)
    scene[:] = (120, 90, 60)
    scene[:32] = (255, 255, 100)  # clipped: its colour is not that of the light
    assert colour_cast(scene) == pytest.approx((2.0, 1.0))
    scene[:60] = 255  # 6 % are left
    assert np.isnan(colour_cast(scene)).all()
    assert np.isnan(colour_cast(np.zeros((64, 64, 3), np.uint8))).all()


@pytest.mark.parametrize("sigma", [1.0, 3.0, 8.0])
def test_noise_is_measured_beside_the_edges_of_a_part(sigma: float) -> None:
    scene = np.full((256, 256, 3), 90, np.float32)
    scene[64:192, 64:192] = 200
    noisy = np.clip(np.rint(scene + np.random.default_rng(0).normal(0, sigma, (256, 256, 1))), 0, 255).astype(np.uint8)
    # The flattest tenth of blocks lies a little below the mean of all.
    assert noise_level(grey(noisy)) == pytest.approx(sigma, rel=0.12)


def test_noise_of_a_black_image_is_not_known() -> None:
    assert np.isnan(noise_level(np.zeros((64, 64), np.uint8)))
