"""The numbers that turn raw branch scores into one score; they are inputs of the fusion graph.

Statistics of normal images and the fusion they feed; the same arithmetic as the fusion graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.errors import BadInput

Array = NDArray[np.float32]

# New ones are added at the end: an older bundle holds the first of them, and the first of the maps.
BRANCHES = ("structure", "logic", "local", "global", "composition", "memory")
MAPS = ("structure", "local", "global", "memory")  # the rows of Statistics.quantiles
MIN_BRANCHES = 5  # of the first bundles

WEIGHT_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Statistics:
    """Score statistics of normal images, all float32.

    ``quantiles`` [M, 2]: lower and upper quantile of the ``maps``, lower < upper; ``centre`` [D] and ``precision``
    [D, D]: the Gaussian of pooled features; ``mean``, ``std`` and ``weight`` [B] in the order of ``branches``, which
    are the first B of ``BRANCHES``, std > 0, weights >= 0 that sum to 1. Anything else raises BadInput.
    """

    quantiles: Array
    centre: Array
    precision: Array
    mean: Array
    std: Array
    weight: Array

    def __post_init__(self) -> None:
        width = self.centre.shape[0] if self.centre.ndim == 1 and self.centre.size else 0
        count = min(max(self.weight.size, MIN_BRANCHES), len(BRANCHES))
        shapes: dict[str, tuple[int, ...]] = {
            "quantiles": (len(maps_of(BRANCHES[:count])), 2),
            "centre": (width or 1,),
            "precision": (width, width),
            "mean": (count,),
            "std": (count,),
            "weight": (count,),
        }
        for name, shape in shapes.items():
            _check_array(name, getattr(self, name), shape)
        _check_values(self)

    def arrays(self) -> dict[str, Array]:
        """Return the six arrays by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Statistics:
        """Build from exactly the six named arrays; a missing or unknown name raises BadInput."""
        names = [field.name for field in fields(cls)]
        if sorted(arrays) != sorted(names):
            raise BadInput(
                f"statistics hold {', '.join(sorted(arrays)) or 'nothing'}, but need exactly {', '.join(names)}"
            )
        return cls(**arrays)

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that these statistics are of, the first of ``BRANCHES``."""
        return BRANCHES[: len(self.weight)]

    @property
    def maps(self) -> tuple[str, ...]:
        """The branches whose maps have quantiles, the first of ``MAPS``."""
        return maps_of(self.branches)

    @property
    def active(self) -> tuple[str, ...]:
        """The branches with a weight above zero, in the order of ``branches``."""
        return tuple(branch for branch, weight in zip(self.branches, self.weight, strict=True) if weight > 0)


def maps_of(branches: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``MAPS`` that are among the ``branches``."""
    return tuple(branch for branch in MAPS if branch in branches)


def _check_array(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32:
        raise BadInput(f"statistics {name!r} is {array.dtype}, but must be float32")
    if array.shape != shape:
        raise BadInput(f"statistics {name!r} has shape {list(array.shape)}, but must have {list(shape)}")
    if not np.isfinite(array).all():
        raise BadInput(f"statistics {name!r} holds a value that is not finite; compute the statistics of normal images again")


def _check_values(statistics: Statistics) -> None:
    if (statistics.std <= 0).any():
        raise BadInput(f"statistics 'std' must be above 0, but is {statistics.std.tolist()}")
    if (statistics.weight < 0).any() or abs(float(statistics.weight.sum()) - 1.0) > WEIGHT_SUM_TOLERANCE:
        raise BadInput(f"statistics 'weight' must be 0 or more and sum to 1, but is {statistics.weight.tolist()}")
    if (statistics.quantiles[:, 1] <= statistics.quantiles[:, 0]).any():
        raise BadInput(
            f"statistics 'quantiles' must rise from left to right in every row, but are {statistics.quantiles.tolist()}"
        )


LOWER_QUANTILE, UPPER_QUANTILE = 0.9, 0.995
STD_FLOOR = 1e-6  # absolute: a branch that is not run gives zeros
RELATIVE_STD_FLOOR = 1e-3  # of |mean|: a branch that hardly varies must not turn rounding noise into large z


def normalise_statistics(raw: ArrayLike) -> tuple[Array, Array]:
    """Return ``mean`` and ``std`` [B] (float32) of the ``raw`` scores [N, B] of normal images, N >= 2, with a floor on
    std.

    A branch with a score that is not finite gets mean 0 and std 1: its weight is 0 then (``choose_weights``).
    """
    values = _scores(raw)
    if len(values) < 2:
        raise BadInput(f"normalising scores needs at least 2 normal images, but got {len(values)}")
    usable = np.isfinite(values).all(axis=0)
    values = np.where(usable, values, 0.0)
    mean = values.mean(axis=0)
    std = np.maximum(values.std(axis=0, ddof=1), np.maximum(STD_FLOOR, RELATIVE_STD_FLOOR * np.abs(mean)))
    return mean.astype(np.float32), np.where(usable, std, 1.0).astype(np.float32)


def cross_normalised(raw: ArrayLike, groups: Sequence[Sequence[int]] | None = None) -> Array:
    """Return z (float32, the shape of ``raw``) of normal images, N >= 3, each by the mean and deviation of the others.

    ``raw`` is [N, B], or [N, D, B] for D versions of every image, which are left out together. So are the images of one
    of the ``groups`` of indices (near-duplicates), where two images remain without each group. Every image is thus
    scored by statistics that it took no part in, as a new image is; its z is spread a little wider, because fewer images
    stand behind it.
    """
    given = np.asarray(raw, dtype=np.float64)
    values = _scores(given.reshape(-1, given.shape[-1])).reshape(len(given), -1, given.shape[-1])
    count = len(values)
    if count < 3:
        raise BadInput(f"normalising each score by the others needs at least 3 normal images, but got {count}")
    if groups is None or count - max(map(len, groups)) < 2:
        groups = [[index] for index in range(count)]
    z = np.empty(values.shape, np.float32)
    for group in map(list, groups):
        mean, std = normalise_statistics(np.delete(values, group, axis=0).reshape(-1, values.shape[-1]))
        z[group] = (values[group] - mean) / std
    return z.reshape(given.shape)


def weighted(z: ArrayLike, weight: Array) -> Array:
    """Return the score (float32) of ``z`` [..., B]: the sum of weight * z. A branch with weight 0 takes no part, whatever its z."""
    used = weight > 0
    score: Array = (np.asarray(z)[..., used].astype(np.float64) @ weight[used].astype(np.float64)).astype(np.float32)
    return score


def fuse(raw: ArrayLike, statistics: Statistics) -> tuple[Array, Array]:
    """Return z = (raw - mean) / std [N, B] and score = sum of weight * z [N], both float32, of ``raw`` [N, B].

    A branch with weight 0 takes no part in the score, whatever its value.
    """
    values = _scores(raw, len(statistics.weight))
    z = ((values - statistics.mean) / statistics.std).astype(np.float32)
    return z, weighted(z, statistics.weight)


def map_quantiles(maps: NDArray[np.floating] | Iterable[NDArray[np.floating]]) -> tuple[float, float]:
    """Return the 0.9 and 0.995 quantile over all cells of the maps of normal images, exact, upper strictly above lower.

    ``maps`` is one array of any shape or any number of them, one after the other. BadInput when there are no values or
    one is not finite.
    """
    parts = [maps] if isinstance(maps, np.ndarray) else list(maps)
    values = np.concatenate([np.asarray(part, dtype=np.float32).ravel() for part in parts] or [np.zeros(0, np.float32)])
    if not values.size or not np.isfinite(values).all():
        raise BadInput("the quantiles of a map need finite values of at least one good; look at the branch's map")
    quantiles = np.quantile(values.astype(np.float64), [LOWER_QUANTILE, UPPER_QUANTILE])
    lower, upper = float(quantiles[0]), float(quantiles[1])
    return lower, max(upper, lower + max(STD_FLOOR, RELATIVE_STD_FLOOR * abs(lower)))


def fit_gaussian(pooled: ArrayLike) -> tuple[Array, Array]:
    """Return the ``centre`` [D] and ``precision`` [D, D] (float32) of ``pooled`` features [N, D] of normal images, N >=
    2.

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf, 2004) and inverted in float64, so it
    is usable with fewer normal images than features. Features that do not vary at all give the identity.
    """
    values = np.asarray(pooled, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or not values.shape[1] or not np.isfinite(values).all():
        raise BadInput(f"pooled features must be finite numbers [N >= 2, D >= 1], but are {list(values.shape)}")
    centre = values.mean(axis=0)
    covariance, shrinkage = ledoit_wolf(values - centre)
    variance = float(np.trace(covariance)) / len(covariance)
    if variance <= np.finfo(np.float64).tiny:
        return centre.astype(np.float32), np.eye(len(covariance), dtype=np.float32)
    # With no shrinkage the covariance may be singular; a tiny ridge keeps the inverse finite.
    ridge = 0.0 if shrinkage > 1e-6 else 1e-7 * variance
    precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
    return centre.astype(np.float32), ((precision + precision.T) / 2).astype(np.float32)


def ledoit_wolf(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the shrunk covariance [D, D] of ``centred`` samples [N, D] and the shrinkage in 0 to 1."""
    count, width = centred.shape
    sample = centred.T @ centred / count
    target = np.trace(sample) / width
    distance = np.sum((sample - target * np.eye(width)) ** 2)
    # Sum over samples of ||x x^T - S||^2 equals sum of ||x||^4 minus N ||S||^2: no [N, D, D] array is needed.
    spread = (np.sum(np.sum(centred**2, axis=1) ** 2) / count - np.sum(sample**2)) / count
    shrinkage = float(min(max(spread, 0.0), distance) / distance) if distance > 0 else 0.0
    return (1 - shrinkage) * sample + shrinkage * target * np.eye(width), shrinkage


def mahalanobis(pooled: ArrayLike, centre: Array, precision: Array) -> Array:
    """Return the distance [N] (float32) of ``pooled`` [N, D] from the normal images: the raw score of branch
    composition.
    """
    offset = np.atleast_2d(np.asarray(pooled, dtype=np.float64)) - centre
    squared = np.einsum("nd,de,ne->n", offset, precision.astype(np.float64), offset, optimize=True)
    distance: Array = np.sqrt(np.maximum(squared, 0.0)).astype(np.float32)
    return distance


def _scores(raw: ArrayLike, count: int | None = None) -> NDArray[np.float64]:
    """Return raw scores as f64 [N, ``count``]; None allows as many branches as any bundle has."""
    values = np.asarray(raw, dtype=np.float64)
    allowed = range(MIN_BRANCHES, len(BRANCHES) + 1) if count is None else (count,)
    if values.ndim != 2 or values.shape[1] not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise BadInput(f"raw scores must have shape [N, {wanted}], but have {list(values.shape)}")
    return values
