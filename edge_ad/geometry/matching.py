"""Find a patch in an image at any shift and turn: correlation of gradients for the start, then robust least squares.

The start is the normalised correlation of gradient magnitudes (edges survive a change of the light) with a bank of
turned patches, all products taken at once in the frequency domain of a small image. Each candidate is refined to a
fraction of a pixel by the inverse compositional algorithm (Baker & Matthews 2004) on the patch's points of most
structure, with gain and offset of the light, and Tukey's weights so that missing or added material does not pull. It
maximises the same correlation as ECC (Evangelidis & Psarakis 2008), at the cost of a few hundred points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.geometry.pose import Image, Points, rotation

# Longer side of the image in which the start is looked for; with few turns to try there is time for more pixels.
COARSE_SIDE, FINER_SIDE, FEW_TURNS, MIN_PATCH = 48, 72, 7, 14
TURN_STEP = 7.5
SHIFT, RIGID, SCALED = 2, 3, 4
CANDIDATES = 5
# Between mid and full resolution the same patch is matched twice where its diagonal has more pixels than this.
MID_DIAGONAL = 90.0
# Candidates whose correlation is this much below the best one's are no rivals of it.
RIVAL = 0.25
_TUKEY = 4.685

Grey = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PatchMatch:
    """A patch found in an image: f64[2,3] from the patch's frame to the image, and the correlation, -1 to 1."""

    matrix: Points
    correlation: float

    @property
    def angle(self) -> float:
        """Return the patch's turn in degrees."""
        return math.degrees(math.atan2(self.matrix[1, 0], self.matrix[0, 0]))

    @property
    def scale(self) -> float:
        """Return the patch's size in the image relative to the template."""
        return math.hypot(self.matrix[0, 0], self.matrix[1, 0])


def structure(grey: Image) -> Grey:
    """Return a grey image u8[h,w] without its slow changes of light, f32[h,w]: what a patch is compared by."""
    values = cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32)
    side = max(3, max(grey.shape) // 8 | 1)
    return np.asarray(values - cv2.blur(values, (side, side)), np.float32)


class Matcher:
    """A patch f32[h,w] (as ``structure`` gives it) with a mask u8[h,w], to be found in images of ``size`` (height, width).

    The frame's origin is the patch's middle. ``freedom`` is SHIFT, RIGID (with a turn) or SCALED (with a scale too). Turns up
    to ``turn`` degrees around ``angle`` are searched.
    """

    def __init__(self, patch: Grey, mask: Image, size: tuple[int, int], *, freedom: int = RIGID, angle: float = 0.0,
                 turn: float = 180.0) -> None:
        self.patch, self.mask, self.size, self.freedom = patch, mask, size, freedom
        turn = 0.0 if freedom == SHIFT else turn
        self._steps = [PatchLevel(patch, mask, 1.0, 400)]
        if math.hypot(*patch.shape) > MID_DIAGONAL:
            self._steps.insert(0, PatchLevel(patch, mask, 0.5, 160))
        turns = _turns(angle, turn)
        side = COARSE_SIDE if len(turns) > FEW_TURNS else FINER_SIDE
        self._shrink = min(1.0, max(side / max(size), MIN_PATCH / min(patch.shape)))
        self._bank = _Bank(patch, mask, self._shrink, size, turns=turns)

    def find(self, image: Grey, count: int = CANDIDATES) -> list[PatchMatch]:
        """Return the best matches of the patch in an image f32[h,w] (as ``structure`` gives it), best first."""
        return self.refine(image, self._bank.search(_shrunk(image, self._shrink), count))

    def refine(self, image: Grey, starts: Points) -> list[PatchMatch]:
        """Return what f64[n,2,3] become when they are refined, best first, one for each position and turn."""
        matrices, apart = starts, 0.1 * math.hypot(*self.patch.shape)
        for index, level in enumerate(self._steps):
            seen = image if level.shrink == 1.0 else _shrunk(image, level.shrink)
            placed = _scaled(matrices, level.shrink)
            for steps in (5, 7) if index == 0 else (7,):
                placed, correlations = level.descend(seen, placed, self.freedom, steps)
                order = np.argsort(-correlations, kind="stable")
                placed, correlations = placed[order], correlations[order]
                chosen = _distinct(placed, apart * level.shrink)
                chosen = [one for one in chosen if correlations[one] > correlations[0] - RIVAL]
                placed, correlations = placed[chosen], correlations[chosen]
            matrices = _scaled(placed, 1 / level.shrink)
        return [PatchMatch(matrix, float(value)) for matrix, value in zip(matrices, correlations, strict=True)]


class PatchLevel:
    """The points of most structure of a patch at one resolution, with their slopes."""

    def __init__(self, patch: Grey, mask: Image, shrink: float, count: int) -> None:
        self.shrink = shrink
        values = patch if shrink == 1.0 else _shrunk(patch, shrink)
        inside = cv2.resize(mask, values.shape[::-1], interpolation=cv2.INTER_AREA) > 250
        inside[[0, -1]] = inside[:, [0, -1]] = False
        slope_x, slope_y = (cv2.Scharr(values, cv2.CV_32F, *order, scale=1 / 32) for order in ((1, 0), (0, 1)))
        rows, columns = _most_structured(np.hypot(slope_x, slope_y), inside, count)
        middle_y, middle_x = (values.shape[0] - 1) / 2, (values.shape[1] - 1) / 2
        x, y = (columns - middle_x).astype(np.float32), (rows - middle_y).astype(np.float32)
        self.radius = max(1.0, math.hypot(middle_x, middle_y))
        self._lifted = np.stack([x, y, np.ones_like(x)])
        self._values = values[rows, columns]
        by_x, by_y = slope_x[rows, columns], slope_y[rows, columns]
        unit_x, unit_y = x / self.radius, y / self.radius
        self._slopes = np.stack([by_x, by_y, by_y * unit_x - by_x * unit_y, by_x * unit_x + by_y * unit_y])

    def descend(self, image: Grey, matrices: Points, freedom: int, steps: int) -> tuple[Points, NDArray[np.float64]]:
        """Return f64[n,2,3] after some steps, and the correlation of the patch's points with the image there."""
        slopes = self._slopes[:freedom]
        weights = np.ones((len(matrices), slopes.shape[1]), np.float32)
        for _ in range(steps):
            error, weights = self._error(self._look(image, matrices), weights)
            weighted = slopes[None] * weights[:, None]
            normal = (weighted @ slopes.T).astype(np.float64)
            normal += 1e-4 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(len(slopes)) + 1e-9
            step = np.linalg.solve(normal, (weighted @ error[..., None]).astype(np.float64))[..., 0]
            reach = 0.2 * self.radius
            matrices = _undone(matrices, np.clip(step, -reach, reach), self.radius)
            if float(np.abs(step).max()) < 0.01:
                break
        return matrices, self._correlations(self._look(image, matrices))

    def _look(self, image: Grey, matrices: Points) -> Grey:
        both = np.swapaxes(matrices, 0, 1).reshape(-1, 3).astype(np.float32) @ self._lifted
        x, y = both[: len(matrices)], both[len(matrices) :]
        return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE), np.float32)

    def _error(self, seen: Grey, weights: Grey) -> tuple[Grey, Grey]:
        """Return what is left of the image's values, brought to the patch's light, and new weights; both f32[n,N]."""
        total = weights.sum(axis=1, keepdims=True) + 1e-6
        seen = seen - (weights * seen).sum(axis=1, keepdims=True) / total
        values = self._values - (weights * self._values).sum(axis=1, keepdims=True) / total
        energy = (weights * values * values).sum(axis=1, keepdims=True) + 1e-6
        gain = (weights * seen * values).sum(axis=1, keepdims=True) / energy
        error = seen / np.maximum(gain, 0.05) - values
        spread = 1.4826 * np.median(np.abs(error[:, ::3]), axis=1, keepdims=True) + 0.1
        return error, np.square(np.maximum(0.0, 1 - np.square(error / (_TUKEY * spread)))).astype(np.float32)

    def _correlations(self, seen: Grey) -> NDArray[np.float64]:
        """Return the correlations f64[n] of values seen f32[n,N] with the patch's, both cut at 2.5 standard deviations.

        Uncut, a sixth of the points under something bright would outweigh all others.
        """
        one, other = _cut(seen), _cut(self._values[None])[0]
        norm = np.linalg.norm(one, axis=1) * np.linalg.norm(other) + 1e-6
        return np.asarray(one @ other / norm, np.float64)


class _Bank:
    """Turned patches of gradient magnitudes in the frequency domain."""

    def __init__(self, patch: Grey, mask: Image, shrink: float, size: tuple[int, int], *, turns: list[float]) -> None:
        self._turns, self._shrink = turns, shrink
        small = edges(_shrunk(patch, shrink))
        inside = np.asarray(cv2.resize(mask, small.shape[::-1], interpolation=cv2.INTER_AREA) / 255, np.float32)
        # Edges of the patch itself are no edges of the part.
        inside = np.asarray(cv2.erode(np.pad(inside, 1), np.ones((3, 3)))[1:-1, 1:-1], np.float32)
        reach = math.ceil(math.hypot(*small.shape) / 2)
        self._padded = cv2.getOptimalDFTSize(math.ceil(max(size) * shrink) + reach)
        stack = [self._turned(small, inside, turn) for turn in turns]
        self._patches = np.conj(np.fft.rfft2(np.stack(stack))).astype(np.complex64)
        area = np.zeros((self._padded, self._padded), np.float32)
        around = min(reach, math.floor(math.sqrt(float(inside.sum()) / math.pi)))
        cv2.circle(area, (self._padded // 2, self._padded // 2), max(2, around), 1.0, -1)
        self._area = np.conj(np.fft.rfft2(np.roll(area, (-(self._padded // 2),) * 2, (0, 1)))).astype(np.complex64)

    def search(self, image: Grey, count: int) -> Points:
        """Return the f64[n,2,3] of highest correlation in a small image, in pixels of the full one."""
        values = edges(image)
        high, wide = values.shape
        spectrum = np.fft.rfft2(values - values.mean(), (self._padded, self._padded)).astype(np.complex64)
        energy = np.fft.rfft2(np.square(values - values.mean()), (self._padded, self._padded)).astype(np.complex64)
        scores = np.fft.irfft2(self._patches * spectrum, (self._padded, self._padded))[:, :high, :wide]
        local = np.fft.irfft2(self._area * energy, (self._padded, self._padded))[:high, :wide]
        scores = scores / np.sqrt(np.maximum(local, 0.15 * float(local.max()) + 1e-6))
        return self._peaks(scores, count)

    def _peaks(self, scores: NDArray[np.float64], count: int) -> Points:
        """Return the best positions, none near a better one of a like turn."""
        starts: list[Points] = []
        best = scores.max()
        while len(starts) < count:
            index, y, x = (int(value) for value in np.unravel_index(int(scores.argmax()), scores.shape))
            if starts and scores[index, y, x] < 0.5 * best:
                break
            centre = (np.array([x + _vertex(scores[index, y], x), y + _vertex(scores[index, :, x], y)]) + 0.5) / self._shrink - 0.5
            starts.append(np.column_stack([rotation(self._turns[index]), centre]))
            around = [(index + step) % len(scores) for step in (-1, 0, 1)]
            scores[around, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = -1.0
        return np.stack(starts)

    def _turned(self, small: Grey, inside: Grey, turn: float) -> Grey:
        """Return the patch turned about its middle, without its mean, with the middle at pixel (0, 0) of a periodic image."""
        high, wide = small.shape
        middle = self._padded // 2
        matrix = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), -turn, 1.0)
        matrix[:, 2] += (middle - (wide - 1) / 2, middle - (high - 1) / 2)
        side = (self._padded, self._padded)
        values, weights = (np.asarray(cv2.warpAffine(one, matrix, side), np.float32) for one in (small, inside))
        values = weights * (values - float((values * weights).sum() / max(1e-6, weights.sum())))
        unit = values / (float(np.linalg.norm(values)) + 1e-6)
        return np.asarray(np.roll(unit, (-middle, -middle), (0, 1)), np.float32)


def _cut(values: Grey) -> Grey:
    """Return rows of values around their median, cut at 2.5 standard deviations (estimated by the median), of mean 0."""
    centred = values - np.median(values, axis=1, keepdims=True)
    reach = 2.5 * 1.4826 * np.median(np.abs(centred), axis=1, keepdims=True) + 0.5
    cut = np.clip(centred, -reach, reach)
    return np.asarray(cut - cut.mean(axis=1, keepdims=True), np.float32)


def edges(values: Grey) -> Grey:
    """Return the square root of the gradient magnitude, f32[h,w]: strong edges do not drown the weak ones."""
    slope_x, slope_y = (cv2.Sobel(values, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    return np.asarray(np.sqrt(cv2.magnitude(slope_x, slope_y)), np.float32)


def _vertex(values: NDArray[np.float64], index: int) -> float:
    """Return how far beside a greatest value the parabola through it and its neighbours has its vertex, -0.5 to 0.5.

    In quarters: the last bits of a Fourier transform depend on where its arrays lie in memory, and poses must not.
    """
    if not 0 < index < len(values) - 1:
        return 0.0
    before, here, after = (float(value) for value in values[index - 1 : index + 2])
    bend = before - 2 * here + after
    return round(4 * min(0.5, max(-0.5, (before - after) / (2 * bend)))) / 4 if bend < -1e-9 else 0.0


def _turns(angle: float, turn: float) -> list[float]:
    if turn >= 180:
        return [float(value) for value in np.arange(0, 360, TURN_STEP)]
    count = math.ceil(turn / TURN_STEP)
    return [angle + step * TURN_STEP for step in range(-count, count + 1)]


def _shrunk(values: Grey, shrink: float) -> Grey:
    high, wide = (max(2, round(side * shrink)) for side in values.shape)
    return np.asarray(cv2.resize(values, (wide, high), interpolation=cv2.INTER_AREA), np.float32)


def _scaled(matrices: Points, shrink: float) -> Points:
    """Return frame-to-image matrices for an image and a patch both ``shrink`` times as large."""
    scaled = matrices.copy()
    scaled[:, :, 2] = (matrices[:, :, 2] + 0.5) * shrink - 0.5
    return scaled


def _distinct(matrices: Points, least: float) -> list[int]:
    """Return indices of matrices that are no repetition of an earlier one."""
    chosen: list[int] = []
    for index, matrix in enumerate(matrices):
        if all(np.linalg.norm(matrix[:, 2] - matrices[other][:, 2]) > least
               or float(matrix[0, :2] @ matrices[other][0, :2]) < math.cos(math.radians(8)) for other in chosen):
            chosen.append(index)
    return chosen


def _undone(matrices: Points, step: NDArray[np.float64], radius: float) -> Points:
    """Return matrices after the inverse of small steps f64[n,2 to 4] of the patch: shift, turn and scale over ``radius``."""
    turn = step[:, 2] / radius if step.shape[1] >= RIGID else np.zeros(len(step))
    growth = 1 + (step[:, 3] / radius if step.shape[1] == SCALED else np.zeros(len(step)))
    cos, sin = np.cos(turn) / growth, np.sin(turn) / growth
    back = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], axis=1)
    linear = matrices[:, :, :2] @ back
    shift = matrices[:, :, 2] - (linear @ step[:, :2, None])[..., 0]
    return np.concatenate([linear, shift[..., None]], axis=2)


def _most_structured(slopes: Grey, inside: NDArray[np.bool_], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the steepest points, spread over the patch: the steepest of each of many cells."""
    steep = np.where(inside, slopes, -1.0)
    cell = max(1, math.floor(math.sqrt(inside.sum() / max(1, count)) + 1e-9))
    high, wide = (side // cell * cell for side in steep.shape)
    cells = steep[:high, :wide].reshape(high // cell, cell, wide // cell, cell).swapaxes(1, 2).reshape(-1, cell * cell)
    best, values = cells.argmax(axis=1), cells.max(axis=1)
    order = np.argsort(-values, kind="stable")[:count]
    order = order[values[order] > 0]
    across = wide // cell
    return order // across * cell + best[order] // cell, order % across * cell + best[order] % cell
