"""How well a frame shows its part, as plain measures, and the limits between what a tolerance allows and what is beyond it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.camera.light_change import GAINS, LightChange

Image = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.uint8]

LEVELS = (25, 50, 75, 90, 95, 99)
LIGHTS = ("mean", "saturated", *(f"level_{level}" for level in LEVELS))
CASTS = ("red_over_blue", "green_over_others")
PLACES = ("turn", "zoom")
QUALITIES = (*LIGHTS, "sharp_x", "sharp_y", "noise", *CASTS, *PLACES, *GAINS)
_BRIGHTNESS, _WARMTH, _GREEN = (*LIGHTS, GAINS[0]), (CASTS[0], GAINS[1]), (CASTS[1], GAINS[2])
FAULTS = {
    "dark": (_BRIGHTNESS, True),
    "bright": (_BRIGHTNESS, False),
    "blurred": (("sharp_x", "sharp_y"), True),
    "noisy": (("noise",), False),
    "tinted warm": (_WARMTH, False),
    "tinted cool": (_WARMTH, True),
    "tinted green": (_GREEN, False),
    "tinted magenta": (_GREEN, True),
    "turned clockwise": (PLACES[:1], True),
    "turned counter-clockwise": (PLACES[:1], False),
    "too near": (PLACES[1:], False),
    "too far": (PLACES[1:], True),
}
"""The measures that may show a fault, and whether it lies below what is allowed."""
SEEN = 0.95  # of frames three times beyond a tolerance, the least share that must be seen as such
MIN_ROOM = 0.3  # deviations of what is at the limit of a tolerance: less says nothing about other normal images
MIN_FREE = 0.1  # of a frame: less that is not saturated shows no colour
NOISE_BLOCK = 16
NOISE_SHARE = 0.1  # of the blocks: the flattest ones show noise alone
SATURATED = 250
Quality = Mapping[str, float]


@dataclass(frozen=True)
class QualityLimit:
    """A limit of one ``measure`` of QUALITIES: a frame is beyond it where that is higher, or lower where ``below``."""

    measure: str
    limit: float
    below: bool

    def broken_by(self, quality: Mapping[str, float]) -> bool:
        """Whether a frame's quality is beyond the limit; not where it cannot be measured (NaN)."""
        value = quality[self.measure]
        return value < self.limit if self.below else value > self.limit


@dataclass(frozen=True)
class QualityLimits:
    """Between what a tolerance allows and three times as much: the limit of each fault, and the faults that are ``unseen``.

    ``by_fault``: of FAULTS those that the tolerance speaks of. A fault is unseen where normal images differ so much by
    themselves that no measure tells the two apart. ``light`` estimates gains, where a limit is one of them.
    """

    by_fault: Mapping[str, QualityLimit]
    unseen: tuple[str, ...] = ()
    light: LightChange | None = None

    @property
    def ask_place(self) -> bool:
        """Whether a limit is one of turn or zoom, which only a template tells."""
        return any(one.measure in PLACES for one in self.by_fault.values())

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        limits = {fault: [one.measure, round(one.limit, 6), one.below] for fault, one in self.by_fault.items()}
        light = {} if self.light is None else {"light": self.light.to_json()}
        return {"by_fault": limits, "unseen": list(self.unseen), **light}

    @classmethod
    def read(cls, value: Any) -> QualityLimits:
        """Read what ``to_json`` wrote; ValueError or KeyError for anything else."""
        limits = {}
        for fault, (measure, limit, below) in value["by_fault"].items():
            if fault not in FAULTS or measure not in QUALITIES or not math.isfinite(float(limit)):
                raise ValueError(f"unknown limit of {fault!r}")
            limits[fault] = QualityLimit(str(measure), float(limit), bool(below))
        light = LightChange.read(value["light"]) if "light" in value else None
        if light is None and any(one.measure in GAINS for one in limits.values()):
            raise ValueError("a limit of the light's gain without the light of the normal images")
        return cls(limits, tuple(map(str, value["unseen"])), light)

    @classmethod
    def of(cls, inside: Mapping[str, Sequence[Quality]], beyond: Mapping[str, Sequence[Quality]]) -> QualityLimits:
        """Return limits between frames ``inside`` a tolerance and ``beyond`` it, by fault."""
        best = {fault: _limit_of(fault, inside[fault], beyond[fault]) for fault in inside}
        known = {fault: limit for fault, limit in best.items() if limit is not None}
        return cls(known, tuple(fault for fault in best if fault not in known))


def noise_level(image: Grey) -> float:
    """Measure the deviation of the noise of u8[H,W] in grey levels, in its flattest blocks; NaN where too few are neither black
    nor saturated.

    A second difference along both axes takes away everything but noise (Immerkaer, 1996); its mean amount is 6 deviations
    times the root of 2 / pi.
    """
    rows, columns = (side // NOISE_BLOCK for side in image.shape)
    whole = image[: rows * NOISE_BLOCK, : columns * NOISE_BLOCK].astype(np.float32)
    if not whole.size:
        return math.nan
    change = cv2.filter2D(whole, -1, np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0]), borderType=cv2.BORDER_REFLECT_101)
    amounts, level = (cv2.resize(one, (columns, rows), interpolation=cv2.INTER_AREA) for one in (np.abs(change), whole))
    unsaturated = amounts[(level > 8) & (level < 247)]
    return float(np.quantile(unsaturated, NOISE_SHARE)) * math.sqrt(math.pi / 2) / 6 if len(unsaturated) >= 4 else math.nan


def colour_cast(image: Image) -> tuple[float, float]:
    """Measure red over blue, and green over the mean of both, of u8[H,W,3] RGB by the means of what is not saturated; NaN where
    too little is, or where it is black.
    """
    red, green, blue = cv2.split(image)
    free = np.asarray((cv2.max(cv2.max(red, green), blue) < SATURATED), np.uint8)
    if free.mean() < MIN_FREE:
        return math.nan, math.nan
    r, g, b = (float(cv2.mean(channel, free)[0]) for channel in (red, green, blue))
    return (r / b, 2 * g / (r + b)) if min(r, g, b) >= 1 else (math.nan, math.nan)


def _limit_of(fault: str, inside: Sequence[Quality], beyond: Sequence[Quality]) -> QualityLimit | None:
    """Return the limit half-way between both in the measure that tells them apart best; None where none does."""
    measures, below = FAULTS[fault]
    best: tuple[float, QualityLimit | None] = (MIN_ROOM, None)
    for measure in measures:
        within, far = (np.array([one[measure] for one in rows], np.float64) * (-1 if below else 1) for rows in (inside, beyond))
        if not (np.isfinite(within).all() and np.isfinite(far).all()):
            continue
        highest, least = float(within.max()), float(np.quantile(far, 1 - SEEN))
        near = within[within >= np.median(within)]  # the half towards the limit
        room = (least - highest) / (float(near.std()) + 1e-3 * abs(highest) + 1e-6)
        if room > best[0]:
            limit = (highest + least) / 2
            best = room, QualityLimit(measure, -limit if below else limit, below)
    return best[1]
