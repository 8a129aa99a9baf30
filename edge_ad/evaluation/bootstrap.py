"""How sure one can be of an AUROC, and of the difference of two: the bootstrap over images.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals. Goods and anomalies are drawn again
separately, so that every draw has both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_ad.evaluation.auroc import Floats, Scores, auroc

DRAWS = 2000
LEVEL = 0.95
_CELLS = 1 << 22  # cells of the table of pairs that are held at a time (32 MiB of float64)


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its bootstrap interval (LEVEL of the draws lie inside)."""

    value: float
    low: float
    high: float


def auroc_interval(goods: Scores, anomalies: Scores, seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Return the AUROC with its percentile bootstrap interval; goods and anomalies are drawn separately, seeded.

    None when either is empty.
    """
    value = auroc(goods, anomalies)
    return None if value is None else _interval(value, _resampled(goods, anomalies, seed, draws))


def auroc_difference(
    first: tuple[Scores, Scores], second: tuple[Scores, Scores], seed: int = 0, draws: int = DRAWS
) -> Interval | None:
    """Return AUROC(first) - AUROC(second) with its paired bootstrap interval; None when there is nothing to compare.

    Both are (goods [N], anomalies [M]): two scores of the same images in the same order, so the same images are drawn
    for both.
    """
    if np.shape(first[0]) != np.shape(second[0]) or np.shape(first[1]) != np.shape(second[1]):
        raise ValueError("the two sets of scores are not of the same images")
    values = auroc(*first), auroc(*second)
    if values[0] is None or values[1] is None:
        return None
    return _interval(values[0] - values[1], _resampled(*first, seed, draws) - _resampled(*second, seed, draws))


def _resampled(goods: Scores, anomalies: Scores, seed: int, draws: int) -> Floats:
    """Return the AUROC of each bootstrap draw [draws]; the drawn indices depend on the counts and the seed alone."""
    low, high = np.asarray(goods, np.float64).ravel(), np.asarray(anomalies, np.float64).ravel()
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
