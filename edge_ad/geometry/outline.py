"""The outline of a part as a signed distance field, and its robust registration with the contour seen in an image.

Every point of the contour should lie on the outline: the field's value there is the error, its gradient the direction.
Gauss-Newton with Tukey's biweight (Beaton & Tukey 1974) minimises it from many starts at once, coarse to fine, so that
missing or added material, which has no counterpart, loses its weight (registration by distance fields: Fitzgibbon 2003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.geometry.pose import Points

MARGIN = 0.3
BINS = 96
STARTS = 72
# Registrations this much worse than the best are no rivals of it.
RIVAL = 0.3
_REACH = 0.15
_STEPS = 9
_FINE = (6.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.5, 1.5)
_DAMPING = 1e-4
# Shifts of the start as shares of the diagonal: eight directions at three distances.
_DIRECTIONS = np.arange(8) * math.pi / 4
_AROUND = np.array([(0.0, 0.0), *((r * math.cos(a), r * math.sin(a)) for r in (0.07, 0.14, 0.21) for a in _DIRECTIONS)])


@dataclass(frozen=True, eq=False)
class Match:
    """A registration: f64[2,3] from the image to the part's frame, and the share of contour and outline that disagrees."""

    matrix: Points
    residual: float
    inliers: float
    coverage: float

    @property
    def angle(self) -> float:
        """Return the part's angle in the image in degrees."""
        return math.degrees(math.atan2(-self.matrix[1, 0], self.matrix[0, 0]))

    @property
    def scale(self) -> float:
        """Return the part's size in the image relative to the template."""
        return 1 / math.hypot(self.matrix[0, 0], self.matrix[1, 0])

    def centre(self) -> Points:
        """Return where the frame's origin lies in the image, f64[2]."""
        return np.asarray(-np.linalg.solve(self.matrix[:, :2], self.matrix[:, 2]))


class Outline:
    """An outline around the frame's origin.

    ``field`` f32[h,w] holds signed distances in pixels (positive outside); its pixel ``origin`` (x, y) is the frame's origin.
    """

    def __init__(self, field: NDArray[np.float32], origin: tuple[float, float]) -> None:
        self.field, self.origin = field, origin
        self.mask = np.asarray(field < 0, np.uint8) * np.uint8(255)
        self.points = contour_of(self.mask) - origin
        self.diagonal = float(np.linalg.norm(np.ptp(self.points, axis=0)))
        self.centroid = centroid(self.points)
        self.area = float(cv2.contourArea(self.points.astype(np.float32)))
        gradient_x, gradient_y = (cv2.Scharr(field, cv2.CV_32F, *order, scale=1 / 32) for order in ((1, 0), (0, 1)))
        self._lookup = np.dstack([field, gradient_x, gradient_y]).astype(np.float32)
        self._bins = _nearest_bins(field.shape, self.points + origin)

    @property
    def tolerance(self) -> float:
        """Return the distance in pixels within which a point is on the outline."""
        return max(1.3, 0.012 * self.diagonal)

    def register(self, contour: Points, *, scale: bool = False, mirrored: bool = False, wide: bool = False) -> list[Match]:
        """Return the best registrations of a contour f64[N,2] of the image, best first, each at another angle.

        ``scale`` fits the size too; ``mirrored`` lays the outline's mirror image on it; ``wide`` starts from shifted
        centres as well, for a contour whose centre a large piece of added or missing material has moved.
        """
        flip = np.array([-1.0, 1.0]) if mirrored else np.ones(2)
        contour = contour * flip
        starts = self._starts(contour, wide)
        scales = np.maximum(_REACH * self.diagonal * 0.65 ** np.arange(_STEPS), 2 * self.tolerance)
        coarse = self.descend(_thinned(contour, 96), starts, scales, scale)
        ranked = sorted((self.judge(contour, matrix) for matrix in coarse), key=lambda match: match.residual)
        best: list[Match] = []
        for match in ranked:
            near = any(abs((match.angle - other.angle + 180) % 360 - 180) < 8 for other in best)
            if not near and match.residual < ranked[0].residual + RIVAL:
                best.append(match)
        finest = self.tolerance * np.array(_FINE if ranked[0].residual > 0.05 else _FINE[-3:])
        fine = self.descend(_thinned(contour, 384), np.stack([match.matrix for match in best[:3]]), finest, scale)
        matches = [self.judge(contour, matrix) for matrix in fine]
        if mirrored:
            matches = [Match(match.matrix * np.array([-1.0, 1.0, 1.0]), match.residual, match.inliers, match.coverage)
                       for match in matches]
        return sorted(matches, key=lambda match: match.residual)

    def _starts(self, contour: Points, wide: bool) -> Points:
        """Return the f64[n,2,3] whose angle fits best with centroid on centroid (or near it), local optima only."""
        radians = np.arange(STARTS) * (2 * math.pi / STARTS)
        cos, sin = np.cos(radians), np.sin(radians)
        turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], axis=1)
        by_area = self.centroid - turn @ centroid(contour)
        # Material on the outline moves the mean of the contour less than that of the area, and a hole in it more.
        by_length = self.points.mean(axis=0) - turn @ contour.mean(axis=0)
        shifts = by_length[None] + _AROUND[:, None] * self.diagonal if wide else np.stack([by_area, by_length])
        turns = np.broadcast_to(turn, (len(shifts), *turn.shape))
        matrices = np.concatenate([turns, shifts[..., None]], axis=3).reshape(-1, 2, 3)
        errors = np.abs(self._at(_lifted(_thinned(contour, 32 if wide else 64)), matrices)[2][..., 0])
        cost = np.minimum(errors, _REACH / 2 * self.diagonal if wide else _REACH * self.diagonal).mean(axis=1)
        costs = cost.reshape(len(shifts), STARTS)
        best = costs.argmin(axis=0)
        lowest = costs.min(axis=0)
        valley = np.flatnonzero((lowest <= np.roll(lowest, 1)) & (lowest <= np.roll(lowest, -1)))
        order = valley[np.argsort(lowest[valley], kind="stable")][: 10 if wide else 6]
        return np.asarray(matrices[best[order] * STARTS + order])

    def visible(self, matrix: Points, size: tuple[int, int]) -> float:
        """Return the share of the outline that lies within an image of ``size`` (height, width) for a registration."""
        placed = np.linalg.solve(matrix[:, :2], (self.points - matrix[:, 2]).T).T
        return float(((placed > -1) & (placed < (size[1], size[0]))).all(axis=1).mean())

    def descend(self, points: Points, matrices: Points, scales: NDArray[np.float64], scale: bool) -> Points:
        """Return f64[n,2,3] after a Gauss-Newton step for each of the kernel's ``scales``."""
        size = 4 if scale else 3
        radius = self.diagonal / 2
        lifted = _lifted(points)
        for reach in scales:
            x, y, seen = self._at(lifted, matrices)
            error, gradient_x, gradient_y = seen[..., 0], seen[..., 1], seen[..., 2]
            x, y = (x - self.origin[0]) / radius, (y - self.origin[1]) / radius
            rows = [gradient_x, gradient_y, gradient_y * x - gradient_x * y]
            slopes = np.stack([*rows, gradient_x * x + gradient_y * y] if scale else rows, axis=1)
            weights = np.square(np.maximum(0.0, 1 - np.square(error / np.float32(reach))))
            weighted = slopes * weights[:, None]
            normal = (weighted @ np.swapaxes(slopes, 1, 2)).astype(np.float64) + _DAMPING * len(points) * np.eye(size)
            right = weighted @ error[..., None]
            matrices = _stepped(matrices, -np.linalg.solve(normal, right)[..., 0], radius)
        return matrices

    def judge(self, contour: Points, matrix: Points) -> Match:
        """Return what a registration explains: points of the contour on the outline, pieces of the outline that are seen."""
        x, y, seen = self._at(_lifted(_thinned(contour, 384)), matrix[None])
        near = np.abs(seen[0, :, 0]) <= self.tolerance
        columns = np.clip(x[0, near] + 0.5, 0, self.field.shape[1] - 1).astype(np.intp)
        rows = np.clip(y[0, near] + 0.5, 0, self.field.shape[0] - 1).astype(np.intp)
        pieces = np.count_nonzero(np.bincount(self._bins[rows, columns], minlength=BINS))
        bins = min(BINS, len(self.points))
        inliers, coverage = float(near.mean()), pieces / bins
        return Match(matrix, 1 - (inliers + coverage) / 2, inliers, coverage)

    def _at(self, lifted: NDArray[np.float32], matrices: Points) -> tuple[NDArray[np.float32], ...]:
        """Return x and y f32[n,N] in the field of points f32[3,N] under f64[n,2,3]; distance and gradient f32[n,N,3] there."""
        placed = matrices.copy()
        placed[:, :, 2] += self.origin
        both = np.swapaxes(placed, 0, 1).reshape(-1, 3).astype(np.float32) @ lifted
        x, y = both[: len(matrices)], both[len(matrices) :]
        return x, y, np.asarray(cv2.remap(self._lookup, x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE), np.float32)


def outline_of(mask: NDArray[np.uint8], origin: tuple[float, float]) -> Outline:
    """Return the outline of a mask u8[h,w]."""
    return Outline(signed_distance(mask), origin)


def signed_distance(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the distance of each pixel to the edge of a mask, f32[h,w], negative inside; the edge runs between pixels."""
    inside = cv2.distanceTransform(np.asarray(mask > 0, np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform(np.asarray(mask == 0, np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(mask > 0, 0.5 - inside, outside - 0.5), np.float32)


def contour_of(mask: NDArray[np.uint8]) -> Points:
    """Return the outer contour of a mask's largest piece, f64[N,2]; none for an empty mask."""
    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    if not contours:
        return np.empty((0, 2))
    return np.asarray(max(contours, key=cv2.contourArea)[:, 0], np.float64)


def on_edge(contour: Points, values: NDArray[np.uint8], threshold: float) -> Points:
    """Return a contour of whole pixels moved, by at most a pixel, to where ``values`` u8[h,w] cross the threshold."""
    height, width = values.shape
    x = np.clip(contour[:, 0].astype(np.intp), 1, width - 2)
    y = np.clip(contour[:, 1].astype(np.intp), 1, height - 2)
    slope_x = (values[y, x + 1].astype(np.float64) - values[y, x - 1]) / 2
    slope_y = (values[y + 1, x].astype(np.float64) - values[y - 1, x]) / 2
    steep = np.hypot(slope_x, slope_y) + 1e-6
    step = np.clip((threshold - values[y, x]) / steep, -1.0, 1.0) / steep
    return np.asarray(contour + np.stack([slope_x * step, slope_y * step], axis=1))


def centroid(contour: Points) -> Points:
    """Return the centre of the area within a contour, f64[2]; the mean of its points where it has no area."""
    moments = cv2.moments(contour.astype(np.float32).reshape(-1, 1, 2))
    if moments["m00"] < 1e-6:
        return np.asarray(contour.mean(axis=0))
    return np.array([moments["m10"], moments["m01"]]) / moments["m00"]


def _thinned(points: Points, count: int) -> Points:
    """Return at most ``count`` points, evenly along the contour."""
    if len(points) <= count:
        return points
    return points[np.arange(count) * len(points) // count]


def _lifted(points: Points) -> NDArray[np.float32]:
    """Return points f64[N,2] as homogeneous columns f32[3,N]."""
    return np.asarray(np.vstack([points.T, np.ones(len(points))]), np.float32)


def _stepped(matrices: Points, step: NDArray[np.float64], radius: float) -> Points:
    """Return matrices followed by small steps f64[n,3 or 4]: shift, turn and scale over ``radius``."""
    turn = step[:, 2] / radius
    growth = 1 + (step[:, 3] / radius if step.shape[1] == 4 else np.zeros(len(step)))
    cos, sin = growth * np.cos(turn), growth * np.sin(turn)
    change = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1)
    moved = change @ matrices
    moved[:, :, 2] += step[:, :2]
    return np.asarray(moved)


def _nearest_bins(shape: tuple[int, ...], points: Points) -> NDArray[np.uint8]:
    """Return for each pixel u8[h,w] which of BINS pieces of the outline is nearest."""
    away = np.full(shape, 255, np.uint8)
    columns, rows = np.rint(points).astype(np.intp).T
    away[rows, columns] = 0
    _, labels = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    piece = np.zeros(int(labels.max()) + 1, np.uint8)
    bins = min(BINS, len(points))
    piece[labels[rows, columns]] = np.arange(len(points)) * bins // len(points)
    return np.asarray(piece[labels])
