"""Have the normal images changed? Running statistics of z against the normal images the thresholds were made from.

What moved is named in the user's words: light, focus, pose and colour by how images look beside normal ones, texture by the
branches that differ where images look as ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.camera.frames import Image
from edge_ad.camera.layout import TemplateMatcher
from edge_ad.camera.measure import FrameMeasure, HealthReference, measure_frame
from edge_ad.errors import BadInput

WARNING = "lighting or lot changed: recalibrate or retrain"
MIN_REFERENCE = 10


Kind = Literal["light", "focus", "pose", "colour", "texture"]
ADVICE: Mapping[Kind, str] = MappingProxyType(
    {
        "light": "check lamp and exposure; recalibrate if this light stays",
        "focus": "clean the lens and check the focus; a recalibration would make dirt normal",
        "pose": "check the fixture and the camera; retrain if the parts stay there",
        "colour": "check lamp and white balance; recalibrate if the lot is good",
        "texture": "look at the parts; recalibrate if the lot is good, retrain if it is a new variant",
    }
)


@dataclass(frozen=True)
class Cause:
    """What moved, by how much in words, and the parts that show it most."""

    kind: Kind
    message: str
    parts: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What moved and what to do about it."""
        shown = f" (seen in {', '.join(self.parts)})" if self.parts else ""
        return f"{self.kind}: {self.message}{shown}: {ADVICE[self.kind]}"


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """What is known now.

    ``mean`` (EWMA of z) and ``shift`` (its distance from the normal images in standard errors) by branch and for
    ``score``; ``drifted`` names the branches whose last window differs, with their ``p_value``; ``parts`` counts what
    went in. ``causes`` are what moved, none while nothing drifted.
    """

    parts: int
    mean: dict[str, float]
    shift: dict[str, float]
    p_value: dict[str, float]
    drifted: tuple[str, ...]
    causes: tuple[Cause, ...] = ()

    @property
    def warning(self) -> str | None:
        """One sentence when the parts are no longer like the normal images, else None."""
        if not self.drifted:
            return None
        message = ", ".join(f"{name} (z {self.mean[name]:+.1f} on average)" for name in self.drifted)
        causes = "".join(f"; {cause.sentence}" for cause in self.causes)
        return f"{WARNING}; no longer like the normal images: {message}{causes}"


EVERY = 5  # parts: one of so many is measured
LIKE = 0.5  # of the way from the middle of normal images to their bounds: beyond it half of a window does not lie by chance
SHOWN = 3  # parts that are named


class ImageDrift:
    """Tells how the images of a window of parts look beside normal images: light, focus, colour and, with ``layout``, place."""

    def __init__(self, reference: HealthReference, *, layout: bool = True) -> None:
        self.reference = reference
        self._matcher = TemplateMatcher(reference.template) if layout else None
        self._rows: list[dict[str, float]] = []
        self._parts: list[str] = []
        self._seen = 0

    def wants(self) -> bool:
        """Count a part; True where it shall be measured."""
        self._seen += 1
        return self._seen % EVERY == 0

    def add(self, image: Image, part: str) -> None:
        """Measure one image u8[H,W,3] RGB at the size of the reference."""
        self._rows.append(self._values(measure_frame(image)))
        self._parts.append(part)

    @property
    def measured(self) -> int:
        """How many images of the window were measured."""
        return len(self._rows)

    def causes(self) -> tuple[Cause, ...]:
        """Return what moved in the window."""
        if not self._rows:
            return ()
        causes = (self._light(), self._focus(), self._colour(), self._pose())
        return tuple(cause for cause in causes if cause is not None)

    def clear(self) -> None:
        """Begin another window."""
        self._rows.clear()
        self._parts.clear()

    def _values(self, seen: FrameMeasure) -> dict[str, float]:
        values = {"light": seen.light.median, "x": seen.sharp[0], "y": seen.sharp[1], "red": seen.red, "blue": seen.blue}
        if self._matcher is not None:
            shift = self._matcher.find(seen.field)
            values |= {"across": shift.x, "down": shift.y}
        return values

    def _light(self) -> Cause | None:
        low, high = self.reference.median_low, self.reference.median_high
        away = self._away("light", low, high, floor=2.0)
        if not away:
            return None
        share = away / max(0.5 * (low + high), 1.0)
        return self._cause("light", f"{abs(share):.0%} {'brighter' if away > 0 else 'darker'} than normal images", "light", away)

    def _focus(self) -> Cause | None:
        """Name a softer image alone: a sharper one is no fault."""
        for axis, low, median in zip("xy", self.reference.sharp_low, self.reference.sharp_median, strict=True):
            values = np.array([row[axis] for row in self._rows])
            if not np.isfinite(values).any() or not median > 0:
                continue
            value = float(np.nanmedian(values))
            if value < median - max(LIKE * (median - low), 0.02 * median):
                return self._cause("focus", f"{1 - value / median:.0%} less sharp than normal images", axis, -1.0)
        return None

    def _colour(self) -> Cause | None:
        for name in ("red", "blue"):
            low, high = getattr(self.reference, name)
            if not math.isnan(low) and (away := self._away(name, low, high, floor=0.003)):
                share = away / max(0.5 * (low + high), 1e-3)
                message = f"{abs(share):.0%} {'more' if away > 0 else 'less'} {name} in the light than in that of normal images"
                return self._cause("colour", message, name, away)
        return None

    def _pose(self) -> Cause | None:
        if self._matcher is None:
            return None
        for name, (low, high) in (("across", self.reference.shift_x), ("down", self.reference.shift_y)):
            if away := self._away(name, low, high, floor=0.005):
                return self._cause("pose", f"shifted by {away:+.1%} {name} from normal images", name, away)
        return None

    def _away(self, name: str, low: float, high: float, *, floor: float) -> float:
        """Return how far the median of the window lies from the middle of normal images, 0 where it lies as theirs do."""
        middle = 0.5 * (low + high)
        away = float(np.median([row[name] for row in self._rows])) - middle
        return away if abs(away) > max(LIKE * 0.5 * (high - low), floor) else 0.0

    def _cause(self, kind: Kind, message: str, name: str, sign: float) -> Cause:
        """Return a cause with the parts that lie farthest in the direction of ``sign``."""
        values = np.array([row[name] for row in self._rows])
        order = np.argsort(np.where(np.isfinite(values), values, -math.copysign(math.inf, sign)))
        farthest = (order[::-1] if sign > 0 else order)[:SHOWN]
        return Cause(kind, message, tuple(self._parts[row] for row in sorted(farthest.tolist())))


TEXTURE = ("structure", "local", "memory")
ARRANGED = ("logic", "global")


def causes_of(
    drifted: Sequence[str], mean: Mapping[str, float], seen: Sequence[Cause], *, measured: bool = True
) -> tuple[Cause, ...]:
    """Return what moved: what images show, or else what the branches whose z rose say; ``measured`` says that images were."""
    risen = [name for name in drifted if mean.get(name, 0.0) > 0]
    if seen or not risen:
        return tuple(seen)
    if texture := [name for name in risen if name in TEXTURE]:
        alike, unknown = "though light and focus are as in normal images", "or light or focus, which no image was measured for"
        images = alike if measured else unknown
        return (Cause("texture", f"the surface differs for {' and '.join(texture)}, {images}"),)
    if arranged := [name for name in risen if name in ARRANGED]:
        return (Cause("pose", f"position or arrangement differs for {' and '.join(arranged)}"),)
    if "composition" in risen:
        return (Cause("colour", "colour or material differs for composition"),)
    return ()


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
        self._causes: tuple[Cause, ...] = ()
        self.images: ImageDrift | None = None
        """How the images of the parts look, where whoever feeds this measures them."""

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
            causes=self._causes,
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
        seen = self.images.causes() if self.images is not None and drifted else ()
        measured = self.images is not None and self.images.measured > 0
        mean = {name: stream.ewma for name, stream in self._streams.items()}
        self._causes = causes_of(drifted, mean, seen, measured=measured)
        if self.images is not None:
            self.images.clear()


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
