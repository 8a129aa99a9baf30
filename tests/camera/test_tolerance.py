"""Image quality against a tolerance: what it allows is judged, three times as much is a fault with the right name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge_ad.camera.health import HealthLimits, ReferenceCheck
from edge_ad.camera.measure import (
    HealthReference,
    grey,
    measure_quality,
    measure_reference,
)
from edge_ad.camera.quality import QualityLimits, colour_cast, noise_level
from edge_ad.data.tolerance import BEYOND, DEFAULT, Disturbance, quality_looks
from edge_ad.errors import BadInput
from edge_ad.synthetic.tray import render_tray
from tests.camera.pictures import Image


def tray(seed: int) -> Image:
    """Return a tray under a light that does not change by itself, nor does its colour."""
    image = render_tray(seed, None, 128).image.astype(np.float32)
    return np.clip(np.rint(image * (80 / image.mean(axis=(0, 1)))), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def reference() -> HealthReference:
    normal, rng, looks = [tray(seed) for seed in range(12)], np.random.default_rng(0), quality_looks(DEFAULT)
    inside = {
        fault: [measure_quality(image) for one in normal for image in (one, near.degrade(one, rng))]
        for fault, (near, _) in looks.items()
    }
    beyond = {fault: [measure_quality(far.degrade(one, rng)) for one in normal] for fault, (_, far) in looks.items()}
    made = replace(measure_reference(normal), limits=QualityLimits.of(inside, beyond))
    return HealthReference.from_json(json.loads(json.dumps(made.to_json())))


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
