"""Whether thresholds keep their promise: how many unseen normal images lie above one, against what chance allows.

With n normal images for the threshold and the rank k of the score that is taken, the rate of an exchangeable new good
above it is Beta(n + 1 - k, k), so the count among m unseen normal images is beta-binomial. (Vovk, Conditional validity
of inductive conformal predictors, 2012.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_ad.scoring import choose_thresholds

LEVEL = 0.95


@dataclass(frozen=True)
class Promise:
    """What came of one target over several draws of normal images.

    ``counts`` are unseen normal images above the threshold, one a draw, of ``unseen`` each; ``mean`` and ``error`` the
    mean rate and its standard error; ``inside`` the counts within ``interval`` (95 % of the beta-binomial, ends
    included).
    """

    target: float
    supported: float
    counts: tuple[int, ...]
    unseen: int
    mean: float
    error: float
    interval: tuple[int, int]
    inside: int

    @property
    def holds(self) -> bool:
        """Whether the mean is within two standard errors of the rate, and at least 17 of 20 counts within the interval.
        """
        return self.mean <= self.supported + 2 * self.error and self.inside * 20 >= 17 * len(self.counts)


def measure(draws: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], target: float) -> Promise:
    """Return what thresholds for ``target`` do: each draw is the fused scores (threshold normal images [n], unseen
    normal images [m]).

    All draws must have the same counts, or ValueError. The thresholds are those of `edge-ad train`.
    """
    sizes = {(np.size(threshold), np.size(unseen)) for threshold, unseen in draws}
    if len(sizes) != 1:
        raise ValueError(f"draws must have the same numbers of normal images, but have {sorted(sizes)}")
    normal, unseen = next(iter(sizes))
    counts, supported = [], target
    for threshold_scores, unseen_scores in draws:
        chosen = choose_thresholds(threshold_scores, target, target)
        supported = chosen.supported_ng
        counts.append(sum(chosen.verdict(float(score)) == "NG" for score in np.ravel(np.asarray(unseen_scores))))
    rates = np.array(counts) / unseen
    error = float(rates.std(ddof=1) / math.sqrt(len(rates))) if len(rates) > 1 else math.inf
    low, high = count_interval(normal, unseen, supported)
    inside = sum(low <= count <= high for count in counts)
    return Promise(target, supported, tuple(counts), unseen, float(rates.mean()), error, (low, high), inside)


def count_interval(normal_count: int, unseen: int, rate: float, level: float = LEVEL) -> tuple[int, int]:
    """Return the least and greatest count of ``unseen`` above a threshold for ``rate`` from ``normal_count``, tails
    left out.

    At most (1 - ``level``) / 2 of the beta-binomial lies below the one and above the other.
    """
    above = max(1, math.floor(rate * (normal_count + 1) + 1e-9))
    shares = np.cumsum([_share(count, unseen, above, normal_count + 1 - above) for count in range(unseen + 1)])
    tail = (1 - level) / 2
    low = int(np.searchsorted(shares, tail, "right"))
    high = int(np.searchsorted(shares, 1 - tail, "left"))
    return low, min(high, unseen)


def _share(count: int, total: int, a: float, b: float) -> float:
    def beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    ways = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    return math.exp(ways + beta(count + a, total - count + b) - beta(a, b))
