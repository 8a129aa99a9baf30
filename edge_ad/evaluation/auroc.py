"""The ROC curve: the area under it, exact, with ties, and the share found at a few false rejects."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Scores = npt.ArrayLike
Floats = npt.NDArray[np.float64]


def auroc(goods: Scores, anomalies: Scores) -> float | None:
    """Return the share of pairs (good, anomaly) in which the anomaly scores higher, a tie counting half.

    ``goods`` [N] and ``anomalies`` [M] are finite scores, higher meaning less normal. None when either is empty.
    """
    low, high = np.sort(np.asarray(goods).ravel()), np.asarray(anomalies).ravel()
    if not low.size or not high.size:
        return None
    doubled = np.searchsorted(low, high, "left").sum(dtype=np.int64) + np.searchsorted(low, high, "right").sum(
        dtype=np.int64
    )
    return int(doubled) / (2 * low.size * high.size)


def roc_curve(goods: Scores, anomalies: Scores) -> tuple[Floats, Floats]:
    """Return the false and true positive rates [T] at every distinct score, from (0, 0) to (1, 1)."""
    low, high = np.sort(np.asarray(goods).ravel()), np.sort(np.asarray(anomalies).ravel())
    thresholds = np.unique(np.concatenate([low, high]))[::-1]
    rates = [1.0 - np.searchsorted(side, thresholds, "left") / max(side.size, 1) for side in (low, high)]
    return np.concatenate([[0.0], rates[0]]), np.concatenate([[0.0], rates[1]])


def recall_at(goods: Scores, anomalies: Scores, rate: float = 0.01) -> float | None:
    """Return the share of anomalies above all goods but the highest floor(``rate`` N) of them; None when either is empty.

    So at most ``rate`` of the N ``goods`` lie above the threshold, which is the score of a good and must be exceeded.
    """
    low, high = np.sort(np.asarray(goods).ravel()), np.asarray(anomalies).ravel()
    if not low.size or not high.size:
        return None
    threshold = low[low.size - 1 - min(math.floor(rate * low.size + 1e-9), low.size - 1)]
    return float(np.mean(high > threshold))
