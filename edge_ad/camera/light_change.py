"""How the light of an image differs from that of the normal images, in brightness and colour, whatever colour its part has. Ours.

The pixels of each channel, sorted, are averaged between quantiles; the logarithms of these means are the *tones* of an image. A
gain of the light adds its logarithm to every tone that is neither dark nor saturated; another part or surface changes them
otherwise. How tones follow gains, and how they vary besides, is learned from normal images that were disturbed by known gains; the
gains of a new image are estimated by generalised least squares (Aitken, On least squares and linear combination of observations,
1935), in which tones that vary by themselves count least, and saturated ones not at all.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

QUANTILES = np.array([0.0, 0.25, 0.5, 0.7, 0.8, 0.88, 0.94, 0.975, 0.99, 1.0])  # shares of the pixels, from the darkest
TONES = 3 * (len(QUANTILES) - 1)
MODES = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])  # brightness, red over blue, green over both
_DARK = 2.0  # grey levels, added before the logarithm: below them rounding decides
_FLOOR = 0.01  # least deviation of a tone, added to every one
_UNKNOWN = 3.0  # deviation of a tone that is free in fewer than MIN_COUNT versions: it says next to nothing
_SHRINKAGE = 0.02  # of the covariance towards its diagonal
_SATURATION = math.log(250.0 + _DARK)  # of a tone: from there on it does not follow the light
MIN_TONES = 9  # that are not saturated: fewer say too little of the light
MIN_COUNT = 10
GAINS = ("gain", "red_over_blue_gain", "green_gain")
"""Factors of the light along MODES: of all channels, of red over blue, and of green over the geometric mean of both."""


def measure_tones(image: Image) -> Array:
    """Return the logarithms f64[TONES] of the mean levels between QUANTILES, of each channel of u8[H,W,3] in turn."""
    levels = np.arange(256.0)
    tones = []
    for channel in range(3):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).reshape(-1).astype(np.float64)
        pixels, total = (np.concatenate([[0.0], np.cumsum(values)]) for values in (counts, counts * levels))
        bounds = QUANTILES * pixels[-1]
        tones.append(np.log(np.diff(np.interp(bounds, pixels, total)) / np.diff(bounds) + _DARK))
    return np.concatenate(tones)


def gain_modes(gain: tuple[float, float, float]) -> Array:
    """Return the coefficients f64[3] of MODES that add up to the logarithms of three channels' factors."""
    logs = np.log(np.asarray(gain, np.float64))
    return np.asarray(MODES @ logs / (MODES**2).sum(axis=1))


@dataclass(frozen=True, eq=False)
class LightChange:
    """Tones of normal images: their ``mean`` f64[TONES]; how they follow MODES of gains (``slopes`` f64[3,TONES], zero where none
    was learned); the ``covariance`` f64[TONES,TONES] of what gains do not explain; and ``max_distance``, squared, by tone:
    beyond it an image is so unlike normal ones that nothing is known of its light. Saturated tones are left out everywhere.
    """

    mean: Array
    slopes: Array
    covariance: Array
    max_distance: float = math.inf

    @classmethod
    def learn(cls, tones: Array, modes: Array) -> LightChange:
        """Learn from the ``tones`` f64[N,V,TONES] of V versions of N normal images: the first of each is undisturbed, the others by
        gains of known ``modes`` f64[N,V,3].
        """
        mean, known = tones[:, 0].mean(axis=0), modes.reshape(-1, 3)
        free = tones < _SATURATION
        change = (tones - tones[:, :1]).reshape(-1, TONES)
        counted = (free & free[:, :1]).reshape(-1, TONES)
        fits = [
            np.linalg.lstsq(known * rows[:, None], followed * rows, rcond=None)[0]
            for rows, followed in zip(counted.T, change.T, strict=True)
        ]
        slopes = np.stack(fits, axis=1)
        rest = np.where(free, tones - mean - modes @ slopes, 0.0).reshape(-1, TONES)
        return cls(mean, slopes, _covariance(rest, free.reshape(-1, TONES)))

    def distance(self, tones: Array) -> float:
        """Return the squared Mahalanobis distance of tones f64[TONES] from normal images in the most similar light, by tone."""
        return self._solved(tones)[1]

    def gains(self, tones: Array) -> dict[str, float]:
        """Return the GAINS of the light of an image with the tones f64[TONES].

        NaN for a gain that was not learned, and for all where the image is unlike normal ones in any light or mostly saturated.
        """
        modes, distance = self._solved(tones)
        asked = self.slopes.any(axis=1) & bool(distance <= self.max_distance)
        return dict(zip(GAINS, np.where(asked, np.exp(np.clip(modes * (1, 2, 3), -9, 9)), np.nan).tolist(), strict=True))

    def _solved(self, tones: Array) -> tuple[Array, float]:
        """Return the modes f64[3] of the light by generalised least squares, and the squared distance of what they leave."""
        free = tones < _SATURATION
        if free.sum() < MIN_TONES:
            return np.full(3, np.nan), 0.0
        slopes, rest = self.slopes[:, free], (tones - self.mean)[free]
        solved = np.linalg.solve(self.covariance[np.ix_(free, free)], np.column_stack([slopes.T, rest]))
        modes = np.linalg.pinv(slopes @ solved[:, :3]) @ (slopes @ solved[:, 3])
        left = (rest - modes @ slopes) @ (solved[:, 3] - solved[:, :3] @ modes)
        return np.asarray(modes, np.float64), float(left) / int(free.sum())

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        parts = (self.mean, self.slopes, self.covariance)
        data = np.concatenate([part.reshape(-1) for part in parts]).astype("<f4")
        values = base64.b64encode(data.tobytes()).decode("ascii")
        return {"tones": TONES, "values": values, "max_distance": round(self.max_distance, 6)}

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> LightChange:
        """Read what ``to_json`` wrote; ValueError or KeyError for anything else."""
        data = np.frombuffer(base64.b64decode(value["values"], validate=True), "<f4").astype(np.float64)
        distance = float(value["max_distance"])
        if value["tones"] != TONES or len(data) != TONES * (TONES + 4) or not np.isfinite([*data, distance]).all():
            raise ValueError("the light of the normal images cannot be read")
        mean, slopes, values = np.split(data, [TONES, 4 * TONES])
        covariance = values.reshape(TONES, TONES)
        np.linalg.cholesky(covariance)  # LinAlgError is a ValueError
        return cls(mean, slopes.reshape(3, TONES), covariance, distance)


def _covariance(rest: Array, free: npt.NDArray[np.bool_]) -> Array:
    """Return the covariance f64[TONES,TONES] of ``rest`` f64[N,TONES], zero where not ``free``, by pairs of tones that both are."""
    counts = free.T.astype(np.float64) @ free
    covariance = rest.T @ rest / np.maximum(counts, 1.0)
    covariance += _SHRINKAGE * (np.diag(np.diag(covariance)) - covariance)
    covariance += np.diag(np.where(np.diag(counts) < MIN_COUNT, _UNKNOWN, _FLOOR) ** 2)
    size, axes = np.linalg.eigh(covariance)  # pairs from different images need not make it positive definite
    return np.asarray((axes * np.maximum(size, _FLOOR**2)) @ axes.T, np.float64)
