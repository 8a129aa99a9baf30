"""Thresholds from goods alone, by split conformal prediction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from edge_ad.errors import BadInput
from edge_ad.scoring.thresholds import Thresholds


def choose_thresholds(scores: ArrayLike, target_ng: float = 0.01, target_warn: float = 0.05) -> Thresholds:
    """Choose both thresholds from the fused ``scores`` [N] of goods that took no part in anything before.

    The threshold for a rate a is the ceil((1 - a)(N + 1))-th smallest score, so an exchangeable new good lies strictly
    above it with probability at most a, on average over draws of the N goods. A target below 1 / (N + 1) is replaced
    by that rate. Raises BadInput for no goods, a score that is not finite, or targets that are not
    0 < target_ng <= target_warn < 1.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if not ordered.size:
        raise BadInput("a threshold needs the scores of goods, but there are none; give more goods")
    if not np.isfinite(ordered).all():
        raise BadInput("the score of a good is not a finite number; look at the branches' raw scores")
    if not 0 < target_ng <= target_warn < 1:
        raise BadInput(
            f"the target rates must be 0 < NG <= WARN < 1 (fractions of goods), but are NG {target_ng:g} and "
            f"WARN {target_warn:g}"
        )
    least = 1.0 / (ordered.size + 1)
    supported_ng, supported_warn = max(target_ng, least), max(target_warn, least)
    ng, warn = (float(ordered[_rank(rate, ordered.size) - 1]) for rate in (supported_ng, supported_warn))
    return Thresholds(
        warn=warn,
        ng=ng,
        goods=int(ordered.size),
        goods_warn=int((ordered > warn).sum()),
        goods_ng=int((ordered > ng).sum()),
        target_warn=float(target_warn),
        target_ng=float(target_ng),
        supported_warn=supported_warn,
        supported_ng=supported_ng,
    )


def _rank(rate: float, goods: int) -> int:
    """ceil((1 - rate)(goods + 1)), robust against rounding: 0.29 * 100 is 28.999999999999996 in floating point."""
    return max(1, goods + 1 - math.floor(rate * (goods + 1) + 1e-9))
