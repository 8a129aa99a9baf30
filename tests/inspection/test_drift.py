"""Drift: the test statistic by hand, its false alarms by simulation, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.inspection.drift import Drift, two_sample_p


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
