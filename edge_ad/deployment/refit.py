"""Refit what describes a lot to few normal images of a new one, blended with what was known (NumPy only).

A branch that judges by a Gaussian, or by remembered cells, is refitted from features that its networks give once: no network
runs again for another blend. How much the new images count is chosen by cross-fitting: each image, and the synthetic
anomalies drawn on it, are scored by a refit that has not seen it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_ad.scoring import Array, mahalanobis
from edge_ad.scoring.memory import Regions, coreset, distances, gaussian_distances, joined_cells
from edge_ad.scoring.pooling import highest_mean
from edge_ad.scoring.weights import Trial

SHARES = (0.5, 0.25, 0.75)  # of the new images in a blend; the first where nothing supports another
FOLDS = 5
MAX_CANDIDATES = 6000  # cells of new images that a memory chooses from
MIN_DEVIATION = 0.2  # of the mean deviation of cells: the least deviation of one, as the training has it

Gaussian = tuple[Array, Array]  # centre [D] and precision [D, D]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Described:
    """What the graphs give of N images: ``raw`` f32 [N, B], and by tensor the ``features`` f32 [N, ...] that do not depend on
    what is refitted.
    """

    raw: Array
    features: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.raw)


class Part(Protocol):
    """What of one branch is refitted. Its constants are named as the graphs, or the statistics, name them."""

    @property
    def branch(self) -> str:
        """The branch that it is part of."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Candidates of how much the new images count, the default first."""

    @property
    def known(self) -> dict[str, Array]:
        """The constants before any refit."""

    def refit(self, features: Mapping[str, Array], share: float) -> dict[str, Array]:
        """Return constants where the new images count ``share``."""

    def judge(self, features: Mapping[str, Array], constants: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """Return the branch's raw scores f32 [N] by the constants, and its maps f32 [N, cells] where it has maps."""


def blended(old: Gaussian, rows: Array, share: float, *, forget: bool = False) -> Gaussian:
    """Return the Gaussian of a mixture: ``old``, and new ``rows`` f32 [N, D] with a ``share`` of all.

    The covariance is that of both lots around their common centre, so that either passes. To ``forget`` takes the centre of
    the new rows alone; what they say of the covariance still leans on the old one, since few rows do not determine one.
    By Woodbury's identity: no covariance of [D, D] is inverted.
    """
    centre, precision = old[0].astype(np.float64), old[1].astype(np.float64)
    values = rows.astype(np.float64)
    mean = values.mean(axis=0)
    spread = (values - mean) * np.sqrt(share / max(1, len(values) - 1))
    if not forget:
        spread = np.concatenate([spread, [(mean - centre) * np.sqrt(share * (1 - share))]])
        mean = (1 - share) * centre + share * mean
    base = precision / (1 - share)
    turned = spread @ base
    inner = np.eye(len(spread)) + turned @ spread.T
    result = base - turned.T @ np.linalg.solve(inner, turned)
    return mean.astype(np.float32), ((result + result.T) / 2).astype(np.float32)


@dataclass(frozen=True, eq=False)
class GaussianPart:
    """A branch whose raw score is the distance of a ``feature`` from a Gaussian; ``names`` are those of its constants."""

    branch: str
    feature: str
    names: tuple[str, str]
    old: Gaussian
    forget: bool = False
    shares: tuple[float, ...] = SHARES

    @property
    def known(self) -> dict[str, Array]:
        """The old centre and precision."""
        return dict(zip(self.names, self.old, strict=True))

    def refit(self, features: Mapping[str, Array], share: float) -> dict[str, Array]:
        """Return the blended centre and precision."""
        gaussian = blended(self.old, features[self.feature], share, forget=self.forget)
        return dict(zip(self.names, gaussian, strict=True))

    def judge(self, features: Mapping[str, Array], constants: Mapping[str, Array]) -> tuple[Array, None]:
        """Return the distances; there is no map."""
        return mahalanobis(features[self.feature], constants[self.names[0]], constants[self.names[1]]), None


@dataclass(frozen=True, eq=False)
class BankPart:
    """Remembered cells: new ones take the places of a share of the old ones, so that there are as many as before."""

    old: Array  # [R, M, D]
    regions: Regions
    top: int
    forget: bool = False
    branch: str = "memory"
    factors: Array | None = None  # of zones, [h * w]

    @property
    def shares(self) -> tuple[float, ...]:
        """One that leaves nothing old, or all SHARES."""
        return (1.0,) if self.forget else SHARES

    @property
    def known(self) -> dict[str, Array]:
        """The old banks."""
        return {"banks": self.old}

    def refit(self, features: Mapping[str, Array], share: float) -> dict[str, Array]:
        """Return ``banks`` f32 [R, M, D]."""
        white, count = features["white"], self.old.shape[1]
        added = round(share * count)
        banks = []
        for number, (bank, (rows, columns)) in enumerate(zip(self.old, self.regions.windows(), strict=True)):
            cells = white[:, rows, columns].reshape(-1, white.shape[-1])
            drawn = np.random.default_rng([0, 19, number]).permutation(len(cells))[:MAX_CANDIDATES]
            # A bank is in the order of its choice: its first cells are the coreset of as many, of every lot that it knows.
            remaining = bank[: count - min(added, len(drawn))]
            banks.append(_in_turns(remaining, cells[drawn][coreset(cells[drawn], added, number, known=remaining)]))
        return {"banks": np.stack(banks)}

    def judge(self, features: Mapping[str, Array], constants: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return the mean of the highest distances, and all of them."""
        return _pooled(distances(features["white"], constants["banks"], self.regions), self.top, self.factors)


@dataclass(frozen=True, eq=False)
class CellsPart:
    """Gaussians of the cells of a grid: means ``[h, w, D]``, and roots of precisions by region ``[R, D, D]``."""

    old: tuple[Array, Array]
    regions: Regions
    top: int
    forget: bool = False
    branch: str = "memory"
    shares: tuple[float, ...] = SHARES
    factors: Array | None = None  # of zones, [h * w]

    @property
    def known(self) -> dict[str, Array]:
        """The old means and roots."""
        return {"mean": self.old[0], "roots": self.old[1]}

    def refit(self, features: Mapping[str, Array], share: float) -> dict[str, Array]:
        """Return ``mean`` and ``roots``."""
        mean, roots = joined_cells(self.old, features["white"], self.regions, share, forget=self.forget)
        return {"mean": mean, "roots": roots}

    def judge(self, features: Mapping[str, Array], constants: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return the mean of the highest distances, and all of them."""
        maps = gaussian_distances(features["white"], (constants["mean"], constants["roots"]), self.regions)
        return _pooled(maps, self.top, self.factors)


def _in_turns(first: Array, second: Array) -> Array:
    """Return the rows of both, evenly mixed: the next refit keeps the beginning of a bank, which must know both lots."""
    places = [(np.arange(len(rows)) + 0.5) / max(len(rows), 1) for rows in (first, second)]
    return np.concatenate([first, second])[np.argsort(np.concatenate(places), kind="stable")]


def _pooled(maps: Array, top: int, factors: Array | None) -> tuple[Array, Array]:
    flat = maps.reshape(len(maps), -1)
    flat = flat if factors is None else flat * factors
    return highest_mean(flat, top), flat


def refit_cells(old: tuple[Array, Array], maps: Array, share: float, *, forget: bool = False) -> tuple[Array, Array]:
    """Return mean and deviation f32 [n] of the cells of the logic map, of ``old`` and of new plain ``maps`` f32 [N, n]."""
    mean, std = maps.mean(axis=0), maps.std(axis=0, ddof=1)
    if not forget:
        away = mean - old[0]
        std = np.sqrt((1 - share) * old[1] ** 2 + share * std**2 + share * (1 - share) * away**2)
        mean = (1 - share) * old[0] + share * mean
    floor = np.maximum(MIN_DEVIATION * std.mean(), 1e-3)
    return mean.astype(np.float32), np.maximum(std, floor).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Refitted:
    """What a refit came to: ``constants`` and ``shares`` by branch, and, by refits that had not seen the images, the scores of
    the new normal images f32 [N, B], of anomalies f32 [M, B], and by branch the maps f32 [N, cells] of the normal ones.
    """

    constants: dict[str, dict[str, Array]]
    shares: dict[str, float]
    normal: Array
    anomalies: Array
    maps: dict[str, Array]


@dataclass(frozen=True, eq=False)
class Lot:
    """The ``normal`` images of a lot with their ``folds`` [N], and ``anomalies`` of ``kinds`` drawn on those of ``origins`` [M]."""

    normal: Described
    folds: Rows
    anomalies: Described
    kinds: tuple[str, ...]
    origins: Rows


def fold_of(groups: Sequence[Sequence[int]], seed: int, count: int = FOLDS) -> Rows:
    """Return the fold [N] of every image; those of a group stay together, and folds are of nearly one size."""
    order = np.random.default_rng([seed, 41]).permutation(len(groups))
    folds = np.zeros(sum(map(len, groups)), np.intp)
    sizes = np.zeros(min(count, len(groups)), np.intp)
    for index in sorted(order, key=lambda one: -len(groups[one])):
        smallest = int(np.argmin(sizes))
        folds[list(groups[index])] = smallest
        sizes[smallest] += len(groups[index])
    return folds


def reproduced(parts: Sequence[Part], images: Described, branches: Sequence[str]) -> list[Part]:
    """Return the parts that give, by the constants before any refit, the raw scores that the graphs gave."""
    result = []
    for part in parts:
        raw, expected = part.judge(images.features, part.known)[0], images.raw[:, branches.index(part.branch)]
        if np.allclose(raw, expected, rtol=1e-2, atol=1e-3):
            result.append(part)
    return result


def refit(parts: Sequence[Part], lot: Lot, branches: Sequence[str], seed: int) -> Refitted:
    """Refit every part to a lot; ``branches`` name the columns of raw scores.

    The share is the first of SHARES unless the branch tells anomalies better with another, by what the interval supports.
    """
    result = Refitted({}, {}, lot.normal.raw.copy(), lot.anomalies.raw.copy(), {})
    for part in parts:
        tried = [_cross_fitted(part, lot, share) for share in part.shares]
        best = _best([one.normal for one in tried], [one.anomalies for one in tried], lot.kinds, seed)
        column, share, chosen = branches.index(part.branch), part.shares[best], tried[best]
        result.normal[:, column], result.anomalies[:, column] = chosen.normal, chosen.anomalies
        result.shares[part.branch], result.constants[part.branch] = share, part.refit(lot.normal.features, share)
        if chosen.maps is not None:
            result.maps[part.branch] = chosen.maps
    return result


@dataclass(frozen=True, eq=False)
class _Scores:
    normal: Array
    anomalies: Array
    maps: Array | None


def _cross_fitted(part: Part, lot: Lot, share: float) -> _Scores:
    """Return the raw scores, each image by constants refitted without the fold of its normal image."""
    scores, other = np.zeros(len(lot.normal), np.float32), np.zeros(len(lot.anomalies), np.float32)
    maps: dict[int, Array] = {}
    for fold in np.unique(lot.folds):
        out, drawn = lot.folds == fold, lot.folds[lot.origins] == fold
        constants = part.refit(_rows(lot.normal.features, ~out), share)
        scores[out], seen = part.judge(_rows(lot.normal.features, out), constants)
        if drawn.any():
            other[drawn] = part.judge(_rows(lot.anomalies.features, drawn), constants)[0]
        if seen is not None:
            maps |= dict(zip(np.flatnonzero(out).tolist(), seen, strict=True))
    return _Scores(scores, other, np.stack([maps[row] for row in range(len(scores))]) if maps else None)


def _rows(features: Mapping[str, Array], rows: NDArray[np.bool_]) -> dict[str, Array]:
    return {name: values[rows] for name, values in features.items()}


def _best(normal: Sequence[Array], anomalies: Sequence[Array], kinds: Sequence[str], seed: int) -> int:
    """Return which candidate tells anomalies best, 0 where nothing supports another."""
    if len(normal) < 2 or not len(kinds):
        return 0
    trial = Trial(np.stack(normal, axis=1).astype(np.float64), np.stack(anomalies, axis=1).astype(np.float64), kinds, seed)
    return trial.choose(np.eye(len(normal)))
