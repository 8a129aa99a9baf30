"""Have the normal images changed? Running statistics of z against the normal images the thresholds were made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.errors import BadInput

WARNING = "lighting or lot changed: recalibrate or retrain"
MIN_REFERENCE = 10


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """What is known now.

    ``mean`` (EWMA of z) and ``shift`` (its distance from the normal images in standard errors) by branch and for
    ``score``; ``drifted`` names the branches whose last window differs, with their ``p_value``; ``parts`` counts what
    went in.
    """

    parts: int
    mean: dict[str, float]
    shift: dict[str, float]
    p_value: dict[str, float]
    drifted: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """One sentence when the parts are no longer like the normal images, else None."""
        if not self.drifted:
            return None
        message = ", ".join(f"{name} (z {self.mean[name]:+.1f} on average)" for name in self.drifted)
        return f"{WARNING}; no longer like the normal images: {message}"


@dataclass(kw_only=True)
class _Stream:
    reference: NDArray[np.float64]
    centre: float
    spread: float
    ewma: float = 0.0
    window: list[float] = field(default_factory=list)
    p_value: float = 1.0


class Drift:
    """Compares parts that were not rejected with the normal images, branch by branch and as a whole.

    ``reference`` holds z of normal images that set the thresholds, f32 [N] by branch, and ``score``. After every
    ``window`` parts each stream is tested once with the two-sample Kolmogorov-Smirnov test (exact size for any
    continuous distribution; p by Stephens' approximation, 1970), at a level of ``alpha`` divided by the number of
    streams (Bonferroni), so that on average at most a share ``alpha`` of windows warns falsely. NG parts are left out:
    a line that makes scrap has not drifted. The EWMA (weight ``memory`` for the past) tells how far; it decides
    nothing. Thresholds are never touched.
    """

    def __init__(
        self,
        reference: Mapping[str, ArrayLike],
        window: int = 100,
        alpha: float = 0.001,
        memory: float = 0.95,
    ) -> None:
        self._streams = {name: _stream(name, values) for name, values in reference.items()}
        if not self._streams or window < 10 or not 0 < alpha < 1 or not 0 < memory < 1:
            raise BadInput(
                f"drift needs normal images, a window of 10 or more (got {window}) and 0 < alpha < 1 (got {alpha:g})"
            )
        self._window = window
        self._level = alpha / len(self._streams)
        self._memory = memory
        self._parts = 0
        self._drifted: tuple[str, ...] = ()

    def add(self, verdict: str, score: float | None, z: Mapping[str, float]) -> bool:
        """Take in one part; True when a window was completed with it and ``report`` has news."""
        if verdict not in ("OK", "WARN") or score is None:
            return False
        self._parts += 1
        values = {**z, "score": score}
        for name, stream in self._streams.items():
            value = values.get(name)
            if value is not None:
                stream.ewma = self._memory * stream.ewma + (1 - self._memory) * value
                stream.window.append(value)
        if self._parts % self._window:
            return False
        self._test()
        return True

    def report(self) -> DriftReport:
        """Return what is known now."""
        # Variance of an EWMA of independent values, and that of the mean of the normal images.
        share = (1 - self._memory) / (1 + self._memory)
        shift = {
            name: (stream.ewma - stream.centre) / (stream.spread * math.sqrt(share + 1 / len(stream.reference)))
            for name, stream in self._streams.items()
        }
        return DriftReport(
            parts=self._parts,
            mean={name: stream.ewma for name, stream in self._streams.items()},
            shift=shift,
            p_value={name: stream.p_value for name, stream in self._streams.items()},
            drifted=self._drifted,
        )

    def _test(self) -> None:
        drifted = []
        for name, stream in self._streams.items():
            if len(stream.window) < self._window:
                stream.window.clear()
                continue
            stream.p_value = two_sample_p(stream.reference, stream.window)
            stream.window.clear()
            if stream.p_value < self._level:
                drifted.append(name)
        self._drifted = tuple(drifted)


def two_sample_p(first: ArrayLike, second: ArrayLike) -> float:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test of two samples [N] and [M].

    Stephens' approximation: with n = N M / (N + M), lambda = (sqrt(n) + 0.12 + 0.11 / sqrt(n)) D and
    p = 2 sum (-1)^(j-1) exp(-2 j^2 lambda^2). Conservative where values tie.
    """
    one, two = np.sort(np.asarray(first, np.float64)), np.sort(np.asarray(second, np.float64))
    every = np.concatenate([one, two])
    gaps = np.searchsorted(one, every, "right") / one.size - np.searchsorted(two, every, "right") / two.size
    distance = float(np.abs(gaps).max())
    root = math.sqrt(one.size * two.size / (one.size + two.size))
    lam = (root + 0.12 + 0.11 / root) * distance
    if lam < 0.3:  # the series needs many terms there, and p is 1 to five digits
        return 1.0
    total = sum((-1.0) ** (j - 1) * math.exp(-2.0 * j * j * lam * lam) for j in range(1, 101))
    return min(max(2.0 * total, 0.0), 1.0)


def _stream(name: str, values: ArrayLike) -> _Stream:
    reference = np.sort(np.asarray(values, np.float64).ravel())
    if reference.size < MIN_REFERENCE or not np.isfinite(reference).all():
        raise BadInput(
            f"drift needs the scores of at least {MIN_REFERENCE} normal images, but {name!r} has {reference.size}; "
            "recalibrate with more normal images"
        )
    centre, spread = float(reference.mean()), float(reference.std(ddof=1))
    return _Stream(reference=reference, centre=centre, spread=max(spread, 1e-6), ewma=centre)
