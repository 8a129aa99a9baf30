"""Drift: the test statistic by hand, its false alarms by simulation, and what it finds."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_ad.camera.measure import HealthReference, measure_reference
from edge_ad.errors import BadInput
from edge_ad.inspection.drift import ADVICE, Cause, Drift, ImageDrift, causes_of, two_sample_p


def feed(drift: Drift, rng: np.random.Generator, count: int, shift: float = 0.0) -> int:
    """Feed parts of which both branches are normal; return how many windows were tested."""
    tested = 0
    for _ in range(count):
        z = {"logic": float(rng.normal(shift)), "local": float(rng.normal())}
        tested += drift.add("OK", (z["logic"] + z["local"]) / 2, z)
    return tested


def make(rng: np.random.Generator, goods: int = 60, alpha: float = 0.001, window: int = 100) -> Drift:
    logic, local = rng.normal(size=(2, goods))
    return Drift({"logic": logic, "local": local, "score": (logic + local) / 2}, window, alpha)


@pytest.mark.parametrize(
    # Smirnov's limiting law: P(lambda > 1.3581) = 0.05, 1.6276 -> 0.01, 1.9495 -> 0.001.
    ("lam", "p"),
    [(1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)],
)
def test_the_p_value_at_the_known_quantiles(lam: float, p: float) -> None:
    size = 40_000  # large, so that Stephens' correction vanishes
    distance = lam / np.sqrt(size / 2)
    first = np.arange(size) / size
    second = first + distance
    assert two_sample_p(first, second) == pytest.approx(p, rel=0.08)


def test_extreme_samples() -> None:
    same = np.arange(50.0)
    assert two_sample_p(same, same) == 1.0
    assert two_sample_p(same, same + 1000.0) < 1e-12
    assert two_sample_p(np.zeros(50), np.zeros(80)) == 1.0


@given(st.lists(st.floats(-5, 5), min_size=10, max_size=40), st.lists(st.floats(-5, 5), min_size=10, max_size=40))
def test_the_p_value_is_symmetric_and_a_probability(first: list[float], second: list[float]) -> None:
    p = two_sample_p(first, second)
    assert 0.0 <= p <= 1.0
    assert two_sample_p(second, first) == pytest.approx(p)


def test_the_false_alarm_rate_is_what_was_asked_for() -> None:
    """Many bundles with normal images of their own, one window each: at alpha = 5 % at most about 5 % of windows warn."""
    rng, warned, windows = np.random.default_rng(1), 0, 1500
    for _ in range(windows):
        logic, local = rng.normal(size=(2, 60))
        drift = Drift({"logic": logic, "local": local}, 50, 0.05)
        for a, b in rng.normal(size=(50, 2)):
            drift.add("OK", 0.0, {"logic": float(a), "local": float(b)})
        warned += bool(drift.report().drifted)
    # Standard error of a rate of 0.05 over 1,500: 0.0056.
    assert warned / windows < 0.05 + 4 * 0.0056
    assert warned / windows > 0.01  # and the test is not asleep


def test_a_shift_is_found_and_named_and_forgotten_when_it_is_over() -> None:
    rng = np.random.default_rng(2)
    drift = make(rng)
    assert feed(drift, rng, 300) == 3
    assert drift.report().warning is None
    feed(drift, rng, 100, shift=1.5)
    report = drift.report()
    assert report.drifted == ("logic", "score")
    assert report.warning is not None
    assert report.warning.startswith("lighting or lot changed: recalibrate or retrain")
    assert report.mean["logic"] == pytest.approx(1.5, abs=0.6)
    assert report.shift["logic"] > 4 > abs(report.shift["local"])
    feed(drift, rng, 100)
    assert drift.report().warning is None


def test_rejected_parts_and_faults_do_not_count() -> None:
    drift = make(np.random.default_rng(3), window=10)
    for _ in range(50):
        drift.add("NG", 99.0, {"logic": 99.0, "local": 99.0})
        drift.add("NONE", None, {})
    assert drift.report().parts == 0
    assert drift.report().drifted == ()


def test_a_branch_that_is_missing_is_not_tested() -> None:
    drift = make(np.random.default_rng(4), window=10)
    for _ in range(20):
        drift.add("OK", 0.0, {"local": 0.0})
    assert drift.report().p_value["logic"] == 1.0


@pytest.mark.parametrize("change", [{"window": 5}, {"alpha": 0.0}, {"memory": 1.0}])
def test_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Drift({"score": np.arange(20.0)}, **change)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="at least 10 normal images"):
        Drift({"score": np.arange(9.0)})
    with pytest.raises(BadInput):
        Drift({})


def scene(rng: np.random.Generator, light: float = 1.0, blur: float = 0.0, red: float = 1.0, shift: int = 0) -> NDArray[np.uint8]:
    """A board with edges under light that varies by 2 %, of 96 x 96 pixels."""
    board = np.full((96, 96, 3), 60.0)
    board[20:70, 24:60] = 170.0
    board[40:50, 30:90] = 110.0
    board = np.roll(board, shift, axis=1)
    if blur:
        board = cv2.GaussianBlur(board, (0, 0), blur)
    image = board * rng.uniform(0.98, 1.02) * light * np.array([red, 1.0, 1.0]) + rng.normal(0, 1.5, board.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def reference() -> HealthReference:
    rng = np.random.default_rng(0)
    return measure_reference([scene(rng) for _ in range(40)])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({}, None, ""),
        ({"light": 0.9}, "light", "darker than normal images"),
        ({"light": 1.1}, "light", "brighter than normal images"),
        ({"blur": 1.0}, "focus", "less sharp than normal images"),
        ({"red": 1.06}, "colour", "more red in the light"),
        ({"shift": 8}, "pose", "across from normal images"),
    ],
)
def test_images_name_what_moved_and_the_parts_that_show_it(
    reference: HealthReference, changes: dict[str, float], kind: str | None, message: str
) -> None:
    rng, images = np.random.default_rng(1), ImageDrift(reference)
    for part in range(20):
        images.add(scene(rng, **changes), f"part {part}")
    causes = images.causes()
    assert kind in [cause.kind for cause in causes] if kind else causes == ()
    for cause in causes:
        assert len(set(cause.parts)) == 3
        if cause.kind == kind:
            assert message in cause.message
            assert ADVICE[cause.kind] in cause.sentence
    images.clear()
    assert images.causes() == ()


def test_a_drift_states_its_causes_and_takes_them_back(reference: HealthReference) -> None:
    rng = np.random.default_rng(2)
    drift = make(rng)
    drift.images = ImageDrift(reference)
    measured = 0
    for part in range(100):
        if drift.images.wants():
            drift.images.add(scene(rng, light=0.9), f"cam part {part}")
            measured += 1
        drift.add("OK", 2.0, {"logic": float(rng.normal(2.0)), "local": float(rng.normal())})
    report = drift.report()
    assert measured == 20
    assert [cause.kind for cause in report.causes] == ["light"]
    assert report.warning is not None
    assert report.warning.startswith("lighting or lot changed: recalibrate or retrain; no longer like the normal images: ")
    assert "; light: " in report.warning
    assert "(seen in cam part " in report.warning
    feed(drift, rng, 100)
    assert drift.report().causes == ()


@pytest.mark.parametrize(
    ("drifted", "mean", "kinds"),
    [
        (("local", "score"), {"local": 2.0, "score": 1.0}, ["texture"]),
        (("global", "composition"), {"global": 2.0, "composition": 1.0}, ["pose"]),
        (("composition", "score"), {"composition": 2.0, "score": 1.0}, ["colour"]),
        (("local", "score"), {"local": -2.0, "score": -1.0}, []),
        (("score",), {"score": 1.0}, []),
    ],
)
def test_branches_speak_where_images_look_as_ever(drifted: tuple[str, ...], mean: dict[str, float], kinds: list[str]) -> None:
    assert [cause.kind for cause in causes_of(drifted, mean, ())] == kinds
    seen = (Cause("focus", "soft"),)
    assert causes_of(drifted, mean, seen) == seen


@pytest.mark.parametrize("with_reference", [False, True])
def test_without_a_measured_image_nothing_is_claimed_of_light_and_focus(reference: HealthReference, with_reference: bool) -> None:
    rng = np.random.default_rng(4)
    drift = make(rng)
    drift.images = ImageDrift(reference) if with_reference else None
    for _ in range(100):
        drift.add("OK", 2.0, {"logic": float(rng.normal()), "local": float(rng.normal(2.0))})
    (cause,) = drift.report().causes
    assert (cause.kind, "which no image was measured for" in cause.message) == ("texture", True)
    assert "as in normal images" not in cause.message


def test_a_reference_without_colours_states_nothing_of_them(reference: HealthReference) -> None:
    value = {name: entry for name, entry in reference.to_json().items() if name not in ("red", "blue")}
    images, rng = ImageDrift(HealthReference.from_json(value)), np.random.default_rng(3)
    for part in range(20):
        images.add(scene(rng, red=1.06), f"part {part}")
    assert "colour" not in [cause.kind for cause in images.causes()]
    assert reference.joined(HealthReference.from_json(value)).red == reference.red, "a recalibration makes them known"
    again = HealthReference.from_json(reference.to_json())
    assert again.red == pytest.approx(reference.red, abs=1e-6)
