"""Statistics of normal images, fusion, and thresholds against ranks and formulas worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.scoring import (
    BRANCHES,
    MAPS,
    Statistics,
    Thresholds,
    choose_thresholds,
    cross_normalised,
    fit_gaussian,
    fuse,
    lies_above,
    mahalanobis,
    map_quantiles,
    normalise_statistics,
    weighted,
)
from edge_ad.scoring.statistics import ledoit_wolf


def make_statistics(**changes: Any) -> Statistics:
    arrays = {
        "quantiles": np.array([[0, 1], [0, 2], [0, 3]], np.float32),
        "centre": np.zeros(3, np.float32),
        "precision": np.eye(3, dtype=np.float32),
        "mean": np.array([1, 2, 3, 4, 5], np.float32),
        "std": np.array([1, 2, 1, 2, 4], np.float32),
        "weight": np.array([0.5, 0.25, 0.25, 0, 0], np.float32),
    }
    return Statistics(**{**arrays, **changes})


def test_branches_keep_the_order_of_the_fusion_graph() -> None:
    assert BRANCHES == ("structure", "logic", "local", "global", "composition", "memory")
    assert MAPS == ("structure", "local", "global", "memory")


SIX = {
    "quantiles": np.array([[0, 1], [0, 2], [0, 3], [0, 4]], np.float32),
    "mean": np.array([1, 2, 3, 4, 5, 6], np.float32),
    "std": np.array([1, 2, 1, 2, 4, 2], np.float32),
    "weight": np.array([0.5, 0, 0, 0, 0, 0.5], np.float32),
}


def test_statistics_hold_the_first_five_branches_or_all() -> None:
    five, six = make_statistics(), make_statistics(**SIX)
    assert (five.branches, five.maps) == (BRANCHES[:5], MAPS[:3])
    assert (six.branches, six.maps, six.active) == (BRANCHES, MAPS, ("structure", "memory"))
    np.testing.assert_allclose(fuse([[2, 2, 3, 4, 5, 10]], six)[1], [1.5])  # 0.5 * 1 + 0.5 * 2
    for statistics, other in ((five, 6), (six, 5)):
        with pytest.raises(BadInput, match=rf"\[N, {11 - other}\]"):
            fuse(np.zeros((2, other)), statistics)


@pytest.mark.parametrize("name", ["quantiles", "mean", "std"])
def test_statistics_of_five_and_six_branches_do_not_mix(name: str) -> None:
    five = make_statistics().arrays()
    with pytest.raises(BadInput, match=name):
        make_statistics(**{**SIX, name: five[name]})


REFUSED_STATISTICS = [
    ("mean", np.zeros(5), "float64, but must be float32"),
    ("mean", np.zeros(4, np.float32), "shape [4], but must have [5]"),
    ("quantiles", np.zeros((2, 2), np.float32), "shape [2, 2], but must have [3, 2]"),
    ("quantiles", np.zeros((3, 2), np.float32), "must rise from left to right"),
    ("precision", np.eye(4, dtype=np.float32), "shape [4, 4], but must have [3, 3]"),
    ("centre", np.zeros((0,), np.float32), "shape [0], but must have [1]"),
    ("centre", np.array([0, np.nan, 0], np.float32), "not finite"),
    ("std", np.array([1, 1, 0, 1, 1], np.float32), "must be above 0"),
    ("weight", np.full(5, 0.3, np.float32), "sum to 1"),
    ("weight", np.array([-0.5, 1.5, 0, 0, 0], np.float32), "0 or more"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED_STATISTICS)
def test_statistics_refuse(name: str, value: NDArray[Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_statistics(**{name: value})
    assert name in str(caught.value)
    assert message in str(caught.value)


def test_statistics_travel_as_arrays() -> None:
    statistics = make_statistics()
    again = Statistics.from_arrays(statistics.arrays())
    for name, array in statistics.arrays().items():
        np.testing.assert_array_equal(array, getattr(again, name))
    assert statistics.active == ("structure", "logic", "local")
    with pytest.raises(BadInput, match="exactly quantiles, centre"):
        Statistics.from_arrays({"mean": statistics.mean})


def test_fuse_by_hand() -> None:
    z, score = fuse([[2, 2, 3, 4, 5], [1, 6, 1, 0, 5]], make_statistics())
    np.testing.assert_allclose(z, [[1, 0, 0, 0, 0], [0, 2, -2, -2, 0]])
    np.testing.assert_allclose(score, [0.5, 0.0])
    assert z.dtype == score.dtype == np.float32


def test_a_dropped_branch_cannot_spoil_the_score() -> None:
    _, score = fuse([[2, 2, 3, np.nan, np.inf]], make_statistics())
    np.testing.assert_allclose(score, [0.5])


def test_fuse_refuses_another_number_of_branches() -> None:
    with pytest.raises(BadInput, match=r"\[N, 5\]"):
        fuse(np.zeros((2, 4)), make_statistics())


def test_normalise_statistics_by_hand_and_floors() -> None:
    raw = np.zeros((3, 5))
    raw[:, 0] = [1, 2, 3]  # mean 2, sample standard deviation 1
    raw[:, 1] = 7  # constant: a thousandth of the mean
    raw[:, 2] = 0  # not run: the absolute floor
    raw[:, 3] = [0, np.nan, 1]
    raw[:, 4] = [-1, 0, 1]
    mean, std = normalise_statistics(raw)
    np.testing.assert_allclose(mean, [2, 7, 0, 0, 0])
    np.testing.assert_allclose(std, [1, 0.007, 1e-6, 1, 1], rtol=1e-6)
    with pytest.raises(BadInput, match="at least 2 normal images"):
        normalise_statistics(raw[:1])


def test_each_image_is_normalised_by_the_others() -> None:
    raw = np.zeros((4, 5))
    raw[:, 0] = [1, 2, 3, 10]
    z = cross_normalised(raw)
    # The last by mean 2 and deviation 1 of the others; the first by mean 5 and deviation sqrt(19) of 2, 3 and 10.
    np.testing.assert_allclose(z[[3, 0], 0], [8, -4 / math.sqrt(19)], rtol=1e-6)
    assert z.dtype == np.float32
    # Versions of an image are left out together: 10 and 11 by the mean 2 and the deviation of 1, 1, 2, 2, 3, 3.
    twice = np.repeat(raw[:, None, :], 2, axis=1)
    twice[3, 1, 0] = 11
    np.testing.assert_allclose(cross_normalised(twice)[3, :, 0], np.array([8, 9]) / math.sqrt(4 / 5), rtol=1e-6)


def test_near_duplicates_are_left_out_together_where_two_others_remain() -> None:
    raw = np.random.default_rng(0).normal(size=(5, 5))
    z = cross_normalised(raw, [[0, 4], [1], [2], [3]])
    others = raw[1:4]
    np.testing.assert_allclose(z[4], (raw[4] - others.mean(0)) / others.std(0, ddof=1), rtol=1e-5)
    np.testing.assert_array_equal(cross_normalised(raw, [[0, 1, 2, 4], [3]]), cross_normalised(raw))
    with pytest.raises(BadInput, match="at least 3 normal images, but got 2"):
        cross_normalised(raw[:2])


@pytest.mark.parametrize("images", [8, 18, 56])
def test_the_promise_holds_for_scores_normalised_by_the_other_images(images: int) -> None:
    """Six branches that hang together and have heavy tails; the images that normalise are those of the threshold."""
    weight, rates, in_sample = np.full(6, 1 / 6, np.float32), [], []
    for seed in range(300):
        random = np.random.default_rng([seed, images])
        raw = random.standard_t(5, size=(images + 400, 6)) + random.normal(size=(images + 400, 1))
        mean, std = normalise_statistics(raw[:images])
        fresh = weighted((raw[images:] - mean) / std, weight)
        for result, z in ((rates, cross_normalised(raw[:images])), (in_sample, (raw[:images] - mean) / std)):
            result.append(float((fresh > choose_thresholds(weighted(z, weight)).ng).mean()))
    promised = max(0.01, 1 / (images + 1))
    error = np.std(rates, ddof=1) / math.sqrt(len(rates))
    assert np.mean(rates) <= promised + 2 * error
    assert np.mean(rates) >= promised / 2  # not idle either
    assert np.mean(in_sample) > np.mean(rates)


def test_scores_that_lie_above_others_are_reported_by_their_ranks() -> None:
    random = np.random.default_rng(0)
    alike = [lies_above(random.normal(size=30), random.normal(size=30)) for _ in range(400)]
    assert 0.02 <= np.mean(alike) <= 0.09  # one-sided 5 %
    assert lies_above(np.arange(20), np.arange(20) + 8)
    assert not lies_above(np.arange(20) + 8, np.arange(20))
    assert not lies_above(np.zeros(3), np.ones(50))  # three images say nothing


def test_map_quantiles_by_hand() -> None:
    cells = np.arange(1001, dtype=np.float32)  # quantile q lies at q * 1000
    assert map_quantiles(cells) == pytest.approx((900.0, 995.0))
    assert map_quantiles([cells[500:], cells[:500].reshape(20, 25)]) == pytest.approx((900.0, 995.0))
    lower, upper = map_quantiles(np.full((4, 4), 5.0, np.float32))
    assert lower == 5.0 < upper
    empty: list[NDArray[np.float32]] = []
    for refused in (empty, np.array([1.0, np.nan], np.float32)):
        with pytest.raises(BadInput, match="finite values"):
            map_quantiles(refused)


@pytest.mark.parametrize(("goods", "width"), [(40, 8), (30, 60), (200, 20), (3, 5)])
def test_gaussian_agrees_with_scikit_learn(goods: int, width: int) -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    random = np.random.default_rng(goods)
    pooled = random.normal(size=(goods, width)) @ random.normal(size=(width, width)) + 3
    expected = covariance.LedoitWolf().fit(pooled)
    centre, precision = fit_gaussian(pooled)
    shrunk, shrinkage = ledoit_wolf(pooled - pooled.mean(axis=0))
    assert shrinkage == pytest.approx(expected.shrinkage_, rel=1e-9)
    np.testing.assert_allclose(shrunk, expected.covariance_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(centre, expected.location_, rtol=1e-6)
    largest = np.abs(expected.precision_).max()
    np.testing.assert_allclose(precision, expected.precision_, rtol=1e-4, atol=1e-6 * largest)
    assert centre.dtype == precision.dtype == np.float32
    np.testing.assert_allclose(mahalanobis(pooled, centre, precision), np.sqrt(expected.mahalanobis(pooled)), rtol=1e-3)


def test_gaussian_of_features_that_do_not_vary() -> None:
    centre, precision = fit_gaussian(np.full((5, 3), 2.0))
    np.testing.assert_array_equal(precision, np.eye(3))
    np.testing.assert_allclose(mahalanobis([[2, 2, 3]], centre, precision), [1.0])
    for refused in (np.zeros((1, 3)), np.zeros((3, 0)), np.full((3, 3), np.inf)):
        with pytest.raises(BadInput, match="pooled features"):
            fit_gaussian(refused)


# normal images, target NG, target WARN -> rank of NG, rank of WARN among scores 1..N: ceil((1 - a)(N + 1))
RANKS = [
    (99, 0.01, 0.05, 99, 95),
    (100, 0.01, 0.05, 100, 96),  # ceil(99.99), ceil(95.95)
    (199, 0.01, 0.05, 198, 190),
    (399, 0.01, 0.05, 396, 380),
    (54, 0.02, 0.10, 54, 50),  # ceil(53.9), ceil(49.5)
    (54, 0.01, 0.05, 54, 53),  # NG unsupported: the largest; ceil(52.25)
    (10, 0.01, 0.05, 10, 10),  # both unsupported
    (99, 0.29, 0.29, 71, 71),  # (1 - 0.29) * 100 is a little more than 71 in floating point
]


@pytest.mark.parametrize(("goods", "ng", "warn", "rank_ng", "rank_warn"), RANKS)
def test_thresholds_are_the_ranks_of_split_conformal(
    goods: int, ng: float, warn: float, rank_ng: int, rank_warn: int
) -> None:
    scores = np.random.default_rng(goods).permutation(np.arange(1, goods + 1))
    thresholds = choose_thresholds(scores, ng, warn)
    assert (thresholds.ng, thresholds.warn) == (rank_ng, rank_warn)
    assert (thresholds.goods_ng, thresholds.goods_warn) == (goods - rank_ng, goods - rank_warn)


def test_the_promise_is_reported_in_counts() -> None:
    few = choose_thresholds(np.arange(54), 0.01, 0.05)
    assert few.supported_ng == pytest.approx(1 / 55)
    assert few.supported_warn == 0.05
    assert "0 of 54 normal images would be rejected" in few.describe()
    assert "54 normal images cannot promise less than 1.8 %: the NG target of 1 % becomes 1.8 %" in few.describe()
    assert "WARN target" not in few.describe()
    enough = choose_thresholds(np.arange(199), 0.01, 0.05)
    assert "1 of 199 normal images would be rejected (NG above 197)" in enough.describe()
    assert "9 of 199 would be at least WARN (above 189)" in enough.describe()
    assert "cannot promise" not in enough.describe()
    assert "set by hand" in Thresholds(warn=1, ng=2).describe()


def test_verdicts_are_strictly_above() -> None:
    thresholds = Thresholds(warn=1.0, ng=2.0)
    table = [(-5, "OK"), (1.0, "OK"), (1.0001, "WARN"), (2.0, "WARN"), (2.0001, "NG"), (1e30, "NG")]
    assert [thresholds.verdict(score) for score, _ in table] == [verdict for _, verdict in table]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_a_fault_and_never_ok(score: float) -> None:
    with pytest.raises(DeviceFault, match="not a finite number"):
        Thresholds(warn=1.0, ng=2.0).verdict(score)


REFUSED_TARGETS = [
    ([], 0.01, 0.05, "there are none"),
    ([1.0, np.nan], 0.01, 0.05, "not a finite number"),
    ([1.0], 0.0, 0.05, "0 < NG <= WARN < 1"),
    ([1.0], 0.05, 0.01, "NG 0.05 and WARN 0.01"),
    ([1.0], 0.01, 1.0, "WARN 1"),
    ([1.0], float("nan"), 0.05, "NG nan"),
]


@pytest.mark.parametrize(("scores", "ng", "warn", "message"), REFUSED_TARGETS)
def test_thresholds_refuse(scores: list[float], ng: float, warn: float, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        choose_thresholds(scores, ng, warn)
    assert message in str(caught.value)


def test_thresholds_travel_as_json() -> None:
    thresholds = choose_thresholds(np.random.default_rng(0).normal(size=77))
    assert Thresholds.from_json(json.loads(json.dumps(thresholds.to_json()))) == thresholds
    good = thresholds.to_json()
    refused: list[object] = [
        None,
        [],
        {},
        {**good, "more": 1},
        {**good, "ng": "3"},
        {**good, "ng": None},
        {**good, "goods": 1.5},
        {**good, "warn": True},
        {**good, "warn": good["ng"] + 1},
        {**good, "goods_ng": 78},
    ]
    for value in refused:
        with pytest.raises(BadInput, match=r"threshold|WARN"):
            Thresholds.from_json(value)
    with pytest.raises(BadInput, match="finite number"):
        replace(thresholds, ng=float("inf"))


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.floats(0.001, 0.5),
    st.floats(0.001, 0.49),
)
def test_thresholds_keep_their_order_and_their_counts(scores: list[float], ng: float, more: float) -> None:
    thresholds = choose_thresholds(scores, ng, ng + more)
    values = np.array(scores)
    assert thresholds.warn <= thresholds.ng
    for limit, rate in ((thresholds.ng, thresholds.supported_ng), (thresholds.warn, thresholds.supported_warn)):
        # Of n + 1 exchangeable scores at most rate * (n + 1) lie above; one place is left for the newcomer.
        assert (values > limit).sum() <= rate * (len(values) + 1) - 1 + 1e-6
        assert limit in values


@pytest.mark.parametrize("goods", [40, 99, 400])
@pytest.mark.parametrize("target", [0.01, 0.05])
def test_the_promised_rate_holds_on_unseen_goods(goods: int, target: float) -> None:
    rates = []
    for seed in range(300):
        random = np.random.default_rng([seed, goods])
        scores = random.standard_t(3, size=goods + 500)  # heavy tails: the promise asks for no distribution
        thresholds = choose_thresholds(scores[:goods], target, max(target, 0.05))
        rates.append(float((scores[goods:] > thresholds.ng).mean()))
    promised = max(target, 1 / (goods + 1))
    standard_error = np.std(rates, ddof=1) / np.sqrt(len(rates))
    assert np.mean(rates) <= promised + 2 * standard_error
    # Not idle either: continuous scores exceed it with probability 1 - rank / (normal images + 1), by symmetry of all ranks.
    exact = np.floor(promised * (goods + 1) + 1e-9) / (goods + 1)
    assert abs(np.mean(rates) - exact) <= 4 * standard_error


def beta_binomial_interval(trials: int, a: int, b: int) -> tuple[int, int]:
    """The central 95 % of the count among ``trials`` whose rate is drawn from Beta(a, b), from its probabilities."""

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    logs = [
        -math.log(trials + 1) - log_beta(trials - k + 1, k + 1) + log_beta(k + a, trials - k + b) - log_beta(a, b)
        for k in range(trials + 1)
    ]
    total = np.cumsum(np.exp(logs))
    assert total[-1] == pytest.approx(1)
    return int(np.searchsorted(total, 0.025)), int(np.searchsorted(total, 0.975))


@pytest.mark.parametrize(("target", "above"), [(0.01, 4), (0.05, 20)])
def test_counts_of_unseen_goods_spread_as_they_must(target: float, above: int) -> None:
    """The rate above the rank-th of 400 scores follows Beta(401 - rank, rank), whatever the scores' distribution."""
    assert above == math.floor(target * 401)
    low, high = beta_binomial_interval(2000, above, 401 - above)
    inside = 0
    for seed in range(20):
        scores = np.random.default_rng(seed).gamma(2.0, size=2400)
        thresholds = choose_thresholds(scores[:400], target, target)
        inside += low <= int((scores[400:] > thresholds.ng).sum()) <= high
    assert inside >= 17
