"""The fused score of several views: its arithmetic, its promise, and what it is read from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge_ad.errors import BadInput
from edge_ad.scoring.fused_views import FusedViews, ViewScores, learn_fused
from edge_ad.scoring.thresholds import Thresholds

BUNDLES = {"top": "a" * 64, "side": "b" * 64}
FUSED = FusedViews({"top": ViewScores("a", 1.0, 0.5), "side": ViewScores("b", 0.0, 2.0)}, Thresholds(warn=2.0, ng=4.0))


@pytest.mark.parametrize(
    ("top", "side", "score", "verdict", "most"),
    [
        (1.0, 0.0, 0.0, "OK", "top"),
        (-9.0, -9.0, 0.0, "OK", "side"),  # below the mean is no deviation
        (2.5, 8.0, 5.0, "NG", "side"),  # 3 and 4 deviations
        (2.5, -8.0, 3.0, "WARN", "top"),
    ],
)
def test_the_fused_score_is_the_length_of_the_deviations(top: float, side: float, score: float, verdict: str, most: str) -> None:
    result = FUSED.judge({"top": top, "side": side})
    assert (result.score, result.verdict, result.most) == (pytest.approx(score), verdict, most)


def test_left_out_scores_are_those_of_statistics_without_the_part() -> None:
    scores = np.random.default_rng(3).normal(size=(12, 2))
    expected = []
    for left in range(12):
        others = np.delete(scores, left, axis=0)
        deviations = (scores[left] - others.mean(0)) / others.std(0, ddof=1)
        expected.append(np.hypot(*np.maximum(deviations, 0.0)))
    fused = learn_fused(scores, BUNDLES, target_ng=0.1, target_warn=0.5)
    # Of 12 parts the promise of 10 % is the 12th smallest: ceil(0.9 * 13).
    assert fused.thresholds.ng == pytest.approx(sorted(expected)[11])
    assert fused.thresholds.goods == 12
    assert fused.views["top"].mean == pytest.approx(scores[:, 0].mean())


def test_the_promise_holds_for_parts_where_the_worst_of_two_views_breaks_it() -> None:
    rng = np.random.default_rng(0)
    fused_rate, worst_rate, rounds = 0.0, 0.0, 200
    for _ in range(rounds):
        learned, fresh = rng.gamma(2.0, size=(99, 2)), rng.gamma(2.0, size=(200, 2))
        fused = learn_fused(learned, BUNDLES, target_ng=0.05, target_warn=0.05)
        fused_rate += np.mean([fused.judge({"top": a, "side": b}).verdict == "NG" for a, b in fresh]) / rounds
        limits = np.sort(learned, axis=0)[94]  # ceil(0.95 * 100) of each view by itself
        worst_rate += float((fresh > limits).any(1).mean()) / rounds
    assert fused_rate < 0.06
    assert worst_rate > 0.08


@pytest.mark.parametrize("scores", [np.zeros((9, 2)), np.zeros((20, 3)), np.full((20, 2), np.nan)])
def test_too_few_parts_other_views_and_odd_scores_are_refused(scores: Any) -> None:
    with pytest.raises(BadInput):
        learn_fused(scores, BUNDLES)


def test_a_file_gives_back_what_was_written_and_anything_else_is_refused() -> None:
    assert FusedViews.from_json(json.loads(json.dumps(FUSED.to_json())), "x") == FUSED
    whole = FUSED.to_json()
    broken: list[Any] = [None, [], {**whole, "format": 2}, {**whole, "views": {"top": whole["views"]["top"]}}]
    broken += [{**whole, "views": {**whole["views"], "top": row}} for row in (None, {"bundle": "a", "mean": 0.0, "std": 0.0})]
    for value in broken:
        with pytest.raises(BadInput):
            FusedViews.from_json(value, "x.json")
