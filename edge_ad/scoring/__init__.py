"""From raw branch scores to a verdict: statistics of normal images, normalised scores, fused score, thresholds (numpy
only).
"""

from edge_ad.scoring.operating_point import choose_operating_point
from edge_ad.scoring.statistics import (
    BRANCHES,
    MAPS,
    MIN_BRANCHES,
    Array,
    Statistics,
    cross_normalised,
    fit_gaussian,
    fuse,
    mahalanobis,
    map_quantiles,
    normalise_statistics,
    weighted,
)
from edge_ad.scoring.thresholds import (
    LOGICAL_SPLIT,
    OperatingPoint,
    Thresholds,
    anomaly_scores,
    anomaly_split,
    choose_thresholds,
    lies_above,
    rate_exceeded,
)
from edge_ad.scoring.weights import choose_weights

__all__ = [
    "BRANCHES",
    "LOGICAL_SPLIT",
    "MAPS",
    "MIN_BRANCHES",
    "Array",
    "OperatingPoint",
    "Statistics",
    "Thresholds",
    "anomaly_scores",
    "anomaly_split",
    "choose_operating_point",
    "choose_thresholds",
    "choose_weights",
    "cross_normalised",
    "fit_gaussian",
    "fuse",
    "lies_above",
    "mahalanobis",
    "map_quantiles",
    "normalise_statistics",
    "rate_exceeded",
    "weighted",
]
