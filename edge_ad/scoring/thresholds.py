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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Verdict
from edge_ad.scoring.auroc import auroc
from edge_ad.scoring.statistics import Array, Statistics, fuse

_LARGEST = 1.7e308  # about the largest float; a whole number may be larger
_COUNTS = ("goods", "goods_warn", "goods_ng")
LARGEST_PRICE = 1e6


FIRST_FIELDS = 9  # of Thresholds: what every bundle has


class Detected(NamedTuple):
    """How many of the anomalies of a ``name`` are above NG (``found``) and above NG of the promise (``promised``)."""

    name: str
    found: int
    promised: int
    of: int


@dataclass(frozen=True)
class OperatingPoint:
    """A rule for the NG threshold: ``promise``, ``balanced``, or ``cost`` with the ``price`` of a missed defect in false
    rejects.
    """

    name: str
    price: float = 0.0

    @classmethod
    def parse(cls, text: object) -> OperatingPoint:
        """Read ``promise``, ``balanced`` or ``cost:10``; BadInput for anything else."""
        name, _, price = text.partition(":") if isinstance(text, str) else ("", "", "")
        if text in ("promise", "balanced"):
            return cls(name)
        try:
            number = float(price) if name == "cost" else math.nan
        except ValueError:
            number = math.nan
        if not 0 < number <= LARGEST_PRICE:
            raise BadInput(
                f"the operating point is {text!r:.40}; it must be promise, balanced or cost:K with K above 0 and at most "
                f"{LARGEST_PRICE:g}, what a missed defect costs in false rejects, such as cost:10"
            )
        return cls(name, number)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds on the fused score and what they were chosen from.

    A score above ``ng`` is NG, else above ``warn`` WARN, else OK. ``goods`` unseen normal images set them;
    ``goods_warn`` of those lie above ``warn`` (NG included) and ``goods_ng`` above ``ng``. ``target_*`` are the rates
    of normal images asked for, ``supported_*`` the rates promised: the target, or 1 / (normal images + 1) where so few
    normal images cannot support the target. Rates are fractions, not percent. With ``goods`` 0 the thresholds were set
    by hand and promise nothing.

    ``zones`` are thresholds of their own for the named zones of the image, in scores of the map there.

    ``operating_point`` is the rule that NG follows (``OperatingPoint``). ``promise_ng`` is the NG threshold of the
    promise, ``estimated_ng`` the rate of normal images that the rule expects above ``ng``; None where only the promise
    was made. ``found`` tells of the anomalies that the rule looked at, by strength, how many lie above ``ng``, how many
    above ``promise_ng``, and how many there are.
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
    operating_point: str = "promise"
    promise_ng: float | None = None
    estimated_ng: float | None = None
    found: tuple[Detected, ...] = ()
    zones: tuple[tuple[str, Thresholds], ...] = ()

    def __post_init__(self) -> None:
        OperatingPoint.parse(self.operating_point)
        for field in fields(self)[:FIRST_FIELDS]:
            _check_number(field.name, getattr(self, field.name))
        for name in ("promise_ng", "estimated_ng"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name))
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

    def worst_zone(self, scores: Mapping[str, float]) -> tuple[str, Verdict] | None:
        """Return the zone that is farthest beyond a threshold of its own, and its verdict; None where all are OK.

        ``scores`` has the score of each zone by name; one that is missing or not finite raises DeviceFault.
        """
        beyond = [(name, own.verdict(scores.get(name, math.nan)), scores[name] - own.ng) for name, own in self.zones]
        beyond = [one for one in beyond if one[1] != "OK"]
        if not beyond:
            return None
        name, verdict, _ = max(beyond, key=lambda one: (one[1] == "NG", one[2]))
        return name, verdict

    def verdict_of_part(self, score: float, zones: Mapping[str, float]) -> Verdict:
        """Judge a part by its fused score and those of its ``zones``: the worst verdict."""
        worst = self.worst_zone(zones)
        verdicts = (self.verdict(score), *(() if worst is None else (worst[1],)))
        return next((one for one in ("NG", "WARN") if one in verdicts), "OK")

    def describe(self) -> str:
        """Tell the promise in counts, each target that so few normal images cannot support, and what zones promise."""
        return "; ".join([self._whole(), *self._zones()])

    def _zones(self) -> list[str]:
        """Return the promise of each zone, and what all of them come to."""
        messages = [
            f"zone {name}: NG above {own.ng:.4g}, WARN above {own.warn:.4g} of the map there, which rejects {own.goods_ng} of "
            f"{own.goods} normal images (at most {percent(own.supported_ng)} promised)"
            for name, own in self.zones
        ]
        if messages and self.goods:
            total = min(1.0, self.supported_ng + sum(own.supported_ng for _, own in self.zones))
            messages.append(f"whole image and zones together reject at most {percent(total)} of normal parts")
        return messages

    def _whole(self) -> str:
        if not self.goods:
            return f"NG above {self.ng:.4g}, WARN above {self.warn:.4g}; set by hand, so no rate of normal images is promised"
        messages = [
            f"{self.goods_ng} of {self.goods} normal images would be rejected (NG above {self.ng:.4g}) and "
            f"{self.goods_warn} of {self.goods} would be at least WARN (above {self.warn:.4g})"
        ]
        messages += self._lone() if self._is_lowered else self._unsupported("NG", self.target_ng, self.supported_ng)
        messages += self._unsupported("WARN", self.target_warn, self.supported_warn)
        messages.append(f"with 90 % certainty at most {percent(self.upper_ng)} of normal images are NG")
        return "; ".join(messages + self._both_currencies())

    @property
    def upper_ng(self) -> float:
        """The rate of normal images above ``ng`` that is not exceeded in 90 % of draws of ``goods`` normal images."""
        return upper_rate(self.goods, self.goods_ng)

    @property
    def _is_lowered(self) -> bool:
        return self.promise_ng is not None and self.ng < self.promise_ng

    def _lone(self) -> list[str]:
        return [
            f"the highest of them ({self.promise_ng:.4g}) lies alone and does not set NG, so {percent(self.supported_ng)} are "
            f"promised instead of {percent(max(self.target_ng, 1 / (self.goods + 1)))}"
        ]

    def _both_currencies(self) -> list[str]:
        """Return what the operating point expects of normal images and of the anomalies that it looked at."""
        if self.estimated_ng is None:
            return []
        detected = ", ".join(f"{row.found} of {row.of} {row.name}" for row in self.found)
        rate = "less than 0.01 %" if self.estimated_ng < 1e-4 else f"about {percent(self.estimated_ng)}"
        shown = f"; it finds {detected}{self._lost()}" if detected else ""
        return [f"operating point {self.operating_point}: {rate} of normal images are expected above NG{shown}"]

    def _lost(self) -> str:
        """Return the shares that NG loses of those anomalies that the promise alone would find."""
        if self._is_lowered or self.ng == self.promise_ng:
            return ""
        shares = ", ".join(percent(1 - row.found / row.promised) for row in self.found if row.promised)
        return f" and loses {shares} of those above {self.promise_ng:.4g}, the NG of the promise" if shares else ""

    def _unsupported(self, name: str, target: float, supported: float) -> list[str]:
        if supported <= target:
            return []
        minimum = percent(supported)
        return [
            f"{self.goods} normal images cannot promise less than {minimum}: the {name} target of {percent(target)} "
            f"becomes {minimum}"
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; ``from_json`` gives back an equal object."""
        values = asdict(self)
        del values["zones"]  # an older edge-ad takes thresholds without zones, and refuses those that it would not keep to
        return {**values, "zones": [[name, own.to_json()] for name, own in self.zones]} if self.zones else values

    @classmethod
    def from_json(cls, value: object) -> Thresholds:
        """Build from a JSON object with exactly these fields; those of the operating point may be missing, as they are in
        older bundles, and anything else raises BadInput.
        """
        names = [field.name for field in fields(cls)]
        missing = set(names) - set(value) if isinstance(value, Mapping) else set(names)
        if not isinstance(value, Mapping) or missing - set(names[FIRST_FIELDS:]) or set(value) - set(names):
            raise BadInput(f"thresholds must be a JSON object with exactly {', '.join(names)}")
        zones = _zone_thresholds(value.get("zones", []))
        return cls(**{**value, "found": _found(value.get("found", [])), "zones": zones})


def _zone_thresholds(value: object) -> tuple[tuple[str, Thresholds], ...]:
    """Read the thresholds of zones from JSON; BadInput for anything else, or two zones of one name."""
    rows: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    for row in rows:
        if not (isinstance(row, (list, tuple)) and len(row) == 2 and isinstance(row[0], str) and row[0]):
            raise BadInput(f"thresholds: 'zones' must list pairs of a zone's name and its thresholds, but has {row!r:.60}")
        if isinstance(row[1], Mapping) and row[1].get("zones"):
            raise BadInput(f"thresholds: zone {row[0]!r:.60} has zones of its own, which there are not")
    if len({row[0] for row in rows}) < len(rows):
        raise BadInput("thresholds: two of the 'zones' have one name; train the bundle again")
    return tuple((row[0], Thresholds.from_json(row[1])) for row in rows)


def _found(value: object) -> tuple[Detected, ...]:
    """Read the rows of anomalies from JSON; BadInput for anything else."""
    rows = value if isinstance(value, (list, tuple)) else [value]
    return tuple(map(_found_row, rows))


def _found_row(row: object) -> Detected:
    if isinstance(row, (list, tuple)) and len(row) == len(Detected._fields):
        name, counts = row[0], list(row[1:])
        whole = all(type(count) is int and count >= 0 for count in counts)
        if isinstance(name, str) and whole and max(counts[:2]) <= counts[2]:
            return Detected(name, *counts)
    raise BadInput(f"thresholds: 'found' must list rows of {', '.join(Detected._fields)}, but has {row!r:.60}")


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
EXCEEDED = 0.05
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


CERTAINTY = 0.9
SHOWN = "synthetic"  # raw scores of the anomalies of a training; fainter ones end in _50 and the like


def upper_rate(count: int, above: int, certainty: float = CERTAINTY) -> float:
    """Return the rate above the (``above`` + 1)-th highest of ``count`` scores that is not exceeded with ``certainty``.

    That rate follows Beta(above + 1, count - above), whatever the distribution (Vovk, Conditional validity of inductive
    conformal predictors, 2012); its distribution function is a binomial tail.
    """
    if above >= count:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _binomial(above, count, middle) > 1 - certainty else (low, middle)
    return high


def _binomial(most: int, count: int, rate: float) -> float:
    """The probability of at most ``most`` of ``count`` that happen at a ``rate`` each."""

    def term(k: int) -> float:
        ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        return math.exp(ways + k * math.log(rate) + (count - k) * math.log1p(-rate))

    return math.fsum(map(term, range(most + 1)))


def rate_exceeded(count: int, above: int, rate: float) -> bool:
    """Whether ``above`` of ``count`` images are more than a ``rate`` explains (binomial, one-sided 5 %)."""
    return above > 0 and 0 < rate < 1 and _binomial(above - 1, count, rate) > 1 - EXCEEDED


LOGICAL_SPLIT = f"{SHOWN}_logical"
"""Raw scores of logical anomalies: they choose weights, and no threshold."""


def anomaly_split(strength: float) -> str:
    """Return the name, among the raw scores of a bundle, of its anomalies at a ``strength`` (0 to 1, the full one)."""
    return SHOWN if strength == 1 else f"{SHOWN}_{100 * strength:.0f}"


def anomaly_scores(raw_scores: Mapping[str, Array], statistics: Statistics) -> dict[str, Array]:
    """Return the fused scores of the anomalies among the ``raw_scores`` of a bundle, by strength, the full one first."""
    shares = {split: split.removeprefix(SHOWN).strip("_") for split in raw_scores if split.startswith(SHOWN)}
    known = {split: int(share or 100) for split, share in shares.items() if share.isdecimal() or not share}
    ordered = sorted(known, key=lambda split: -known[split])
    names = [f"at {known[split]} %" if shares[split] else "anomalies" for split in ordered]
    return {name: fuse(raw_scores[split], statistics)[1] for name, split in zip(names, ordered, strict=True)}
