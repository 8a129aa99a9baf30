"""The light of an image against that of normal images, whose parts differ in colour by themselves."""

from __future__ import annotations

import base64
import json
import math

import cv2
import numpy as np
import pytest

from edge_ad.camera.health import HealthLimits, ReferenceCheck
from edge_ad.camera.light_change import GAINS, TONES, LightChange, gain_modes, measure_tones
from edge_ad.camera.measure import HealthReference, measure_quality, measure_reference
from edge_ad.camera.quality import QualityLimits
from edge_ad.camera.tolerance_limits import LimitLearner
from edge_ad.data.tolerance import DEFAULT, Disturbance, Tolerance, quality_looks
from tests.camera.pictures import Image

COLOURS = ((150, 140, 60), (90, 40, 36), (180, 176, 160))  # of three juices
LIGHTS = [fault for fault, (near, _) in quality_looks(DEFAULT).items() if not near.moves and near.gain != (1.0, 1.0, 1.0)]
ZEROS = base64.b64encode(np.zeros(TONES * (TONES + 4), "<f4").tobytes()).decode("ascii")  # no covariance


def bottle(seed: int) -> Image:
    """Return a bottle of one of three juices, as full as it happens to be, before a dark wall; its label alone never differs."""
    rng = np.random.default_rng(seed)
    image = np.full((96, 96, 3), 12, np.float32)
    top, left = 20 + int(rng.integers(8)), 28 + int(rng.integers(8))
    image[top:90, left : left + 36] = np.multiply(COLOURS[seed % 3], rng.uniform(0.94, 1.06))
    image[40:56, left + 4 : left + 32] = (205, 160, 70)
    blurred = cv2.GaussianBlur(image, (0, 0), 1.0) + rng.normal(0, 1.0, image.shape)
    return np.clip(np.rint(blurred), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def limits() -> QualityLimits:
    learner = LimitLearner(DEFAULT, None)
    for seed in range(30):
        learner.add(bottle(seed), bottle(seed), np.random.default_rng(seed), np.eye(3))
    assert learner.limits is not None
    return QualityLimits.read(json.loads(json.dumps(learner.limits.to_json())))


def test_gain_adds_its_logarithm_to_tones_that_are_neither_dark_nor_saturated() -> None:
    scene = np.random.default_rng(0).integers(60, 120, (64, 64, 3)).astype(np.uint8)
    change = (measure_tones((scene * 2.0).astype(np.uint8)) - measure_tones(scene)).reshape(3, -1)
    assert change == pytest.approx(math.log(2), abs=0.03)


@pytest.mark.parametrize(
    ("gain", "modes"),
    [
        ((1.2, 1.2, 1.2), (math.log(1.2), 0.0, 0.0)),
        ((1.1, 1.0, 1 / 1.1), (0.0, math.log(1.1), 0.0)),
        ((1 / 1.1, 1.1**2, 1 / 1.1), (0.0, 0.0, math.log(1.1))),
    ],
)
def test_gains_of_channels_are_brightness_warmth_and_green(
    gain: tuple[float, float, float], modes: tuple[float, float, float]
) -> None:
    assert gain_modes(gain) == pytest.approx(modes)


def test_no_other_measure_reports_a_cast_where_parts_differ_in_colour(limits: QualityLimits) -> None:
    tinted = {one.measure for fault, one in limits.by_fault.items() if fault.startswith("tinted")}
    assert tinted == {"red_over_blue_gain", "green_gain"}
    assert not limits.unseen


@pytest.mark.parametrize("fault", LIGHTS)
def test_light_beyond_the_tolerance_is_named_whatever_the_colour_of_the_part(limits: QualityLimits, fault: str) -> None:
    reference = measure_reference([bottle(seed) for seed in range(12)])
    reference = HealthReference.from_json({**reference.to_json(), "limits": limits.to_json()})
    check, rng = ReferenceCheck(reference, HealthLimits(), layout=False), np.random.default_rng(1)
    near, far = quality_looks(DEFAULT)[fault]
    others = [bottle(seed) for seed in range(100, 118)]
    assert [check.fault(near.degrade(image, rng)) for image in others] == [None] * len(others)
    reasons = [check.fault(far.degrade(image, rng)) or "" for image in others]
    assert np.mean([reason.startswith(f"{fault}: beyond the tolerance") for reason in reasons]) >= 0.9


def test_gains_are_estimated_by_the_tones_that_are_not_saturated() -> None:
    """Red of the label saturates; what the rest shows is the gain that was applied."""
    scenes = [np.random.default_rng(seed).integers(20, 150, (48, 48, 3)).astype(np.uint8) for seed in range(20)]
    for scene in scenes:
        scene[:24, :, 0] = 245
    rng, gains = np.random.default_rng(0), (1.0, 0.7, 0.85, 1.15, 1.3)
    tones = np.array([[measure_tones(Disturbance((gain,) * 3).degrade(scene, rng)) for gain in gains] for scene in scenes])
    light = LightChange.learn(tones, np.tile([gain_modes((gain,) * 3) for gain in gains], (len(scenes), 1, 1)))
    for gain in (0.8, 1.2, 1.3):
        result = light.gains(measure_tones(Disturbance((gain,) * 3).degrade(scenes[0], rng)))
        assert result["gain"] == pytest.approx(gain, rel=0.02)
        assert math.isnan(result["green_gain"])  # no cast was learned


def test_gains_of_a_saturated_image_are_not_known(limits: QualityLimits) -> None:
    assert limits.light is not None
    white = np.full((64, 64, 3), 254, np.uint8)
    assert all(math.isnan(value) for value in limits.light.gains(measure_tones(white)).values())


def test_a_limit_of_a_gain_without_the_light_of_the_normal_images_is_refused(limits: QualityLimits) -> None:
    damaged = {name: value for name, value in limits.to_json().items() if name != "light"}
    with pytest.raises(ValueError, match="without the light"):
        QualityLimits.read(damaged)


def test_gains_of_an_image_unlike_the_normal_ones_are_not_known(limits: QualityLimits) -> None:
    assert limits.light is not None
    other = bottle(0)
    other[30:90, 20:80] = (40, 90, 220)  # a blue juice
    assert all(math.isnan(measure_quality(other, normal=limits.light)[name]) for name in GAINS)


def test_gains_that_no_tolerance_asks_for_are_not_known() -> None:
    learner = LimitLearner(Tolerance(colour=0.03), None)
    for seed in range(12):
        learner.add(bottle(seed), bottle(seed), np.random.default_rng(seed), np.eye(3))
    assert learner.limits is not None
    assert set(learner.limits.by_fault) | set(learner.limits.unseen) == {fault for fault in LIGHTS if fault.startswith("tinted")}


def test_nothing_is_learned_from_no_frame_and_of_no_light_without_a_tolerance_of_it() -> None:
    assert LimitLearner(DEFAULT, None).limits is None
    learner = LimitLearner(Tolerance(blur=1.0), None)
    learner.add(bottle(0), bottle(0), np.random.default_rng(0), np.eye(3))
    assert learner.limits is not None
    assert learner.limits.light is None


@pytest.mark.parametrize("damage", [{"tones": 3}, {"values": "AAAA"}, {"max_distance": "inf"}, {"values": "%"}, {"values": ZEROS}])
def test_damaged_light_is_refused(limits: QualityLimits, damage: dict[str, object]) -> None:
    assert limits.light is not None
    with pytest.raises(ValueError):
        LightChange.read({**limits.light.to_json(), **damage})


def test_light_is_small_in_a_bundle(limits: QualityLimits) -> None:
    assert limits.light is not None
    assert len(limits.light.to_json()["values"]) == pytest.approx(4 * TONES * (TONES + 4) * 4 / 3, rel=0.01)
