"""Where the NG threshold lies between the promise and the anomalies that are known: the rules of an operating point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.scoring.thresholds import Detected, OperatingPoint, Thresholds, choose_thresholds, upper_rate

ALLOWED_LOSS = 0.01  # of the anomalies of a strength that the promise finds
DEFECTIVE = 0.01  # share of parts that are assumed to have a defect, where misses and false rejects are weighed
Floats = NDArray[np.float64]


def choose_operating_point(
    scores: ArrayLike,
    anomalies: Mapping[str, ArrayLike],
    point: OperatingPoint,
    targets: tuple[float, float] = (0.01, 0.05),
    *,
    least: tuple[float, float] = (-math.inf, -math.inf),
    least_of_others: float | None = None,
) -> Thresholds:
    """Choose thresholds as ``choose_thresholds`` does for ``targets`` (NG, WARN), and move NG as the operating ``point`` says.

    ``anomalies`` are fused scores by strength. WARN stays at the promise, and NG is never below that of the promise, but
    that an image which lies alone above all others need not set it (``_floor``). ``balanced`` goes to where normal
    images reach the target by estimate. To go beyond the promise it takes the 90 % upper end of the rate that it starts
    from, goes no further than the middle between the promise and the anomalies, and loses at most ALLOWED_LOSS of those
    that the promise finds at each strength; without anomalies it stays. ``cost`` minimises price * missed + false
    rejects where DEFECTIVE of the parts have a defect, one like the anomalies shown, all strengths equally often.
    Thresholds are not below ``least`` (NG, WARN), which counts as promised too; where the image that lies alone need not set
    NG, ``least_of_others`` takes the place of the first.
    """
    plain = choose_thresholds(scores, *targets)
    ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    promise = _lifted(plain, ordered, least)
    if point.name == "promise":
        return promise
    shown = {name: _finite(values) for name, values in anomalies.items()}
    tail = _Tail.of(ordered, plain)
    strengths = [values for values in shown.values() if len(values)]
    floor = _floor(ordered, promise, least[0] if least_of_others is None else least_of_others)
    if point.name == "balanced":
        ng = _balanced(promise, floor, tail, strengths, above_warn=plain.goods_warn)
    else:
        ng = _cheapest(floor, tail, strengths, point.price) if strengths else promise.ng
    above = int((ordered > ng).sum())
    return replace(
        promise,
        ng=ng,
        goods_ng=above,
        supported_ng=max(promise.supported_ng, (above + 1) / (len(ordered) + 1)) if ng < promise.ng else promise.supported_ng,
        operating_point=f"{point.name}:{point.price:g}" if point.price else point.name,
        promise_ng=promise.ng,
        estimated_ng=tail.rate(ng),
        found=tuple(
            Detected(name, int((values > ng).sum()), int((values > promise.ng).sum()), len(values))
            for name, values in shown.items()
        ),
    )


def _finite(values: ArrayLike) -> Floats:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return np.sort(flat[np.isfinite(flat)])


def _lifted(plain: Thresholds, ordered: Floats, least: tuple[float, float]) -> Thresholds:
    warn = max(plain.warn, least[1])
    ng = max(plain.ng, least[0], warn)
    return replace(plain, warn=warn, ng=ng, goods_warn=int((ordered > warn).sum()), goods_ng=int((ordered > ng).sum()))


def _floor(ordered: Floats, promise: Thresholds, least: float) -> float:
    """Return the least NG: that of the promise, or the second highest score (not below WARN and ``least``) where the promise
    rests on the highest alone.

    One image of sixty that is unlike all others would else set NG, and hide the anomalies below it.
    """
    return promise.ng if promise.goods_ng or len(ordered) < 2 else max(float(ordered[-2]), promise.warn, least)


@dataclass(frozen=True)
class _Tail:
    """Normal images above ``warn``, whose rate there is ``start``: as an exponential through the upper half of their scores,
    of which ``reach`` lies between the median and ``warn``.
    """

    warn: float
    start: float
    reach: float

    @classmethod
    def of(cls, ordered: Floats, promise: Thresholds) -> _Tail:
        return cls(promise.warn, promise.supported_warn, promise.warn - float(np.median(ordered)))

    def rate(self, score: float) -> float:
        """Return the estimated rate of normal images above a ``score`` that is at least ``warn``."""
        if score <= self.warn or self.start >= 0.5:
            return self.start
        return self.start * math.exp(math.log(2 * self.start) * (score - self.warn) / self.reach) if self.reach > 0 else 0.0

    def score(self, target: float, start: float) -> float:
        """Return where the rate is ``target`` if it is ``start`` at ``warn``."""
        if start <= target:
            return self.warn
        return self.warn + self.reach * math.log(start / target) / math.log(0.5 / start) if start < 0.5 else math.inf


def _balanced(promise: Thresholds, floor: float, tail: _Tail, shown: list[Floats], *, above_warn: int) -> float:
    """Return NG; ``above_warn`` of the normal images lie above the WARN that the tail begins at, which may be below that of
    the promise.
    """
    estimate = tail.score(promise.target_ng, tail.start)
    if estimate < promise.ng:
        return max(estimate, floor)
    caught = [values[values > promise.ng] for values in shown]
    # The lowest anomalies that must stay above NG: the next one after those that may be lost.
    limits = [float(values[math.floor(ALLOWED_LOSS * len(values))]) for values in caught if len(values)]
    if not limits:
        return promise.ng
    start = upper_rate(promise.goods, above_warn)
    return max(promise.ng, min(tail.score(promise.target_ng, start), (promise.ng + min(limits)) / 2))


def _cheapest(floor: float, tail: _Tail, shown: list[Floats], price: float) -> float:
    # The cost falls between two anomalies, and jumps at each: NG lies at the floor or in the middle of such a gap.
    scores = np.unique(np.concatenate([[floor], *(values[values > floor] for values in shown)]))
    candidates = [floor, *((scores[1:] + scores[:-1]) / 2).tolist()]

    def cost(ng: float) -> float:
        missed = float(np.mean([np.searchsorted(values, ng, "right") / len(values) for values in shown]))
        return DEFECTIVE * price * missed + (1 - DEFECTIVE) * tail.rate(ng)

    return float(min(candidates, key=lambda ng: (cost(ng), -ng)))
