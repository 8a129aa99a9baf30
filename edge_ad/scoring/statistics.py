"""The numbers that turn raw branch scores into one score; they are inputs of the fusion graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput

Array = NDArray[np.float32]

BRANCHES = ("structure", "logic", "local", "global", "composition")
MAPS = ("structure", "local", "global")  # the rows of Statistics.quantiles

WEIGHT_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Statistics:
    """Score statistics of goods, all float32.

    ``quantiles`` [3, 2]: lower and upper quantile of the maps ``structure``, ``local``, ``global``, lower < upper;
    ``centre`` [D] and ``precision`` [D, D]: the Gaussian of pooled features; ``mean``, ``std`` and ``weight`` [5] in
    the order of ``BRANCHES``, std > 0, weights >= 0 that sum to 1. Anything else raises BadInput.
    """

    quantiles: Array
    centre: Array
    precision: Array
    mean: Array
    std: Array
    weight: Array

    def __post_init__(self) -> None:
        width = self.centre.shape[0] if self.centre.ndim == 1 and self.centre.size else 0
        shapes: dict[str, tuple[int, ...]] = {
            "quantiles": (len(MAPS), 2),
            "centre": (width or 1,),
            "precision": (width, width),
            "mean": (len(BRANCHES),),
            "std": (len(BRANCHES),),
            "weight": (len(BRANCHES),),
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
    def active(self) -> tuple[str, ...]:
        """The branches with a weight above zero, in the order of ``BRANCHES``."""
        return tuple(branch for branch, weight in zip(BRANCHES, self.weight, strict=True) if weight > 0)


def _check_array(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32:
        raise BadInput(f"statistics {name!r} is {array.dtype}, but must be float32")
    if array.shape != shape:
        raise BadInput(f"statistics {name!r} has shape {list(array.shape)}, but must have {list(shape)}")
    if not np.isfinite(array).all():
        raise BadInput(f"statistics {name!r} holds a value that is not finite; compute the statistics of goods again")


def _check_values(statistics: Statistics) -> None:
    if (statistics.std <= 0).any():
        raise BadInput(f"statistics 'std' must be above 0, but is {statistics.std.tolist()}")
    if (statistics.weight < 0).any() or abs(float(statistics.weight.sum()) - 1.0) > WEIGHT_SUM_TOLERANCE:
        raise BadInput(f"statistics 'weight' must be 0 or more and sum to 1, but is {statistics.weight.tolist()}")
    if (statistics.quantiles[:, 1] <= statistics.quantiles[:, 0]).any():
        raise BadInput(
            f"statistics 'quantiles' must rise from left to right in every row, but are {statistics.quantiles.tolist()}"
        )
