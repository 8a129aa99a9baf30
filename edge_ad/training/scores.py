"""From exported graphs to a finished bundle: the edge pipeline itself scores the goods that its statistics come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import BundleContents, Golden, open_bundle, write_bundle
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.proof import evenly
from edge_ad.scoring import (
    BRANCHES,
    Statistics,
    choose_thresholds,
    choose_weights,
    fit_gaussian,
    fuse,
    map_quantiles,
    normalise_statistics,
)
from edge_ad.training.pictures import FADES, Images, Pictures
from edge_ad.training.progress import Progress

GOLDEN = 8
MAP_NAMES = ("map_structure", "map_local", "map_global")


@dataclass(frozen=True)
class Scored:
    """Raw scores f32 [N, 5] and the three maps of every picture, one array a map."""

    raw: NDArray[np.float32]
    maps: tuple[NDArray[np.float32], ...]


def blank_statistics(pooled: NDArray[np.float32]) -> Statistics:
    """Return statistics that leave raw scores as they are, with the Gaussian of the pooled features of goods f32 [N, D]."""
    centre, precision = fit_gaussian(pooled)
    return Statistics(
        quantiles=np.tile(np.array([0.0, 1.0], np.float32), (3, 1)),
        centre=centre,
        precision=precision,
        mean=np.zeros(5, np.float32),
        std=np.ones(5, np.float32),
        weight=np.full(5, 0.2, np.float32),
    )


def finish_contents(
    contents: BundleContents,
    pictures: Pictures,
    scratch: Path,
    targets: tuple[float, float],
    seed: int,
    progress: Progress,
) -> BundleContents:
    """Return ``contents`` with statistics, weights, thresholds, raw scores and golden pictures measured by the pipeline.

    ``contents`` carries the exported graphs with ``blank_statistics``; ``targets`` are the rates of goods called NG and
    called WARN or NG. A preliminary bundle is written to ``scratch`` so that the very code of the edge does the scoring.
    """
    write_bundle(scratch, contents)
    with Pipeline(open_bundle(scratch), all_branches=True) as pipeline:
        normalise = score_all(pipeline, pictures.normalise, "scoring goods", progress)
        threshold = score_all(pipeline, pictures.threshold, "scoring threshold goods", progress)
        anomalies = score_all(pipeline, pictures.anomalies, "scoring synthetic anomalies", progress)
        faded = _score_faded(pipeline, pictures, progress)
    scratch.unlink()
    shown = np.concatenate([anomalies.raw, *faded.values()])
    kinds = (*pictures.kinds, *(f"{kind} at {share:g}" for share in faded for kind in pictures.kinds))
    statistics = measure(contents.statistics, normalise, shown, kinds, seed)
    thresholds = choose_thresholds(fuse(threshold.raw, statistics)[1], *targets)
    golden = _golden(pictures, threshold.raw, anomalies.raw)
    raw = {"normalise": normalise.raw, "threshold": threshold.raw, "synthetic": anomalies.raw}
    raw |= {f"synthetic_{100 * share:.0f}": scores for share, scores in faded.items()}
    branches = branch_report(normalise.raw, anomalies.raw, shown[len(anomalies.raw) :], statistics)
    report = {**contents.report, "branches": branches}
    return replace(contents, statistics=statistics, thresholds=thresholds, raw_scores=raw, golden=golden, report=report)


def _score_faded(pipeline: Pipeline, pictures: Pictures, progress: Progress) -> dict[float, NDArray[np.float32]]:
    """Return the raw scores of the synthetic anomalies at each of the FADES; none where defects are labelled."""
    shares = FADES if pictures.origins else ()
    told = "scoring anomalies at {:.0%} of their strength"
    return {share: score_all(pipeline, pictures.faded(share), told.format(share), progress).raw for share in shares}


def measure(
    blank: Statistics, goods: Scored, anomalies: NDArray[np.float32], kinds: tuple[str, ...], seed: int
) -> Statistics:
    """Return mean, deviation, map quantiles and branch weights from unseen goods and synthetic anomalies."""
    mean, std = normalise_statistics(goods.raw)
    quantiles = np.array([_quantile_pair(maps) for maps in goods.maps], np.float32)
    flat = replace(blank, mean=mean, std=std, quantiles=quantiles)
    weight = choose_weights(fuse(goods.raw, flat)[0], fuse(anomalies, flat)[0], kinds, seed)
    return replace(flat, weight=weight)


def score_all(pipeline: Pipeline, images: Images, stage: str, progress: Progress) -> Scored:
    """Run every picture through the pipeline."""
    import time

    began = time.monotonic()
    raw, maps = [], []
    for number, image in enumerate(images):
        raw.append(pipeline.infer(image).raw)
        maps.append([pipeline.tensor(name).reshape(-1) for name in MAP_NAMES])
        progress.step(stage, number + 1, len(images), began)
    stacked = tuple(np.stack([row[index] for row in maps]) for index in range(len(MAP_NAMES)))
    return Scored(np.stack(raw).astype(np.float32), stacked)


def branch_report(
    goods: NDArray[np.float32], anomalies: NDArray[np.float32], faded: NDArray[np.float32], statistics: Statistics
) -> dict[str, dict[str, Any]]:
    """Return weight and AUROC of each branch on unseen goods against synthetic anomalies, and against faded ones."""
    from edge_ad.evaluation.auroc import auroc

    def against(index: int, found: NDArray[np.float32]) -> float | None:
        value = auroc(goods[:, index], found[:, index])
        return None if value is None else round(value, 4)

    return {
        branch: {
            "weight": round(float(statistics.weight[index]), 4),
            "auroc_synthetic": against(index, anomalies),
            "auroc_faded": against(index, faded),
        }
        for index, branch in enumerate(BRANCHES)
    }


def _quantile_pair(maps: NDArray[np.float32]) -> tuple[float, float]:
    low, high = map_quantiles(maps)
    return low, max(high, low + 1e-6)


def _golden(pictures: Pictures, goods: NDArray[np.float32], anomalies: NDArray[np.float32]) -> Golden:
    """Keep a few threshold goods and anomalies, spread over the set, as proof data."""
    half = GOLDEN // 2
    good, bad = evenly(len(goods), half), evenly(len(anomalies), half)
    images = np.concatenate([pictures.threshold[good], pictures.anomalies[bad]])
    return Golden(images, np.concatenate([goods[good], anomalies[bad]]))
