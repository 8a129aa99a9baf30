"""How many of a map's highest cells make its score, chosen from unseen normal images and anomalies.

A small defect fills few cells and a large or faint one many, so the mean of the highest k sees them differently well for
different k. The rule is that of the weights: a preset's own k is left only for one whose macro AUROC is better by at
least 0.01 and by what the bootstrap interval supports, at the level that the number of candidates asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.scoring.statistics import Array
from edge_ad.scoring.weights import Trial

TOPS = (1, 3, 10, 30, 100)
MAX_SHARE = 0.25  # of a map's cells: the mean of more of them says little of a defect


@dataclass(frozen=True)
class TopChoice:
    """The number of highest cells to average, that of the preset, and the macro AUROC of each candidate."""

    top: int
    default: int
    aurocs: dict[int, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the report."""
        aurocs = {str(top): round(value, 4) for top, value in self.aurocs.items()}
        return {"top": self.top, "default": self.default, "auroc": aurocs}


def highest_mean(maps: Array, top: int) -> Array:
    """Return the mean [N] of the ``top`` highest cells of each of the ``maps`` f32 [N, cells], as the fusion graph does."""
    cells = maps.shape[1]
    highest = np.partition(maps, cells - top, axis=1)[:, cells - top :]
    mean: Array = highest.mean(axis=1, dtype=np.float32)
    return mean


def choose_top(normal: Array, anomalies: Array, kinds: Sequence[str], default: int, *, seed: int = 0) -> TopChoice:
    """Choose for maps f32 [N, cells] of unseen normal images and [M, cells] of anomalies of ``kinds`` [M].

    ``default`` stays without anomalies, where maps are constant or not finite, and where nothing supports another.
    """
    tops = sorted({default, *(top for top in TOPS if top <= MAX_SHARE * normal.shape[1])})
    if not len(anomalies) or not np.isfinite(normal).all() or not np.isfinite(anomalies).all():
        return TopChoice(default, default, {})
    trial = Trial(_pooled(normal, tops), _pooled(anomalies, tops), kinds, seed)
    alone = np.eye(len(tops))
    aurocs = {top: trial.macro(weight) for top, weight in zip(tops, alone, strict=True)}
    return TopChoice(tops[trial.choose(alone, tops.index(default))], default, aurocs)


def _pooled(maps: Array, tops: Sequence[int]) -> NDArray[np.float64]:
    return np.stack([highest_mean(maps, top) for top in tops], axis=1).astype(np.float64)
