"""How the layout of a whole image differs from that of the normal images: shifted, turned, nearer or farther. Ours.

Brightness averaged to about 64 x 64 cells has a gradient in every cell, a complex number that is compressed so that no edge
outweighs the rest. The normal images' mean of these fields is the template: what moves from one to the next averages out of it,
what stands still stays. The peak of the correlation (by FFT) tells by how much an image is shifted; peaks with templates
turned and scaled by known amounts tell by how much it is turned and scaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.complex64]
Grey = npt.NDArray[np.uint8]

CELLS = 64
ANGLES = (-9.0, -6.0, -3.0, 0.0, 3.0, 6.0, 9.0)  # degrees, counter-clockwise
SCALES = (0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09)
_FLOOR = 2.0


@dataclass(frozen=True)
class Shift:
    """Where the template fits best: ``match`` is the correlation there (1: identical), shifts are shares of the size.
    """

    match: float
    x: float
    y: float


def edge_field(image: Grey) -> Field:
    """Return the compressed gradients complex64[h,w] of u8[H,W] in about CELLS x CELLS cells."""
    cells = shrunk(image, max(1, min(image.shape) // CELLS)).astype(np.float32)
    result = np.zeros(cells.shape, np.complex64)
    result.real[:, 1:-1] = cells[:, 2:] - cells[:, :-2]
    result.imag[1:-1] = cells[2:] - cells[:-2]
    strength = np.abs(result)
    return np.asarray(result / (strength + strength.mean() + _FLOOR), np.complex64)


class TemplateMatcher:
    """Finds a template, complex64[h,w] of unit norm, in edge fields of the same size."""

    def __init__(self, template: Field) -> None:
        self._shape = template.shape
        self._spectrum = np.conj(np.fft.fft2(template))

    def find(self, field: Field) -> Shift:
        """Return the best place, to a fraction of a cell."""
        if field.shape != self._shape:
            return Shift(0.0, 0.0, 0.0)
        norm = float(np.linalg.norm(field))
        fit = np.fft.ifft2(self._spectrum * np.fft.fft2(field)).real / max(norm, 1e-6)
        row, column = np.unravel_index(int(np.argmax(fit)), fit.shape)
        rows, columns = self._shape
        y = _centred(int(row), rows) + _between(fit[row - 1, column], fit[row, column], fit[(row + 1) % rows, column])
        x = _centred(int(column), columns) + _between(
            fit[row, column - 1], fit[row, column], fit[row, (column + 1) % columns]
        )
        return Shift(float(fit[row, column]), x / columns, y / rows)


class LayoutChange:
    """Tells by how much an image is turned and scaled against a template, complex64[h,w]; within about 12 degrees and 12 %."""

    def __init__(self, template: Field) -> None:
        turned = [_transformed(template, angle, 1.0) for angle in ANGLES]
        scaled = [_transformed(template, 0.0, scale) for scale in SCALES]
        self._shape, self._spectra = template.shape, np.conj(np.fft.fft2(np.stack(turned + scaled)))

    def measure(self, field: Field) -> tuple[float, float]:
        """Return the turn in degrees counter-clockwise and the scale less 1 of a field, wherever it lies; NaN for another size."""
        if field.shape != self._shape:
            return math.nan, math.nan
        fits = np.fft.ifft2(self._spectra * np.fft.fft2(field)).real.max(axis=(1, 2))
        return _peak(fits[: len(ANGLES)], ANGLES), _peak(fits[len(ANGLES) :], SCALES) - 1.0


def _transformed(template: Field, angle: float, scale: float) -> Field:
    """Return the template of images that are turned and scaled about their middle; gradients turn with them."""
    rows, columns = template.shape
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), angle, scale)
    real, imag = (
        cv2.warpAffine(np.ascontiguousarray(part), matrix, (columns, rows), flags=cv2.INTER_LINEAR)
        for part in (template.real, template.imag)
    )
    return unit(np.asarray((real + 1j * imag) * np.exp(-1j * math.radians(angle)), np.complex64))


def _peak(fits: npt.NDArray[np.floating], steps: tuple[float, ...]) -> float:
    """Return where the parabola through the best of evenly spaced ``steps`` and its neighbours is highest."""
    best = int(np.clip(np.argmax(fits), 1, len(fits) - 2))
    before, peak, after = map(float, fits[best - 1 : best + 2])
    return steps[best] + _between(before, peak, after, limit=1.0) * (steps[1] - steps[0])


def unit(total: Field) -> Field:
    """Return a field with a norm of 1."""
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), np.complex64)


def shrunk(image: Grey, block: int) -> Grey:
    """Average blocks of ``block`` x ``block`` pixels; what is over at the right and below is left out."""
    rows, columns = image.shape[0] // block, image.shape[1] // block
    whole = image[: rows * block, : columns * block]
    return np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _centred(index: int, count: int) -> int:
    return (index + count // 2) % count - count // 2


def _between(before: float, peak: float, after: float, limit: float = 0.5) -> float:
    """Return the top of the parabola through three values, from the middle one, in steps; at most ``limit``."""
    bend = before - 2.0 * peak + after
    return float(np.clip(0.5 * (before - after) / bend, -limit, limit)) if bend < 0 else 0.0
