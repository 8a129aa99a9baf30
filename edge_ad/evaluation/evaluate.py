"""Evaluate a bundle on a labelled test set, or every category of a root with its own bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.bundle import SUFFIX, Bundle, open_bundle
from edge_ad.data.datasets import TestItem, find_categories, load_test
from edge_ad.data.images import Image, read_image
from edge_ad.engines.offline import Workers, open_workers
from edge_ad.errors import BadInput, require
from edge_ad.evaluation.figures import (
    ImageResult,
    Judge,
    Progress,
    TestScores,
    image_figures,
    judge_all,
    logic_figures,
    spro_figures,
    suspect_masks,
)
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import NotLocated
from edge_ad.scoring import Statistics, Thresholds

MAX_NORMAL_IMAGES = 32  # at most so many normal images are disturbed: five more inferences each
SHIFT = 0.02  # of the side


def drift(
    workers: Workers[Judge], scores: TestScores, statistics: Statistics, thresholds: Thresholds,
    *, geometry: Geometry | None = None,
) -> dict[str, Any] | None:
    """Return, by disturbance, how the fused score of normal images changes; None without normal images.

    {name: {"of", "score" (mean change), "z" (the same by branch), "warn_count", "count" (normal images that are then
    WARN or NG, and NG), "before" (those counts of the same normal images undisturbed), "unlocated" (how many of "count" are
    so because their part was not located)}}. At most ``MAX_NORMAL_IMAGES`` located normal images are taken, spread
    evenly. Where parts are located, the whole image is disturbed and the part located in it again.
    """
    geometry = geometry or Geometry.square(workers.first.image_size)
    normal = np.array([index for index in scores.of("good") if int(index) not in scores.unlocated], np.intp)
    if not normal.size:
        return None
    chosen = normal[np.unique(np.linspace(0, normal.size - 1, min(MAX_NORMAL_IMAGES, normal.size)).round().astype(int))]
    items = [scores.items[index] for index in chosen]
    before = _counts(scores.score[chosen], thresholds)
    return {
        name: _change(
            scores, chosen, [*workers.map(items, partial(_disturbed, geometry, change), _scored)],
            statistics=statistics, thresholds=thresholds, before=before, computed=workers.first.branches,
        )
        for name, change in DISTURBANCES.items()
    }


def _disturbed(geometry: Geometry, change: Callable[[Image], Image], item: TestItem) -> Image | None:
    """Return the input made of a disturbed image; None where its part is not located."""
    image = geometry.region_of(read_image(item.path, item.bits))
    if not geometry.locates:
        prepared = geometry.prepare(image)
        return None if isinstance(prepared, NotLocated) else geometry.without_ignored(change(prepared.image))
    located = geometry.prepare(change(image))
    return None if isinstance(located, NotLocated) else located.image


def _scored(judge: Judge, image: Image | None) -> ImageResult | None:
    return None if image is None else judge.infer(image)


def _change(
    scores: TestScores,
    chosen: npt.NDArray[np.intp],
    judged: list[ImageResult | None],
    *,
    computed: Sequence[str],
    statistics: Statistics,
    thresholds: Thresholds,
    before: dict[str, int],
) -> dict[str, Any]:
    results = [(index, one) for index, one in zip(chosen, judged, strict=True) if one is not None]
    located = [index for index, _ in results]
    unlocated = len(judged) - len(located)
    score = np.array([one.score for _, one in results])
    raw = np.array([one.raw for _, one in results]).reshape(-1, len(statistics.branches))
    moved = (raw - scores.raw[located]) / statistics.std
    known = [branch in computed and bool(located) for branch in statistics.branches]
    return {
        "of": len(judged),
        "score": float(np.mean(score - scores.score[located])) if located else None,
        "z": {branch: float(moved[:, k].mean()) if known[k] else None for k, branch in enumerate(statistics.branches)},
        **_counts(np.concatenate([score, np.full(unlocated, np.inf)]), thresholds),
        "before": before,
        "unlocated": unlocated,
    }


def _counts(score: npt.NDArray[Any], thresholds: Thresholds) -> dict[str, int]:
    return {"warn_count": int((score > thresholds.warn).sum()), "count": int((score > thresholds.ng).sum())}


def brighten(image: Image, gain: float) -> Image:
    """Multiply u8 [H, W, 3] by ``gain``, clipped."""
    brighter: Image = np.clip(image.astype(np.float32) * gain, 0, 255).round().astype(np.uint8)
    return brighter


def blur(image: Image, share: float) -> Image:
    """Blur u8 [H, W, 3] with a Gaussian whose deviation is ``share`` of the height."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), share * image.shape[0]), np.uint8)


def shift(image: Image, right: float, down: float) -> Image:
    """Move u8 [H, W, 3] by shares of its sides; the rim is repeated."""
    height, width = image.shape[:2]
    matrix = np.array([[1, 0, round(right * width)], [0, 1, round(down * height)]], np.float32)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


DISTURBANCES: dict[str, Callable[[Image], Image]] = {
    "darker 10 %": lambda image: brighten(image, 0.9),
    "brighter 10 %": lambda image: brighten(image, 1.1),
    "blur of 1 pixel in 256": lambda image: blur(image, 1 / 256),
    "shift right 2 %": lambda image: shift(image, SHIFT, 0.0),
    "shift down 2 %": lambda image: shift(image, 0.0, SHIFT),
}


REPORT_NAME = "report.html"
AVERAGED = (
    *("image_auroc", "auroc_without_composition", "au_spro", "branches", "subsets"),
    *("without", "recall_at_1_percent", "logic_map"),
)


def evaluate(
    bundle_path: Path | str,
    data_path: Path | str,
    backend: str | None = None,
    precision: str | None = None,
    *,
    report_dir: Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Judge every labelled image under ``data_path`` and return the figures, ready for JSON.

    The object has "backend", "precision", "image_auroc", "auroc_without_composition", "au_spro" (by limit of the false
    positive rate), "branches", "threshold" (NG) and "false_reject", and more: "bundle", "data", "folders" (what was
    read from which folder as what), "images" (counts by kind), "weights", "subsets" (AUROC of some branches fused
    again), "confidence" (95 % bootstrap intervals, seeded by ``seed``), "thresholds", "found" (anomalies above the
    thresholds), "without" (AUROC of the fusion that lacks one branch), "recall_at_1_percent", "logic_map" (how many
    times more of its mass than chance falls inside the defects), "suspect_masks" (masks that look inverted) and "drift"
    (what light, blur and shift do to normal images), "unlocated" (by kind, images whose part was not located: no run lets
    them pass, so they count as NG and as the highest score). A kind without images, or without masks, is None. With
    ``report_dir`` a self-contained page report.html is written there. ``jobs`` images are judged side by side (see
    ``open_workers``). Raises BadInput for bad data, BadInput or DeviceFault from the engine.
    """
    if report_dir is not None:  # before minutes of work, not after
        require("matplotlib", extra="train", needed_by="the report of edge-ad evaluate")
    bundle = open_bundle(bundle_path)
    data = load_test(data_path, bundle.image_bits)
    with open_workers(bundle, backend, precision, jobs=jobs, all_branches=True) as workers:
        used = {"backend": workers.first.backend.name, "precision": workers.first.precision}
        computed = workers.first.branches
        scores = judge_all(workers, data.test, progress, geometry=bundle.geometry)
        drifted = drift(workers, scores, bundle.statistics, bundle.thresholds, geometry=bundle.geometry)
    figures = image_figures(scores, bundle.statistics, bundle.thresholds, seed, computed=computed)
    figures["au_spro"] = spro_figures(scores, data.saturation)
    figures["logic_map"] = logic_figures(scores)
    figures["suspect_masks"] = suspect_masks(scores)
    figures["drift"] = drifted
    folders = [vars(use) for use in data.folders]
    figures = {**used, "bundle": _named(bundle), "data": str(data.root), "folders": folders, **figures}
    if report_dir is not None:
        from edge_ad.evaluation.report import write_report

        write_report(report_dir / REPORT_NAME, figures, scores, bundle.statistics, thresholds=bundle.thresholds, name=data.name)
    return figures


def evaluate_each(
    runs: Path,
    root: Path,
    backend: str | None = None,
    precision: str | None = None,
    *,
    report_dir: Path | None = None,
    progress: Callable[[str], Progress | None] | None = None,
    seed: int = 0,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Judge every category under ``root`` with the newest bundle of its name under ``runs``.

    Returns {"backend", "precision", "categories": {name: figures}, "mean": {...}}; reports go to
    ``report_dir``/<category>. ``progress`` is given the category's name and returns what to tell. Raises BadInput when
    there is no category, or no bundle for one of them, before anything is judged.
    """
    categories = find_categories(root)
    if not categories:
        raise BadInput(
            f"{root} holds no categories: name a folder whose folders have train/good, or a bundle and a test set"
        )
    bundles = {category.name: bundle_of(runs, category.name) for category in categories}
    results = {
        category.name: evaluate(
            bundles[category.name],
            category,
            backend,
            precision,
            report_dir=report_dir / category.name if report_dir else None,
            progress=progress(category.name) if progress else None,
            seed=seed,
            jobs=jobs,
        )
        for category in categories
    }
    values = list(results.values())
    same = {key: values[0][key] if len({v[key] for v in values}) == 1 else "mixed" for key in ("backend", "precision")}
    return {**same, "categories": results, "mean": mean_figures(values)}


def bundle_of(runs: Path, category: str) -> Path:
    """Return the newest bundle named like ``category`` anywhere under ``runs``; BadInput when there is none."""
    named = [path for path in runs.rglob(f"*{SUFFIX}") if path.stem == category]
    if not named:
        others = sorted({path.stem for path in runs.rglob(f"*{SUFFIX}")})
        raise BadInput(
            f"{runs} has no bundle {category}{SUFFIX} (it has {', '.join(others) or 'none at all'}): "
            f"train it with `edge-ad train ROOT/{quote(category)} --out {quote(str(runs))}`"
        )
    return max(named, key=lambda path: (path.stat().st_mtime_ns, str(path)))


def mean_figures(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the plain means over categories of the AUROC and AU-sPRO figures, and the sums of the counts of normal
    images.

    A mean that lacks a category's value is None.
    """
    shared = [key for key in AVERAGED if all(key in category for category in figures)]
    means = {key: _mean([category[key] for category in figures]) for key in shared}
    counts = [category["false_reject"] for category in figures]
    return {**means, "false_reject": {key: sum(count[key] for count in counts) for key in counts[0]}}


def _mean(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _mean([value[key] for value in values]) for key in values[0]}
    return None if any(value is None for value in values) else sum(values) / len(values)


def _named(bundle: Bundle) -> dict[str, str]:
    return {"path": str(bundle.path), "name": bundle.name, "preset": bundle.preset, "sha256": bundle.sha256}
