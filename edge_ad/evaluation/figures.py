"""The figures of a test set: AUROC per kind, branch and subset of branches, AU-sPRO, rejected goods, found
anomalies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.data.layouts import Kind, Saturation
from edge_ad.evaluation.auroc import auroc, recall_at
from edge_ad.evaluation.bootstrap import auroc_difference, auroc_interval
from edge_ad.evaluation.masks import read_channels
from edge_ad.evaluation.scores import TestScores
from edge_ad.evaluation.spro import LIMITS, MapOfImage, au_spro
from edge_ad.scoring import BRANCHES, Statistics, Thresholds, fuse

ANOMALIES: tuple[Kind, ...] = ("logical", "structural")
KINDS: tuple[Kind, ...] = ("good", "logical", "structural")
SUBSETS = {
    "structure+logic": ("structure", "logic"),
    "local+global": ("local", "global"),
    "without_composition": tuple(branch for branch in BRANCHES if branch != "composition"),
}

RATE = 0.01  # false rejects at which the recall is told

Figures = dict[str, float | None]


def image_figures(
    scores: TestScores,
    statistics: Statistics,
    thresholds: Thresholds,
    seed: int = 0,
    computed: Sequence[str] = BRANCHES,
) -> dict[str, Any]:
    """Return every figure that needs image scores alone.

    A kind without images is None, and so is a mean missing a part, a branch that is not among the ``computed`` ones,
    and a subset without such a branch.
    """
    z, _ = fuse(scores.raw, statistics)
    fused = {
        name: subset_score(z, statistics, [branch for branch in branches if branch in computed])
        for name, branches in SUBSETS.items()
    }
    fewer = {
        branch: subset_score(z, statistics, [other for other in BRANCHES if other != branch and other in computed])
        for branch in BRANCHES
    }
    columns = {branch: z[:, k] if branch in computed else None for k, branch in enumerate(BRANCHES)}
    without = fused["without_composition"]
    return {
        "image_auroc": with_mean(auroc_by_kind(scores, scores.score)),
        "auroc_without_composition": with_mean(auroc_by_kind(scores, without)),
        "branches": {branch: auroc_by_kind(scores, values) for branch, values in columns.items()},
        "weights": {branch: float(weight) for branch, weight in zip(BRANCHES, statistics.weight, strict=True)},
        "without": {branch: with_mean(auroc_by_kind(scores, values)) for branch, values in fewer.items()},
        "recall_at_1_percent": with_mean(
            {kind: recall_at(*_sides(scores, scores.score, kind), RATE) for kind in ANOMALIES}
        ),
        "subsets": {name: with_mean(auroc_by_kind(scores, values)) for name, values in fused.items()},
        "confidence": {
            "image_auroc": _intervals(scores, scores.score, None, seed),
            "auroc_without_composition": _intervals(scores, without, None, seed),
            "gain_by_composition": _intervals(scores, scores.score if without is not None else None, without, seed),
        },
        "threshold": thresholds.ng,
        "thresholds": {"warn": thresholds.warn, "ng": thresholds.ng},
        "false_reject": above(scores, "good", thresholds),
        "found": {kind: above(scores, kind, thresholds) if scores.of(kind).size else None for kind in ANOMALIES},
        "images": {kind: int(scores.of(kind).size) for kind in KINDS},
    }


def subset_score(
    z: npt.NDArray[np.float32], statistics: Statistics, branches: Sequence[str]
) -> npt.NDArray[np.float64] | None:
    """Return the scores f64[N] fused from some branches only, from ``z`` f32[N,5]; None for no branches.

    The bundle's weights of these branches are scaled to sum 1; where all of them are 0 the branches count equally.
    """
    chosen = np.array([branch in branches for branch in BRANCHES])
    if not chosen.any():
        return None
    weight = np.where(chosen, statistics.weight, 0.0).astype(np.float64)
    if not weight.any():
        weight = chosen.astype(np.float64)
    used = weight > 0
    return np.asarray(z[:, used].astype(np.float64) @ (weight[used] / weight.sum()))


def auroc_by_kind(scores: TestScores, values: npt.NDArray[Any] | None) -> Figures:
    """Return {"logical", "structural"}: the AUROC of ``values`` [N] against the goods, None where there is nothing."""
    return {kind: None if values is None else auroc(*_sides(scores, values, kind)) for kind in ANOMALIES}


def above(scores: TestScores, kind: Kind, thresholds: Thresholds) -> dict[str, int]:
    """Return {"count", "warn_count", "of"}: the images of a kind that are NG, that are NG or WARN, and all of them."""
    values = scores.score[scores.of(kind)]
    verdicts = [thresholds.verdict(float(value)) for value in values]
    return {
        "count": verdicts.count("NG"),
        "warn_count": verdicts.count("NG") + verdicts.count("WARN"),
        "of": int(values.size),
    }


def spro_figures(scores: TestScores, saturation: Mapping[int, Saturation]) -> dict[str, Figures]:
    """Return AU-sPRO by limit of the false positive rate and kind, with the mean; None where a kind has no masks."""
    by_kind = {kind: _spro(scores, kind, saturation) for kind in ANOMALIES}
    return {
        str(limit): with_mean({kind: None if areas is None else areas[limit] for kind, areas in by_kind.items()})
        for limit in LIMITS
    }


def _spro(scores: TestScores, kind: Kind, saturation: Mapping[int, Saturation]) -> dict[float, float] | None:
    subset = [*scores.of("good"), *scores.of(kind)]
    if not any(scores.items[index].masks for index in subset):
        return None

    def image(index: int) -> MapOfImage:
        item, size = scores.items[index], scores.sizes[index]
        return MapOfImage(scores.maps[index], size, lambda: read_channels(item, size, saturation))

    return au_spro([image(int(index)) for index in subset])


def _sides(scores: TestScores, values: npt.NDArray[Any], kind: Kind) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return values[scores.of("good")], values[scores.of(kind)]


def with_mean(figures: Figures) -> Figures:
    """Add the mean of logical and structural, None where one of them is missing."""
    values = [figures[kind] for kind in ANOMALIES]
    present = [value for value in values if value is not None]
    return {**figures, "mean": sum(present) / len(present) if len(present) == len(values) else None}


def _intervals(
    scores: TestScores, values: npt.NDArray[Any] | None, less: npt.NDArray[Any] | None, seed: int
) -> dict[str, dict[str, float] | None]:
    """Return the interval of the AUROC of ``values`` by kind, or of its lead over that of ``less``."""
    told: dict[str, dict[str, float] | None] = {}
    for kind in ANOMALIES:
        interval = None
        if values is not None and less is None:
            interval = auroc_interval(*_sides(scores, values, kind), seed)
        elif values is not None and less is not None:
            interval = auroc_difference(_sides(scores, values, kind), _sides(scores, less, kind), seed)
        told[kind] = None if interval is None else asdict(interval)
    return told
