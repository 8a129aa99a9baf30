"""From a score, or a fault, to a verdict and its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_ad.events import Verdict
from edge_ad.scoring import BRANCHES, Thresholds


@dataclass(frozen=True)
class Decision:
    """A verdict, and why it is not OK (None for OK)."""

    verdict: Verdict
    reason: str | None


def fault(reason: str) -> Decision:
    """The decision of a frame that could not be judged: NONE, never OK and never an anomaly."""
    return Decision("NONE", reason)


def decide(score: float, z: NDArray[np.float32], weight: NDArray[np.float32], thresholds: Thresholds) -> Decision:
    """Judge a fused ``score``; the reason names the branch that added most to it (``weight`` x ``z``, both f32[5]).

    A score that is not finite is a fault of the engine: NONE.
    """
    if not math.isfinite(score):
        return fault(f"engine: the score is {score}, not a finite number")
    verdict = thresholds.verdict(score)
    if verdict == "OK":
        return Decision(verdict, None)
    shares = [w * value if w > 0 else -math.inf for w, value in zip(weight.tolist(), z.tolist(), strict=True)]
    branch = shares.index(max(shares))
    limit = thresholds.ng if verdict == "NG" else thresholds.warn
    return Decision(verdict, f"{BRANCHES[branch]}: z {float(z[branch]):.1f}; score {score:.2f} above {limit:.2f}")
