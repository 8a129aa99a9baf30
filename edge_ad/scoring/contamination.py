"""Which of the normal images are unlike the others: anomalies that slipped into them.

A Gaussian stands for every place of the image and one for the image as a whole. No image is judged by a Gaussian that it
helped to fit (cross-fitting). The second fit leaves out the fifth that is most unlike the others, whatever it is (a step of
concentration, as for the minimum covariance determinant), and the third one what then stands out, so that a few anomalies
that resemble each other do not hide one another. Cells are judged by PaDiM (Defard et al., arXiv 2011.08785), as the memory does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_ad.scoring.memory import Array, Regions, fit_cells, gaussian_distances
from edge_ad.scoring.pooling import highest_mean

FOLDS = 5
MAX_LEFT_OUT = 0.2  # of the images: what the second fit leaves out, and the most that the third one does
CUT = 3.0  # deviations of the logarithm of a score above its median
SMALL_SAMPLE = 8.0  # a deviation known from n images is taken as 1 + SMALL_SAMPLE / n times as large
TOP_CELLS, TOP_RELATIVE = 10, 3  # highest cells that are averaged
REGION = 2  # cells of the side of a block that shares a covariance, as in the memory
SHRINKAGE = 0.3  # of the covariance of whole images, which are few, towards equal channels
TO_DEVIATION = 1 / 0.6745  # upper quartile of a Gaussian, in deviations

PLACE, RELATIVE, WHOLE = "place", "relative", "whole"
KINDS = (PLACE, RELATIVE, WHOLE)
"""What is unlike: a place, a place in units of how that place varies, or the image as a whole."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Contamination:
    """How unlike the others each of N images is.

    ``deviations`` f64 [N, 3] are those of KINDS, ``places`` [N, 2] the row and column of the most unlike cell of the
    ``grid``, ``cut`` what an image must exceed in one of them to be listed.
    """

    deviations: Floats
    places: NDArray[np.intp]
    grid: tuple[int, int]
    cut: float = CUT

    @property
    def scores(self) -> Floats:
        """The largest deviation [N] of each image."""
        highest: Floats = self.deviations.max(axis=1)
        return highest

    @property
    def order(self) -> NDArray[np.intp]:
        """The images, the most unlike first."""
        return np.argsort(-self.scores, kind="stable")

    @property
    def listed(self) -> list[int]:
        """The images above the cut, the most unlike first."""
        return [int(index) for index in self.order if self.scores[index] > self.cut]

    def kind(self, index: int) -> str:
        """Return which of KINDS deviates most."""
        return KINDS[int(self.deviations[index].argmax())]


def find_contamination(
    cells: Array, pooled: Array, seed: int = 0, groups: Sequence[Sequence[int]] | None = None
) -> Contamination:
    """Judge N images by whitened ``cells`` f32 [N, h, w, D] and by ``pooled`` features f32 [N, P]; N is 5 at least.

    Images of one of the ``groups`` of indices (near-duplicates) are in one fold, so that none judges another.
    """
    count, grid = len(cells), (cells.shape[1], cells.shape[2])
    regions, wholes = Regions.local(grid, REGION, 0), _standardised(pooled)
    folds = folds_of([[index] for index in range(count)] if groups is None else groups, seed)
    used = np.ones(count, bool)
    for limit in (-np.inf, CUT, None):
        maps = cross_fitted_cells(cells, used, folds, regions)
        relative = maps / np.maximum(np.median(maps[used], axis=0), 1e-6)
        deviations = np.stack(
            [
                robust_deviations(highest_mean(maps.reshape(count, -1), min(TOP_CELLS, maps[0].size))),
                robust_deviations(highest_mean(relative.reshape(count, -1).astype(np.float32), min(TOP_RELATIVE, maps[0].size))),
                robust_deviations(cross_fitted_wholes(wholes, used, folds)),
            ],
            axis=1,
        )
        if limit is not None:
            used = used_for_fit(deviations.max(axis=1), limit)
    places = np.stack(np.unravel_index(relative.reshape(count, -1).argmax(axis=1), grid), axis=1)
    return Contamination(deviations, places, grid)


def folds_of(groups: Sequence[Sequence[int]], seed: int) -> NDArray[np.intp]:
    """Return the fold [N] of every image by a seeded draw; those of one of the ``groups`` of indices share it."""
    drawn = np.random.default_rng([seed, 23]).permutation(len(groups)) % FOLDS
    folds = np.empty(sum(map(len, groups)), np.intp)
    for group, fold in zip(groups, drawn, strict=True):
        folds[list(group)] = fold
    return folds


def robust_deviations(scores: Array | Floats) -> Floats:
    """Return how many deviations the logarithm of each score [N] is above the median, by the median and the upper quartile.

    Neither moves much while fewer than a quarter of the scores are too high. Few images know their own spread badly, so it
    is taken as larger, see SMALL_SAMPLE.
    """
    logs = np.log(np.maximum(np.asarray(scores, np.float64), 1e-12))
    median, quartile = np.quantile(logs, [0.5, 0.75])
    spread = max(float(quartile - median) * TO_DEVIATION * (1 + SMALL_SAMPLE / len(logs)), 1e-9)
    away: Floats = (logs - median) / spread
    return away


def used_for_fit(scores: Floats, limit: float) -> Flags:
    """Return which images [N] the next fit may use: those up to ``limit``, and at most MAX_LEFT_OUT of all are left out."""
    most = int(MAX_LEFT_OUT * len(scores))
    used: Flags = scores <= max(limit, float(np.sort(scores)[::-1][most]))
    return used


def cross_fitted_cells(cells: Array, used: Flags, folds: NDArray[np.intp], regions: Regions) -> Array:
    """Return the distance f32 [N, h, w] of every cell from the Gaussian of its place in the kept images of other folds."""
    result = np.zeros(cells.shape[:3], np.float32)
    for fold in np.unique(folds):
        judged = folds == fold
        gaussian = fit_cells(cells[used & ~judged], regions)
        result[judged] = gaussian_distances(cells[judged], gaussian, regions)
    return result


def cross_fitted_wholes(pooled: Floats, used: Flags, folds: NDArray[np.intp]) -> Floats:
    """Return the Mahalanobis distance [N] of each image from the kept ones of other folds, by ``pooled`` f64 [N, P]."""
    result = np.zeros(len(pooled))
    for fold in np.unique(folds):
        judged = folds == fold
        result[judged] = shrunk_distances(pooled[judged], pooled[used & ~judged])
    return result


def shrunk_distances(judged: Floats, fitted: Floats) -> Floats:
    """Return the Mahalanobis distance [M] of rows [M, P] from a Gaussian of ``fitted`` [N, P] with a shrunk covariance.

    There are far fewer rows than columns: by the Woodbury identity no matrix larger than N x N is decomposed.
    """
    away, offsets = fitted - fitted.mean(axis=0), judged - fitted.mean(axis=0)
    count, width = away.shape
    floor = max(SHRINKAGE * float((away * away).sum()) / count / width, 1e-12)
    scaled = away * np.sqrt((1 - SHRINKAGE) / count)
    values, vectors = np.linalg.eigh(scaled @ scaled.T)
    seen = (offsets @ scaled.T @ vectors) ** 2
    squared = (offsets * offsets).sum(axis=1) / floor - (seen / (floor * (floor + np.maximum(values, 0.0)))).sum(axis=1)
    distances: Floats = np.sqrt(np.maximum(squared, 0.0))
    return distances


def _standardised(pooled: Array) -> Floats:
    wide = pooled.astype(np.float64)
    spread = wide.std(axis=0)
    standardised: Floats = (wide - np.median(wide, axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return standardised
