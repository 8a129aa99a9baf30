"""Where NG lies: by the promise, by an estimate and anomalies, or by a cost. Figures by hand or from the definition."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.scoring import OperatingPoint, Thresholds, anomaly_scores, choose_operating_point, choose_thresholds
from edge_ad.scoring.thresholds import upper_rate
from tests.scoring.test_scoring import make_statistics

PROMISE, BALANCED = OperatingPoint("promise"), OperatingPoint("balanced")
FAR = {"anomalies": [100.0, 101.0, 102.0]}


@pytest.mark.parametrize("text", ["promise", "balanced", "cost:10", "cost:0.5"])
def test_an_operating_point_is_read_and_kept_as_it_was_written(text: str) -> None:
    chosen = choose_operating_point(range(100), FAR, OperatingPoint.parse(text))
    assert chosen.operating_point == text


NO_POINTS = ["", "Promise", "cost", "cost:", "cost:0", "cost:-1", "cost:nan", "cost:inf", "cost:ten", "best", None, 3]


@pytest.mark.parametrize("text", NO_POINTS)
def test_another_operating_point_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(BadInput, match="promise, balanced or cost:K with K above 0"):
        OperatingPoint.parse(text)


def test_the_promise_takes_no_notice_of_anomalies() -> None:
    scores = np.random.default_rng(0).normal(size=80)
    assert choose_operating_point(scores, FAR, PROMISE) == choose_thresholds(scores)


# n scores, how many lie above: the rate above follows Beta(above + 1, n - above). For none above it is 1 - 0.1^(1/n).
UPPER = [(1, 0, 0.9), (10, 0, 1 - 0.1**0.1), (62, 0, 1 - 0.1 ** (1 / 62)), (5, 5, 1.0), (2, 1, math.sqrt(0.9))]


@pytest.mark.parametrize(("count", "above", "expected"), UPPER)
def test_the_upper_end_by_hand(count: int, above: int, expected: float) -> None:
    assert upper_rate(count, above) == pytest.approx(expected, abs=1e-9)


def test_the_upper_end_is_exceeded_in_one_draw_of_ten() -> None:
    random = np.random.default_rng(3)
    draws = np.sort(random.uniform(size=(4000, 40)), axis=1)
    for above in (0, 1, 4):
        exceeded = (1 - draws[:, 39 - above] > upper_rate(40, above)).mean()
        assert exceeded == pytest.approx(0.1, abs=0.02)


def test_an_image_that_lies_alone_does_not_set_ng() -> None:
    """Fifty scores 0.02 to 1 and one of 20: as an exponential through the upper half the rate is 1 % a little above 1."""
    scores = [*(np.arange(1, 51) / 50), 20.0]
    promise = choose_thresholds(scores)
    assert (promise.ng, promise.warn) == (20.0, 1.0)  # the 51st and, as 0.05 * 52 is 2.6, the 50th
    chosen = choose_operating_point(scores, {"anomalies": [1.2, 5, 30]}, BALANCED)
    reach = 1.0 - 0.52  # from the median to WARN, where the rate falls from 0.5 to 0.05
    assert chosen.ng == pytest.approx(1.0 + reach * math.log(5) / math.log(10))
    assert (chosen.warn, chosen.goods_ng, chosen.promise_ng) == (promise.warn, 1, 20.0)
    assert chosen.supported_ng == pytest.approx(2 / 52)
    assert chosen.estimated_ng == pytest.approx(0.01)
    assert chosen.found == (("anomalies", 2, 1, 3),)  # 1.2 lies below 1.34
    message = chosen.describe()
    assert "the highest of them (20) lies alone and does not set NG, so 3.8 % are promised instead of 1.9 %" in message
    assert "about 1 % of normal images are expected above NG" in message


def test_ng_never_goes_below_the_second_highest_score() -> None:
    """Half of the scores are equal, so that the estimate lies below the two that are higher."""
    scores = [*np.zeros(60), *np.linspace(0, 0.1, 38), 5.0, 6.0]
    chosen = choose_operating_point(scores, FAR, BALANCED)
    assert (chosen.ng, chosen.goods_ng) == (5.0, 1)


def test_a_wide_gap_is_halved_at_most() -> None:
    scores = np.linspace(0, 1, 10)
    promise = choose_thresholds(scores)
    chosen = choose_operating_point(scores, {"anomalies": [1.5, 9, 9], "at 50 %": [1.2, 8.0]}, BALANCED)
    assert promise.ng == 1.0
    assert chosen.ng == pytest.approx(1.1)
    assert [(row.found, row.promised, row.of) for row in chosen.found] == [(3, 3, 3), (2, 2, 2)]
    assert "and loses 0 %, 0 % of those above 1, the NG of the promise" in chosen.describe()
    far = choose_operating_point(scores, {"anomalies": [1e6]}, BALANCED)
    assert 1 < far.ng < 20  # not to the weakest anomaly: where even the upper end of the rate is at the target
    assert choose_operating_point(scores, {}, BALANCED).ng == promise.ng
    assert choose_operating_point(scores, {"anomalies": [0.5, 1.0]}, BALANCED).ng == promise.ng


@pytest.mark.parametrize("least", [(1.5, 1.2), (1.5, 1.45), (1.45, 1.0), (3.0, 2.0)])
def test_no_operating_point_goes_below_what_a_tolerance_asks_for(least: tuple[float, float]) -> None:
    scores = np.linspace(-1, 1, 60)  # the estimate reaches 1 % at 1.58, and a WARN of 1.2 has no image above it
    for text in ("promise", "balanced", "cost:1000"):
        chosen = choose_operating_point(scores, {"anomalies": [5.0, 6.0]}, OperatingPoint.parse(text), least=least)
        assert chosen.ng >= least[0]
        assert chosen.ng >= chosen.warn >= least[1]


def test_at_most_one_in_a_hundred_may_be_lost() -> None:
    scores = np.linspace(0, 1, 10)
    shown = np.linspace(1.01, 3, 200)  # two of these may be lost, the third not
    chosen = choose_operating_point(scores, {"anomalies": shown}, BALANCED)
    assert chosen.ng == pytest.approx((1 + shown[2]) / 2)
    assert chosen.found[0].found >= 198


def test_a_miss_that_costs_more_lowers_ng_and_never_below_the_floor() -> None:
    random = np.random.default_rng(1)
    scores, shown = random.normal(size=150), {"anomalies": random.normal(4, 2, 300)}
    results = [choose_operating_point(scores, shown, OperatingPoint("cost", price)) for price in (0.1, 1, 10, 100, 1e6)]
    assert [row.ng for row in results] == sorted((row.ng for row in results), reverse=True)
    assert results[0].ng > results[-1].ng
    floor, values = np.sort(scores)[-2], np.array(shown["anomalies"])
    assert floor <= results[-1].ng < values[values > floor].min()


def test_a_cost_by_hand() -> None:
    """The rate falls tenfold a unit above WARN: from 5 % at 1 by 10^-(x - 1); two anomalies make two gaps."""
    scores = [*np.linspace(-0.1, 0, 10), *np.linspace(0, 0.9, 8), 1.0]  # the median is 0; 1 / 20 above WARN = NG = 1
    promise = choose_thresholds(scores)
    assert (promise.warn, promise.ng, np.median(scores)) == (1.0, 1.0, 0.0)
    shown = {"anomalies": [2.0, 4.0]}
    # At 1.5 the rate is 1.58 %, nothing missed; at 3 it is 0.05 % and half is missed: 0.01 * K * 0.5 against 0.99 * 1.53 %.
    for price, expected in ((2.9, 3.0), (3.2, 1.5)):
        assert choose_operating_point(scores, shown, OperatingPoint("cost", price)).ng == pytest.approx(expected)


finite = st.floats(-50, 50, width=32)


@settings(max_examples=150)
@given(
    st.lists(finite, min_size=1, max_size=130),
    st.dictionaries(st.sampled_from(["anomalies", "at 50 %"]), st.lists(finite, max_size=120)),
    st.sampled_from(["balanced", "cost:0.1", "cost:10", "cost:1000"]),
)
def test_no_operating_point_breaks_its_bounds(scores: list[float], shown: dict[str, list[float]], text: str) -> None:
    chosen = choose_operating_point(scores, shown, OperatingPoint.parse(text))
    promise, ordered = choose_thresholds(scores), np.sort(np.float64(scores))
    assert chosen.warn == promise.warn
    assert chosen.warn <= chosen.ng
    assert chosen.goods_ng == (ordered > chosen.ng).sum() <= max(1, promise.goods_ng)
    assert chosen.ng >= promise.ng or (ordered > chosen.ng).sum() == (ordered == ordered[-1]).sum() == 1
    # What is promised is the bound of the rank: (above + 1) of (n + 1).
    assert (chosen.goods_ng + 1) / (len(scores) + 1) <= chosen.supported_ng + 1e-9 or chosen.goods_ng == promise.goods_ng
    if text == "balanced":
        for row in chosen.found:
            assert row.found >= row.promised - math.floor(0.01 * row.promised)
    assert 0 <= (chosen.estimated_ng or 0) <= 1
    assert Thresholds.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    assert text in chosen.describe()


def test_balanced_keeps_the_promise_on_new_images_and_loses_few_anomalies() -> None:
    """Heavy tails: of what the promise finds on other anomalies balanced loses little, and rejects no more than promised."""
    rates: dict[str, list[float]] = {"promise": [], "balanced": []}
    caught: dict[str, list[float]] = {"promise": [], "balanced": []}
    for seed in range(200):
        random = np.random.default_rng(seed)
        scores, shown = random.standard_t(4, 60), {"anomalies": random.normal(8, 4, 300)}
        fresh, others = random.standard_t(4, 500), random.normal(8, 4, 300)
        for name in rates:
            chosen = choose_operating_point(scores, shown, OperatingPoint(name))
            rates[name].append(float((fresh > chosen.ng).mean()))
            caught[name].append(float((others > chosen.ng).mean()))
    error = np.std(rates["balanced"], ddof=1) / math.sqrt(200)
    assert np.mean(rates["balanced"]) <= 2 / 61 + 2 * error
    assert np.mean(caught["balanced"]) >= np.mean(caught["promise"]) - 0.01


def test_bundles_of_before_hold_no_operating_point() -> None:
    new = choose_thresholds(range(60))
    added = ("operating_point", "promise_ng", "estimated_ng", "found")
    old = {name: value for name, value in new.to_json().items() if name not in added}
    assert len(old) == 9
    assert Thresholds.from_json(old) == new


REFUSED: list[dict[str, Any]] = [
    {"operating_point": "best"},
    {"operating_point": None},
    {"promise_ng": "1"},
    {"estimated_ng": float("nan")},
    {"found": None},
    {"found": [["anomalies", 1, 2]]},
    {"found": [["anomalies", 3, 1, 2]]},
    {"found": [["anomalies", 1.0, 1, 2]]},
    {"found": [[1, 1, 1, 2]]},
]


@pytest.mark.parametrize("changes", REFUSED)
def test_a_damaged_operating_point_is_refused(changes: dict[str, Any]) -> None:
    value = {**choose_operating_point(range(60), FAR, BALANCED).to_json(), **changes}
    with pytest.raises(BadInput, match=r"operating point|thresholds"):
        Thresholds.from_json(value)


def test_anomalies_are_named_by_their_strength_the_full_one_first() -> None:
    values = {"synthetic_25": 2, "normalise": 3, "synthetic": 4, "synthetic_50": 5}
    raw = {name: np.full((2, 5), value, np.float32) for name, value in values.items()}
    scores = anomaly_scores(raw, replace(make_statistics(), mean=np.zeros(5, np.float32), std=np.ones(5, np.float32)))
    assert {name: values.tolist() for name, values in scores.items()} == {"anomalies": [4, 4], "at 50 %": [5, 5], "at 25 %": [2, 2]}
    assert list(scores) == ["anomalies", "at 50 %", "at 25 %"]
    assert anomaly_scores({}, make_statistics()) == {}
