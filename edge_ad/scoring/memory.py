"""Remembered cells of normal images, and the distance of other cells to the nearest of them.

PatchCore (Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022): cells of normal images are
thinned out to a coreset, and a cell of a new image is as anomalous as it is far from the nearest remembered one. The
whitening of the cells before that, and banks for regions of the image, are ours.

Where parts lie aligned, a Gaussian can stand for what is remembered of a place: PaDiM (Defard et al., a Patch Distribution
Modeling Framework, arXiv 2011.08785) has a mean and a covariance for every cell. Here blocks of cells share the
covariance, which few images determine better and which takes less of a bundle (ours).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Size = tuple[int, int]

SHRINKAGE = 0.1  # of the covariance towards equal channels: what normal images never show must not weigh without bound
PROJECTED = 48  # dimensions that the choice of a coreset looks at, as published a random projection
BLOCK = 2  # cells of the side of a block that shares a covariance
BLOCK_SHRINKAGE = 0.2  # of that covariance towards the mean over all blocks
BLOCK_FLOOR = 0.05  # and what is added to every direction, in units of the mean variance
MAX_CANDIDATES = 20_000  # cells that a bank is chosen from; more of them are drawn from


@dataclass(frozen=True)
class Regions:
    """How a grid of ``grid`` (h, w) cells is divided: regions of ``size`` (h, w) cells that know their surroundings.

    A region remembers cells of normal images from itself and ``overlap`` cells around it.
    """

    grid: Size
    size: Size
    overlap: int = 0

    @classmethod
    def whole(cls, grid: Size) -> Regions:
        """Return the one region that is the grid."""
        return cls(grid, grid)

    @classmethod
    def local(cls, grid: Size, side: int, overlap: int) -> Regions:
        """Return regions of about ``side`` x ``side`` cells that divide the grid without a rest."""
        return cls(grid, (math.gcd(grid[0], side), math.gcd(grid[1], side)), overlap)

    @property
    def counts(self) -> Size:
        """How many regions there are down and across."""
        return self.grid[0] // self.size[0], self.grid[1] // self.size[1]

    @property
    def count(self) -> int:
        """How many regions there are."""
        return self.counts[0] * self.counts[1]

    def windows(self) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns of every region with its surroundings, row by row."""
        (height, width), (rows, columns) = self.size, self.counts
        for row in range(rows):
            for column in range(columns):
                top, left = row * height - self.overlap, column * width - self.overlap
                bottom, right = (row + 1) * height + self.overlap, (column + 1) * width + self.overlap
                yield slice(max(top, 0), bottom), slice(max(left, 0), right)


def whitening_of(cells: Array, width: int | None = None) -> tuple[Array, Array]:
    """Return ``centre`` f32 [C] and ``matrix`` f32 [D, C] of cells f32 [N, C]: (cell - centre) @ matrix.T is white.

    The covariance is shrunk towards equal channels by SHRINKAGE. ``width`` keeps the D directions that vary most.
    """
    centre = cells.mean(axis=0, dtype=np.float64)
    away = cells.astype(np.float64) - centre
    covariance = away.T @ away / len(away)
    equal = max(float(np.trace(covariance)) / len(covariance), 1e-12)
    values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * equal * np.eye(len(covariance)))
    chosen = np.argsort(values)[::-1][: width or len(values)]
    matrix = (vectors[:, chosen] / np.sqrt(values[chosen])).T
    return centre.astype(np.float32), matrix.astype(np.float32)


def coreset(cells: Array, count: int, seed: int, known: Array | None = None) -> NDArray[np.intp]:
    """Return the indices of at most ``count`` of the ``cells`` f32 [N, D], each the farthest from those before it, and
    from those that are ``known`` f32 [K, D].

    Distances are taken in a random projection.
    """
    rng = np.random.default_rng([seed, 17])
    both = cells if known is None or not len(known) else np.concatenate([cells, known])
    flat = _projected(both, rng)
    flat, before = flat[: len(cells)], flat[len(cells) :]
    chosen = np.zeros(min(count, len(flat)), np.intp)
    if not len(chosen):
        return chosen
    nearest = nearest_squared(flat, before) if len(before) else None
    chosen[0] = rng.integers(len(flat)) if nearest is None else np.argmax(nearest)
    first = _squared(flat, flat[chosen[0]])
    nearest = first if nearest is None else np.minimum(nearest, first)
    for number in range(1, len(chosen)):
        chosen[number] = np.argmax(nearest)
        np.minimum(nearest, _squared(flat, flat[chosen[number]]), out=nearest)
    return chosen


def nearest_squared(cells: Array, bank: Array) -> Array:
    """Return the squared distance f32 [N] of every cell f32 [N, D] to the nearest of ``bank`` f32 [M, D]."""
    product = (bank * bank).sum(axis=1) - 2.0 * (cells @ bank.T)
    squared: Array = np.maximum(product.min(axis=1) + (cells * cells).sum(axis=1), 0.0).astype(np.float32)
    return squared


def remember(white: Array, regions: Regions, count: int, seed: int) -> Array:
    """Return the banks f32 [R, M, D] of ``regions`` chosen from whitened cells f32 [N, h, w, D] of normal images.

    M is ``count``, or fewer where there are not so many cells.
    """
    banks = []
    for number, candidates in enumerate(candidates_of(white, regions, seed)):
        banks.append(candidates[coreset(candidates, count, seed + number)])
    return np.stack(banks)


def candidates_of(white: Array, regions: Regions, seed: int) -> Iterator[Array]:
    """Yield the cells f32 [K, D] that a bank may be made of, region by region; K is the same for all."""
    windows = list(regions.windows())
    fewest = min(white[0, rows, columns, 0].size for rows, columns in windows) * len(white)
    count = min(fewest, MAX_CANDIDATES)
    for number, (rows, columns) in enumerate(windows):
        cells = white[:, rows, columns].reshape(-1, white.shape[-1])
        drawn = np.random.default_rng([seed, 19, number]).permutation(len(cells))[:count]
        yield cells[np.sort(drawn)]


def distances(white: Array, banks: Array, regions: Regions) -> Array:
    """Return the distance f32 [N, h, w] of whitened cells f32 [N, h, w, D] to the nearest remembered one of their region."""
    (height, width), columns = regions.size, regions.counts[1]
    result = np.zeros(white.shape[:3], np.float32)
    for number, bank in enumerate(banks):
        row, column = divmod(number, columns)
        window = (slice(None), slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
        cells = white[window]
        result[window] = np.sqrt(nearest_squared(cells.reshape(-1, cells.shape[-1]), bank)).reshape(cells.shape[:3])
    return result


def fit_cells(white: Array, regions: Regions) -> tuple[Array, Array]:
    """Return a Gaussian of whitened cells f32 [N, h, w, D]: the ``mean`` [h, w, D] of every cell and the ``roots`` [R, D,
    D] of the regions' precision, so that the squared length of root @ (cell - mean) is the squared distance.
    """
    mean, covariance = _moments(white, regions)
    return mean.astype(np.float32), _roots_of(covariance)


def joined_cells(
    gaussian: tuple[Array, Array], white: Array, regions: Regions, share: float, *, forget: bool = False
) -> tuple[Array, Array]:
    """Return a Gaussian, as ``fit_cells`` gives it, of a mixture in which new whitened cells f32 [N, h, w, D] have a ``share``.

    Means and covariances are recovered from mean and roots and joined with those of the new cells (Chan, Golub and LeVeque,
    1983): with the share that their number is of all images, the result is that of all images at once. To ``forget`` takes
    the means of the new cells alone; covariances are mixed around the means of their own.
    """
    old_mean, old = gaussian[0].astype(np.float64), _covariance_of(gaussian[1])
    new_mean, new = _moments(white, regions)
    if forget:
        return new_mean.astype(np.float32), _roots_of((1 - share) * old + share * new)
    moved = _tiled((new_mean - old_mean)[None], regions)
    between = np.einsum("rnd,rne->rde", moved, moved, optimize=True) / moved.shape[1]
    covariance = (1 - share) * old + share * new + share * (1 - share) * between
    mean = (1 - share) * old_mean + share * new_mean
    return mean.astype(np.float32), _roots_of(covariance)


def _moments(white: Array, regions: Regions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean f64 [h, w, D] of every cell, and the covariance f64 [R, D, D] of every region around these."""
    mean = white.mean(axis=0)
    away = _tiled(white - mean, regions)
    covariance = np.einsum("rnd,rne->rde", away, away, optimize=True).astype(np.float64) / away.shape[1]
    return mean.astype(np.float64), covariance


def _roots_of(covariance: NDArray[np.float64]) -> Array:
    """Return the roots f32 [R, D, D] of the precisions of shrunk covariances."""
    shared, width = covariance.mean(axis=0), covariance.shape[-1]
    floor = BLOCK_FLOOR * max(float(np.trace(shared)) / width, 1e-12) * np.eye(width)
    precision = np.linalg.inv((1 - BLOCK_SHRINKAGE) * covariance + BLOCK_SHRINKAGE * shared + floor)
    return np.ascontiguousarray(np.linalg.cholesky(precision).transpose(0, 2, 1), np.float32)


def _covariance_of(roots: Array) -> NDArray[np.float64]:
    """Return the covariances f64 [R, D, D] that ``_roots_of`` made ``roots`` of: shrinkage and floor are undone.

    The mean of the shrunk covariances is the shared one and the floor, which is BLOCK_FLOOR of the mean of its diagonal.
    """
    inverse = np.linalg.inv(roots.astype(np.float64))
    shrunk = inverse @ inverse.transpose(0, 2, 1)
    width = roots.shape[-1]
    mean = shrunk.mean(axis=0)
    floor = BLOCK_FLOOR / (1 + BLOCK_FLOOR) * float(np.trace(mean)) / width * np.eye(width)
    covariance: NDArray[np.float64] = (shrunk - floor - BLOCK_SHRINKAGE * (mean - floor)) / (1 - BLOCK_SHRINKAGE)
    return covariance


def gaussian_distances(white: Array, gaussian: tuple[Array, Array], regions: Regions) -> Array:
    """Return the distance f32 [N, h, w] of whitened cells f32 [N, h, w, D] from the ``mean`` and ``roots`` of a Gaussian."""
    mean, roots = gaussian
    away = _tiled(white - mean, regions)
    lengths = np.sqrt(((away @ roots.transpose(0, 2, 1)) ** 2).sum(axis=2))
    (height, width), (rows, columns) = regions.size, regions.counts
    tiles = lengths.reshape(rows, columns, len(white), height, width).transpose(2, 0, 3, 1, 4)
    return np.asarray(tiles.reshape(len(white), *regions.grid), np.float32)


def _tiled(cells: NDArray[np.floating[Any]], regions: Regions) -> NDArray[Any]:
    """Return cells f32 [N, h, w, D] by region: [R, N * cells of a region, D]."""
    (height, width), (rows, columns) = regions.size, regions.counts
    tiles = cells.reshape(len(cells), rows, height, columns, width, -1).transpose(1, 3, 0, 2, 4, 5)
    return tiles.reshape(rows * columns, -1, cells.shape[-1])


def _projected(cells: Array, rng: np.random.Generator) -> Array:
    if cells.shape[1] <= PROJECTED:
        return np.ascontiguousarray(cells)
    matrix = rng.normal(0.0, 1.0 / math.sqrt(PROJECTED), (cells.shape[1], PROJECTED)).astype(np.float32)
    projected: Array = cells @ matrix
    return projected


def _squared(cells: Array, one: Array) -> Array:
    away = cells - one
    squared: Array = np.einsum("nd,nd->n", away, away)
    return squared


def constants_of(banks: Array) -> tuple[Array, Array]:
    """Return the constants of the graph that remembers ``banks`` f32 [R, M, D]: -2 m and their squared lengths [R, M, 1]."""
    return -2.0 * banks, (banks * banks).sum(axis=2, keepdims=True)


def banks_of(bank: Array) -> Array:
    """Return the remembered cells f32 [R, M, D] of the constant of a graph."""
    return bank / np.float32(-2.0)
