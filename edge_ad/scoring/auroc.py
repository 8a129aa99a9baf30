"""The ROC curve: the area under it, exact, with ties, and the share found at a few false rejects.

How sure one can be of an AUROC, and of the difference of two: the bootstrap over images.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals. Normal images and anomalies are
drawn again separately, so that every draw has both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.ArrayLike
Floats = npt.NDArray[np.float64]


def auroc(normal: Scores, anomalies: Scores) -> float | None:
    """Return the share of pairs (good, anomaly) in which the anomaly scores higher, a tie counting half.

    ``normal`` [N] and ``anomalies`` [M] are finite scores, higher meaning less normal. None when either is empty.
    """
    low, high = np.sort(np.asarray(normal).ravel()), np.asarray(anomalies).ravel()
    if not low.size or not high.size:
        return None
    doubled = np.searchsorted(low, high, "left").sum(dtype=np.int64) + np.searchsorted(low, high, "right").sum(
        dtype=np.int64
    )
    return int(doubled) / (2 * low.size * high.size)


def roc_curve(normal: Scores, anomalies: Scores) -> tuple[Floats, Floats]:
    """Return the false and true positive rates [T] at every distinct score, from (0, 0) to (1, 1)."""
    low, high = np.sort(np.asarray(normal).ravel()), np.sort(np.asarray(anomalies).ravel())
    thresholds = np.unique(np.concatenate([low, high]))[::-1]
    rates = [1.0 - np.searchsorted(side, thresholds, "left") / max(side.size, 1) for side in (low, high)]
    return np.concatenate([[0.0], rates[0]]), np.concatenate([[0.0], rates[1]])


def recall_at(normal: Scores, anomalies: Scores, rate: float = 0.01) -> float | None:
    """Return the share of anomalies above all normal images but the highest floor(``rate`` N) of them; None when either
    is empty.

    So at most ``rate`` of the N ``normal`` lie above the threshold, which is the score of a good and must be exceeded.
    """
    low, high = np.sort(np.asarray(normal).ravel()), np.asarray(anomalies).ravel()
    if not low.size or not high.size:
        return None
    threshold = low[low.size - 1 - min(math.floor(rate * low.size + 1e-9), low.size - 1)]
    return float(np.mean(high > threshold))


DRAWS = 2000
LEVEL = 0.95
_CELLS = 1 << 22  # cells of the table of pairs that are held at a time (32 MiB of float64)


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its bootstrap interval (LEVEL of the draws lie inside)."""

    value: float
    low: float
    high: float


def auroc_interval(normal: Scores, anomalies: Scores, seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Return the AUROC with its percentile bootstrap interval; normal images and anomalies are drawn separately,
    seeded.

    None when either is empty.
    """
    value = auroc(normal, anomalies)
    return None if value is None else _interval(value, _resampled(normal, anomalies, seed, draws))


def auroc_difference(
    first: tuple[Scores, Scores], second: tuple[Scores, Scores], seed: int = 0, draws: int = DRAWS
) -> Interval | None:
    """Return AUROC(first) - AUROC(second) with its paired bootstrap interval; None when there is nothing to compare.

    Both are (normal images [N], anomalies [M]): two scores of the same images in the same order, so the same images are
    drawn for both.
    """
    if np.shape(first[0]) != np.shape(second[0]) or np.shape(first[1]) != np.shape(second[1]):
        raise ValueError("the two sets of scores are not of the same images")
    values = auroc(*first), auroc(*second)
    if values[0] is None or values[1] is None:
        return None
    return _interval(values[0] - values[1], _resampled(*first, seed, draws) - _resampled(*second, seed, draws))


def _resampled(normal: Scores, anomalies: Scores, seed: int, draws: int) -> Floats:
    """Return the AUROC of each bootstrap draw [draws]; the drawn indices depend on the counts and the seed alone."""
    low, high = np.asarray(normal, np.float64).ravel(), np.asarray(anomalies, np.float64).ravel()
    random = np.random.default_rng(seed)
    low_share = random.multinomial(low.size, np.full(low.size, 1 / low.size), draws) / low.size
    high_share = random.multinomial(high.size, np.full(high.size, 1 / high.size), draws) / high.size
    total = np.zeros(draws)
    step = max(1, _CELLS // low.size)
    for start in range(0, high.size, step):
        part = high[None, start : start + step]
        wins = (low[:, None] < part) + 0.5 * (low[:, None] == part)
        total += np.einsum("dm,dm->d", low_share @ wins, high_share[:, start : start + step])
    return np.clip(total, 0.0, 1.0)  # sums of shares may miss 1 by a rounding error


def _interval(value: float, drawn: Floats) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
