"""Thresholds of their own for sensitivity zones: from what a bundle's own map shows there of unseen normal images.

A zone's score is the highest value of the fused map inside it, without what is ignored. The threshold of a rate is that of
`scoring.choose_thresholds`, so each zone has a promise of its own beside that of the whole image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import SUFFIX, Bundle, BundleContents, open_bundle, write_bundle
from edge_ad.deployment.lot import inputs_of, new_cells, with_refitted
from edge_ad.deployment.refit import SHARES, Described, Lot, Part, Refitted
from edge_ad.engines.offline import open_workers
from edge_ad.scoring import Array, Thresholds, choose_thresholds

Image: TypeAlias = NDArray[np.uint8]


def zone_names(contents: BundleContents) -> tuple[str, ...]:
    """Return the names of the sensitivity zones of a bundle; none without zones."""
    return () if contents.geometry is None or contents.geometry.zones is None else contents.geometry.zones.zones.names


def zone_scores(contents: BundleContents, images: Iterable[Image], jobs: int | None = None) -> dict[str, Array]:
    """Return the scores f32 [N] of inputs u8 [H, W, 3] in each sensitivity zone, by the graphs and statistics of ``contents``;
    ``jobs`` images are judged side by side (see ``open_workers``).
    """
    assert contents.geometry is not None
    zones = contents.geometry.zones
    assert zones is not None
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / f"scratch{SUFFIX}"
        write_bundle(scratch, contents)
        with open_workers(open_bundle(scratch), "onnxruntime", "fp32", jobs=jobs) as workers:
            rows = [*workers.map(images, lambda image: image, lambda pipeline, image: zones.scores(pipeline.infer(image).map))]
    return {name: np.array([row[name] for row in rows], np.float32) for name in zones.zones.names}


def with_lot_zones(
    bundle: Bundle,
    child: BundleContents,
    lot: Lot,
    refitted: Refitted,
    *,
    parts: Sequence[Part],
    paths: Sequence[Path],
    forget: bool,
    jobs: int | None,
) -> BundleContents:
    """Return a recalibrated ``child`` with thresholds of its zones from the images in ``paths``, those of the ``lot`` first.

    Where the lot has not moved its map has not either: the thresholds stay, if they were asked for alike. Elsewhere each
    image is scored by a refit that has not seen it.
    """
    names, now = zone_names(child), child.thresholds
    if not names:
        return child
    old = dict(bundle.thresholds.zones)
    if not lot.kinds and set(old) == set(names) and all(_asks_alike(one, now) for one in old.values()):
        return replace(child, thresholds=replace(now, zones=bundle.thresholds.zones))
    images, others = (inputs_of(bundle, some) for some in (paths[: len(lot.normal)], paths[len(lot.normal) :]))
    scores = [zone_scores(child, others, jobs)]
    if not lot.kinds:
        scores.append(zone_scores(child, images, jobs))
    else:
        shown = list(images)
        for fold in np.unique(lot.folds).tolist():
            contents = _without(bundle, child, lot, refitted, parts=parts, fold=fold, forget=forget)
            scores.append(zone_scores(contents, [shown[row] for row in np.flatnonzero(lot.folds == fold).tolist()], jobs))
    return replace(child, thresholds=replace(now, zones=_chosen(names, scores, now)))


def _chosen(names: Sequence[str], scores: Sequence[Mapping[str, Array]], asked: Thresholds) -> tuple[tuple[str, Thresholds], ...]:
    joined = {name: np.concatenate([one[name] for one in scores]) for name in names}
    return tuple((name, choose_thresholds(joined[name], asked.target_ng, asked.target_warn)) for name in names)


def _asks_alike(one: Thresholds, other: Thresholds) -> bool:
    return (one.target_ng, one.target_warn) == (other.target_ng, other.target_warn)


def _without(
    bundle: Bundle, child: BundleContents, lot: Lot, refitted: Refitted, *, parts: Sequence[Part], fold: int, forget: bool
) -> BundleContents:
    """Return the child as a refit without one fold of the lot gives it."""
    others = lot.folds != fold
    normal = Described(lot.normal.raw[others], {name: values[others] for name, values in lot.normal.features.items()})
    constants = {part.branch: part.refit(normal.features, refitted.shares[part.branch]) for part in parts}
    cells = new_cells(bundle, normal, refitted.shares.get("logic", SHARES[0]), forget=forget)
    graphs, references = with_refitted(bundle, constants, cells)
    return replace(child, graphs={**child.graphs, **graphs}, references=references)
