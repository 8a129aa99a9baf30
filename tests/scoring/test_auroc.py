"""AUROC against values by hand and scikit-learn, and the recall at a few false rejects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.scoring.auroc import auroc, recall_at, roc_curve

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("goods", "anomalies", "expected"),
    [
        ([0, 1, 2], [3, 4], 1.0),
        ([3, 4], [0, 1], 0.0),
        ([1, 1], [1, 1, 1], 0.5),
        ([0, 2], [1, 3], 0.75),  # 1 > 0, 3 > 0, 3 > 2 of four pairs
        ([0, 1, 2], [1], 0.5),  # a win, a tie, a loss
        ([0, 1], [1, 1], 0.75),  # two wins, two ties
        ([], [1], None),
        ([1], [], None),
    ],
)
def test_by_hand(goods: list[float], anomalies: list[float], expected: float | None) -> None:
    assert auroc(goods, anomalies) == expected


@settings(deadline=None)
@given(SCORES, SCORES)
def test_like_scikit_learn_with_ties(goods: list[float], anomalies: list[float]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels = [0] * len(goods) + [1] * len(anomalies)
    assert auroc(goods, anomalies) == pytest.approx(metrics.roc_auc_score(labels, goods + anomalies), abs=1e-12)


@settings(deadline=None)
@given(SCORES, SCORES)
def test_the_curve_has_that_area(goods: list[float], anomalies: list[float]) -> None:
    false, true = roc_curve(goods, anomalies)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    assert area == pytest.approx(auroc(goods, anomalies), abs=1e-9)


@pytest.mark.parametrize(
    ("goods", "anomalies", "rate", "expected"),
    [
        (range(10), [9, 9.5, 10, 3], 0.01, 0.5),  # none of ten normal images may lie above: the threshold is 9
        (range(100), [97.5, 98.5, 99.5], 0.01, 2 / 3),  # one may: the threshold is 98
        (range(100), [97.5, 98.5, 99.5], 0.02, 1.0),
        (range(300), [296.5, 295.5], 0.01, 0.5),  # 0.01 * 300 is 3, whatever the rounding: the threshold is 296
        ([1, 1, 1], [1, 1], 0.01, 0.0),
        ([5], [6], 1.0, 1.0),  # all normal images may: the threshold stays the lowest good
        ([], [1], 0.01, None),
        ([1], [], 0.01, None),
    ],
)
def test_recall_by_hand(goods: list[float], anomalies: list[float], rate: float, expected: float | None) -> None:
    assert recall_at(list(goods), anomalies, rate) == pytest.approx(expected)
