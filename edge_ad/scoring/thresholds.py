"""Two thresholds on the fused score, with the promise they make in counts of normal images.

Thresholds from normal images alone, by cross-conformal prediction: the scores of all unseen normal images, each made
with a mean and deviation that it took no part in. Where every fit is compared with the score of the image that it left
out (the jackknife+ of Barber, Candès, Ramdas and Tibshirani, Predictive inference with the jackknife+, 2021), a new
image lies above with probability 2a at most, and a in practice. One threshold on one final fit is the plain jackknife,
which has that bound as far as leaving one image out hardly moves the fit; docs/methods.md has what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Verdict
from edge_ad.scoring.auroc import auroc

_LARGEST = 1.7e308  # about the largest float; a whole number may be larger
_COUNTS = ("goods", "goods_warn", "goods_ng")


@dataclass(frozen=True)
class Thresholds:
    """Thresholds on the fused score and what they were chosen from.

    A score above ``ng`` is NG, else above ``warn`` WARN, else OK. ``goods`` unseen normal images set them;
    ``goods_warn`` of those lie above ``warn`` (NG included) and ``goods_ng`` above ``ng``. ``target_*`` are the rates
    of normal images asked for, ``supported_*`` the rates promised: the target, or 1 / (normal images + 1) where so few
    normal images cannot support the target. Rates are fractions, not percent. With ``goods`` 0 the thresholds were set
    by hand and promise nothing.
    """

    warn: float
    ng: float
    goods: int = 0
    goods_warn: int = 0
    goods_ng: int = 0
    target_warn: float = 0.05
    target_ng: float = 0.01
    supported_warn: float = 0.05
    supported_ng: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_number(field.name, getattr(self, field.name))
        if self.warn > self.ng:
            raise BadInput(f"the WARN threshold {self.warn:g} lies above the NG threshold {self.ng:g}; it must not")
        if not 0 <= self.goods_ng <= self.goods_warn <= self.goods:
            raise BadInput(
                f"thresholds count {self.goods_ng} NG and {self.goods_warn} WARN or NG among {self.goods} normal images; "
                "these must rise from left to right"
            )

    def verdict(self, score: float) -> Verdict:
        """Judge one fused score; one that is not finite raises DeviceFault: it is a fault, not a verdict."""
        if not math.isfinite(score):
            raise DeviceFault(f"the score is {score}, not a finite number: the engine is faulty; rebuild it")
        if score > self.ng:
            return "NG"
        return "WARN" if score > self.warn else "OK"

    def describe(self) -> str:
        """Tell the promise in counts, and each target that so few normal images cannot support."""
        if not self.goods:
            return f"NG above {self.ng:.4g}, WARN above {self.warn:.4g}; set by hand, so no rate of normal images is promised"
        messages = [
            f"{self.goods_ng} of {self.goods} normal images would be rejected (NG above {self.ng:.4g}) and "
            f"{self.goods_warn} of {self.goods} would be at least WARN (above {self.warn:.4g})"
        ]
        messages += self._unsupported("NG", self.target_ng, self.supported_ng)
        messages += self._unsupported("WARN", self.target_warn, self.supported_warn)
        return "; ".join(messages)

    def _unsupported(self, name: str, target: float, supported: float) -> list[str]:
        if supported <= target:
            return []
        minimum = percent(supported)
        return [
            f"{self.goods} normal images cannot promise less than {minimum}: the {name} target of {percent(target)} "
            f"becomes {minimum}"
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers for JSON; ``from_json`` gives back an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Thresholds:
        """Build from a JSON object with exactly these fields; anything else raises BadInput."""
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or sorted(value) != sorted(names):
            raise BadInput(f"thresholds must be a JSON object with exactly {', '.join(names)}")
        return cls(**value)


def percent(rate: float) -> str:
    """Write a rate as percent with two significant digits: 0.01818 is '1.8 %'."""
    return f"{float(f'{rate * 100:.2g}'):g} %"


def _check_number(name: str, value: object) -> None:
    allowed: tuple[type, ...] = (int,) if name in _COUNTS else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not -_LARGEST <= value <= _LARGEST:  # type: ignore[operator]
        kind = "a whole number" if name in _COUNTS else "a finite number"
        message = "a number without end" if isinstance(value, int) and value.bit_length() > 64 else f"{value!r:.40}"
        raise BadInput(f"thresholds: {name!r} must be {kind}, but is {message}")


def choose_thresholds(scores: ArrayLike, target_ng: float = 0.01, target_warn: float = 0.05) -> Thresholds:
    """Choose both thresholds from the fused ``scores`` [N] of normal images that took no part in what scored them.

    The threshold for a rate a is the ceil((1 - a)(N + 1))-th smallest score, so an exchangeable new good lies strictly
    above it with probability at most a, on average over draws of the N normal images. A target below 1 / (N + 1) is
    replaced by that rate. Raises BadInput for no normal images, a score that is not finite, or targets that are not 0 <
    target_ng <= target_warn < 1.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if not ordered.size:
        raise BadInput("a threshold needs the scores of normal images, but there are none; give more normal images")
    if not np.isfinite(ordered).all():
        raise BadInput("the score of a good is not a finite number; look at the branches' raw scores")
    if not 0 < target_ng <= target_warn < 1:
        raise BadInput(
            f"the target rates must be 0 < NG <= WARN < 1 (fractions of normal images), but are NG {target_ng:g} and "
            f"WARN {target_warn:g}"
        )
    minimum = 1.0 / (ordered.size + 1)
    supported_ng, supported_warn = max(target_ng, minimum), max(target_warn, minimum)
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


def _rank(rate: float, normal_count: int) -> int:
    """ceil((1 - rate)(normal images + 1)), robust against rounding: 0.29 * 100 is 28.999999999999996 in floating point.
    """
    return max(1, normal_count + 1 - math.floor(rate * (normal_count + 1) + 1e-9))


LIKE = 1.645  # standard errors, one-sided 5 %
MIN_LIKE = 4  # images on each side that say anything of it


def lies_above(others: ArrayLike, scores: ArrayLike) -> bool:
    """Whether ``scores`` [N] of normal images lie above those of ``others`` [M] by their ranks (Mann and Whitney, one-sided 5 %).

    Then the others, which training stopped by, are no witnesses of what new images score.
    """
    first, second = np.size(others), np.size(scores)
    share = auroc(others, scores)
    if share is None or min(first, second) < MIN_LIKE:
        return False
    return share - 0.5 > LIKE * math.sqrt((first + second + 1) / (12 * first * second))
