"""Verdicts by hand: thresholds 2 and 4, weights 0.5 for logic and local."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.inspection.judge import Decision, decide, fault
from tests.inspection.line import THRESHOLDS, WEIGHT


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(-1.0, "OK"), (2.0, "OK"), (2.01, "WARN"), (4.0, "WARN"), (4.01, "NG"), (1e9, "NG")]
    + [(value, "NONE") for value in (float("nan"), float("inf"), float("-inf"))],
)
def test_every_score_has_a_verdict(score: float, verdict: str) -> None:
    decision = decide(score, np.zeros(5, np.float32), WEIGHT, THRESHOLDS)
    assert decision.verdict == verdict
    assert (decision.reason is None) == (verdict == "OK")


@pytest.mark.parametrize(
    ("z", "branch"),
    [([99, 3, 9, 99, 99], "local: z 9.0"), ([0, 9, 3, 0, 0], "logic: z 9.0"), ([99, -2, -1, 0, 0], "local: z -1.0")],
)
def test_the_reason_names_the_branch_that_counts_most(z: list[float], branch: str) -> None:
    reason = decide(6.0, np.array(z, np.float32), WEIGHT, THRESHOLDS).reason
    assert reason == f"{branch}; score 6.00 above 4.00"


def test_a_fault_is_none() -> None:
    assert fault("dark") == Decision("NONE", "dark")
