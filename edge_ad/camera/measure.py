"""What is measured on an image to tell whether the camera is well. Ours.

Sharpness along one axis: the 99th percentile of brightness steps over 2 pixels, divided by that of steps over 16 pixels
on 4 x 4 averages. Contrast and gain of the light cancel; a blur takes the fine steps away and leaves the coarse ones.

``HealthReference`` is how healthy images of one station look: measured on the normal images, kept in the bundle with the
settings of their camera, compared at the run.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.camera.frames import Image
from edge_ad.camera.layout import Field, LayoutChange, TemplateMatcher, edge_field, shrunk, unit
from edge_ad.camera.light_change import GAINS, LightChange, measure_tones
from edge_ad.camera.quality import LEVELS, QUALITIES, SATURATED, Quality, QualityLimits, colour_cast, noise_level
from edge_ad.camera.settings import read_record
from edge_ad.errors import BadInput
from edge_ad.geometry.cut_out import resize
from edge_ad.geometry.geometry import Geometry, Prepared

FORMAT = 1
MIN_IMAGES = 8
"""Fewer normal images than this tell too little of how normal images vary."""

_NUMBERS = ("median_low", "bright_low", "median_high", "saturated_high", "match_low")
_PAIRS = ("sharp_low", "sharp_median", "shift_x", "shift_y")
_COLOURS = ("red", "blue")  # younger than the format


@dataclass(frozen=True, eq=False)
class HealthReference:
    """What was measured on normal images at ``size`` = (height, width) pixels; brightness is luminance from 0 to 255.

    ``median_low`` and ``median_high``: the least and greatest median brightness of an image; ``bright_low``: the least
    99th percentile; ``saturated_high``: the greatest share of saturated pixels. ``sharp_low`` and ``sharp_median``:
    least and median sharpness along x and y (see ``edge_ad.camera.measure``), NaN where normal images have too little
    contrast.
    ``template``: complex64[h,w] of unit norm, the mean of the normal images' edge fields; ``match_low``: the least
    correlation of a good with it; ``shift_x``, ``shift_y``: least and greatest place of best correlation, as shares of
    the size. ``limits`` are those of a tolerance, where the training had one. ``red``, ``blue``: least and greatest share of a
    colour in all light, NaN in references that were made without.
    """

    size: tuple[int, int]
    count: int
    median_low: float
    bright_low: float
    median_high: float
    saturated_high: float
    sharp_low: tuple[float, float]
    sharp_median: tuple[float, float]
    match_low: float
    shift_x: tuple[float, float]
    shift_y: tuple[float, float]
    template: Field = field(repr=False)
    limits: QualityLimits | None = None
    red: tuple[float, float] = (math.nan, math.nan)
    blue: tuple[float, float] = (math.nan, math.nan)

    def joined(self, old: HealthReference) -> HealthReference:
        """Return this reference with the light and the sharpness of ``old`` allowed as well, where both are of one size; the
        place is that of this one.
        """
        if self.size != old.size:
            return self
        sharp = [known if known < new else new for new, known in zip(self.sharp_low, old.sharp_low, strict=True)]  # NaN stays
        return replace(
            self,
            median_low=min(self.median_low, old.median_low),
            bright_low=min(self.bright_low, old.bright_low),
            median_high=max(self.median_high, old.median_high),
            saturated_high=max(self.saturated_high, old.saturated_high),
            sharp_low=(sharp[0], sharp[1]),
            red=_joined(self.red, old.red),
            blue=_joined(self.blue, old.blue),
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; the template is base64 of int8[2,h,w] (real and imaginary part)."""
        peak = float(max(np.abs(self.template.real).max(), np.abs(self.template.imag).max(), 1e-12))
        parts = np.stack([self.template.real, self.template.imag]) * (127.0 / peak)
        rows, columns = self.template.shape
        return {
            "format": FORMAT,
            "size": list(self.size),
            "count": self.count,
            **{name: round(getattr(self, name), 6) for name in _NUMBERS},
            **{name: [_finite(value) for value in getattr(self, name)] for name in (*_PAIRS, *_COLOURS)},
            "grid": [rows, columns],
            "template": base64.b64encode(np.rint(parts).astype(np.int8).tobytes()).decode("ascii"),
            **({} if self.limits is None else {"limits": self.limits.to_json()}),
        }

    @classmethod
    def from_json(cls, value: Any) -> HealthReference:
        """Read what ``to_json`` wrote; BadInput when it is anything else."""
        try:
            return cls._read(value)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadInput(
                f"the health reference of the bundle is damaged ({type(error).__name__}: {error}): train it again"
            ) from error

    @classmethod
    def _read(cls, value: Any) -> HealthReference:
        if not isinstance(value, Mapping) or value["format"] != FORMAT:
            raise ValueError("unknown format")
        rows, columns = (int(side) for side in value["grid"])
        data = np.frombuffer(base64.b64decode(value["template"], validate=True), np.int8)
        parts = data.reshape(2, rows, columns).astype(np.float32)
        template = parts[0] + 1j * parts[1]
        norm = float(np.linalg.norm(template))
        numbers: dict[str, Any] = {name: float(value[name]) for name in _NUMBERS}
        if not norm > 0 or not all(math.isfinite(number) for number in numbers.values()):
            raise ValueError("a value is not finite")
        pairs: dict[str, Any] = {name: _pair(value[name]) for name in _PAIRS}
        pairs |= {name: _pair(value[name]) for name in _COLOURS if name in value}
        height, width = (int(side) for side in value["size"])
        limits = None if value.get("limits") is None else QualityLimits.read(value["limits"])
        count, unit = int(value["count"]), (template / norm).astype("c8")
        return cls((height, width), count, **numbers, **pairs, template=unit, limits=limits)


def _pair(value: Any) -> tuple[float, float]:
    first, second = (math.nan if number is None else float(number) for number in value)
    return first, second


def _joined(new: tuple[float, float], old: tuple[float, float]) -> tuple[float, float]:
    """Return the range of both, or the new one where an older bundle does not know its own."""
    return new if math.isnan(new[0] + old[0]) else (min(new[0], old[0]), max(new[1], old[1]))


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


MIN_CONTRAST = 12.0
"""Coarse steps below this many grey levels are too little to tell sharp from blurred."""

_SHARES = np.array([0.01, 0.5, 0.99])
_BLOCK, _SPAN = 4, 4

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Light:
    """Brightness of one image: 1st, 50th and 99th percentile of luminance, and the share of saturated pixels."""

    darkest: float
    median: float
    brightest: float
    saturated: float


def grey(image: Image) -> Grey:
    """Return the luminance u8[H,W] of u8[H,W,3] RGB."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def light(image: Grey) -> Light:
    """Measure the brightness of u8[H,W]."""
    total = np.cumsum(_histogram(image))
    first, median, last = np.searchsorted(total, _SHARES * total[-1])
    return Light(float(first), float(median), float(last), float((total[-1] - total[SATURATED - 1]) / total[-1]))


def sharpness(image: Grey) -> tuple[float, float]:
    """Measure the sharpness of u8[H,W] along x and y; NaN where there is too little contrast to tell."""
    height, width = image.shape
    if min(height, width) < 8 * _BLOCK:
        return math.nan, math.nan
    coarse = shrunk(image, _BLOCK)
    along_x = _ratio(_steps(image[:, 2:], image[:, :-2]), _steps(coarse[:, _SPAN:], coarse[:, :-_SPAN]))
    along_y = _ratio(_steps(image[2:], image[:-2]), _steps(coarse[_SPAN:], coarse[:-_SPAN]))
    return along_x, along_y


def measure_quality(image: Image, layout: LayoutChange | None = None, normal: LightChange | None = None) -> Quality:
    """Measure all QUALITIES of u8[H,W,3] RGB; turn and zoom are NaN without the ``layout`` that they are told against, and gains
    without the light of ``normal`` images.
    """
    pixels = grey(image)
    total = np.cumsum(_histogram(pixels))
    levels = np.searchsorted(total, np.array(LEVELS) / 100 * total[-1])
    x, y = sharpness(pixels)
    values = (float(pixels.mean()), float((total[-1] - total[SATURATED - 1]) / total[-1]), *map(float, levels), x, y)
    change = (math.nan, math.nan) if layout is None else layout.measure(edge_field(pixels))
    gains = dict.fromkeys(GAINS, math.nan) if normal is None else normal.gains(measure_tones(image))
    known = (*values, noise_level(pixels), *colour_cast(image), *change, *gains.values())
    return dict(zip(QUALITIES, known, strict=True))


def limit_measurer(reference: HealthReference, *, layout: bool) -> Callable[[Image], Quality] | None:
    """Return what measures a frame for the limits of a reference, turn and zoom only with ``layout``; None where it has none."""
    if reference.limits is None:
        return None
    change = LayoutChange(reference.template) if layout and reference.limits.ask_place else None
    normal = reference.limits.light
    return lambda image: measure_quality(image, change, normal)


@dataclass(frozen=True, eq=False)
class FrameMeasure:
    """What a health reference needs of one frame of ``size`` (height, width)."""

    size: tuple[int, int]
    field: Field
    light: Light
    sharp: tuple[float, float]
    red: float
    blue: float


def measure_frame(image: Image) -> FrameMeasure:
    """Measure one image, u8[H,W,3] RGB."""
    pixels = grey(image)
    red, green, blue = cv2.mean(image)[:3]
    total = max(red + green + blue, 1e-6)
    size = (image.shape[0], image.shape[1])
    return FrameMeasure(size, edge_field(pixels), light(pixels), sharpness(pixels), red / total, blue / total)


def frame_measurer(geometry: Geometry) -> Callable[[Image, Prepared], FrameMeasure]:
    """Return what measures normal images as a run sees its frames: a whole one, whatever is cut out of it."""
    return lambda frame, prepared: measure_frame(frame_shown(geometry, frame, prepared))


def frame_shown(geometry: Geometry, frame: Image, prepared: Prepared) -> Image:
    """Return a frame as image quality is measured on it: whole, with about as many pixels as the input."""
    side = round(math.sqrt(geometry.size[0] * geometry.size[1]))
    if geometry.locates:
        return resize(frame, (side, side))
    # A run measures what is ignored, too, and its own light.
    return prepared.image if geometry.keeps_pixels else resize(frame, geometry.size)


def measure_reference(images: Iterable[Image]) -> HealthReference:
    """Measure normal images, u8[H,W,3] RGB all of one size, one after the other.

    BadInput for fewer than MIN_IMAGES images, or for different sizes.
    """
    return reference_of([measure_frame(image) for image in images])


def reference_of(frames: Sequence[FrameMeasure]) -> HealthReference:
    """Return the reference of measured frames; BadInput as ``measure_reference``."""
    size = frames[0].size if frames else (0, 0)
    other = next((frame.size for frame in frames if frame.size != size), None)
    if other is not None:
        raise BadInput(f"normal images of {other} and {size} pixels: a health reference needs one size; resize them first")
    if len(frames) < MIN_IMAGES:
        raise BadInput(f"{len(frames)} normal images are too few for a health reference: give {MIN_IMAGES} or more")
    return HealthReference(
        size,
        len(frames),
        **_light_limits([frame.light for frame in frames]),
        **_sharp_limits([frame.sharp for frame in frames]),
        **_shifts([frame.field for frame in frames]),
        red=(min(frame.red for frame in frames), max(frame.red for frame in frames)),
        blue=(min(frame.blue for frame in frames), max(frame.blue for frame in frames)),
    )


def layout_of(frames: Sequence[FrameMeasure]) -> Field | None:
    """Return the template of measured frames; None where too few, or of different sizes, make none."""
    fields = [frame.field for frame in frames]
    if len(fields) < MIN_IMAGES or len({field.shape for field in fields}) > 1:
        return None
    return unit(np.sum(fields, axis=0))


def _light_limits(lights: list[Light]) -> dict[str, Any]:
    return {
        "median_low": min(one.median for one in lights),
        "median_high": max(one.median for one in lights),
        "bright_low": min(one.brightest for one in lights),
        "saturated_high": max(one.saturated for one in lights),
    }


def _sharp_limits(sharp: list[tuple[float, float]]) -> dict[str, Any]:
    """An axis along which one good of twenty has too little contrast is not looked at."""
    low, median = [], []
    for axis in (0, 1):
        values = np.array([pair[axis] for pair in sharp])
        known = values[np.isfinite(values)]
        enough = len(known) >= 0.95 * len(values)
        low.append(float(known.min()) if enough else math.nan)
        median.append(float(np.median(known)) if enough else math.nan)
    return {"sharp_low": tuple(low), "sharp_median": tuple(median)}


def _shifts(fields: list[Field]) -> dict[str, Any]:
    """Find every good with the template of the others, as an image at the run is none of them."""
    total = np.sum(fields, axis=0)
    shifts = [TemplateMatcher(unit(total - one)).find(one) for one in fields]
    return {
        "match_low": min(shift.match for shift in shifts),
        "shift_x": (min(shift.x for shift in shifts), max(shift.x for shift in shifts)),
        "shift_y": (min(shift.y for shift in shifts), max(shift.y for shift in shifts)),
        "template": unit(total),
    }


def _histogram(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.asarray(cv2.calcHist([values], [0], None, [256], [0, 256]), np.float64).reshape(-1)


def _steps(one: Grey, other: Grey) -> Grey:
    return np.asarray(cv2.absdiff(one, other), np.uint8)


def _ratio(fine: npt.NDArray[np.uint8], coarse: npt.NDArray[np.uint8]) -> float:
    strong = _steep(coarse)
    return _steep(fine) / strong if strong >= MIN_CONTRAST else math.nan


def _steep(steps: npt.NDArray[np.uint8]) -> float:
    """The 99th percentile of steps, between whole grey levels by linear interpolation of the histogram."""
    total = np.cumsum(_histogram(steps))
    wanted = 0.99 * total[-1]
    level = int(np.searchsorted(total, wanted))
    below = float(total[level - 1]) if level else 0.0
    return level + float((wanted - below) / max(float(total[level]) - below, 1.0))


def camera_report(frames: Sequence[FrameMeasure], folder: Path, limits: QualityLimits | None = None) -> dict[str, Any]:
    """Return ``health_reference``, how normal images look with the ``limits`` of a tolerance, and ``camera``, the settings that
    `edge-ad capture` noted in a folder.

    None stands for what cannot be told: fewer than MIN_IMAGES normal images, or images of another origin.
    """
    record = read_record(folder)
    return {
        "health_reference": replace(reference_of(frames), limits=limits).to_json() if len(frames) >= MIN_IMAGES else None,
        "camera": None if record is None else record.to_json(),
    }
