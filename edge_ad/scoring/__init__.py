"""From raw branch scores to a verdict: statistics of normal images, normalised scores, fused score, thresholds (numpy
only).
"""

from edge_ad.scoring.statistics import (
    BRANCHES,
    MAPS,
    MIN_BRANCHES,
    Array,
    Statistics,
    fit_gaussian,
    fuse,
    mahalanobis,
    map_quantiles,
    normalise_statistics,
)
from edge_ad.scoring.thresholds import Thresholds, choose_thresholds
from edge_ad.scoring.weights import choose_weights

__all__ = [
    "BRANCHES",
    "MAPS",
    "MIN_BRANCHES",
    "Array",
    "Statistics",
    "Thresholds",
    "choose_thresholds",
    "choose_weights",
    "fit_gaussian",
    "fuse",
    "mahalanobis",
    "map_quantiles",
    "normalise_statistics",
]
