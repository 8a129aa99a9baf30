"""Derive a child of a bundle without training: what a lot changes refitted to fresh normal images. Networks stay.

What is refitted, and by which rules, is in ``refit``; ``lot`` reads the images, ``colour_match`` takes their light back. The
tolerance of an engine's proof is in standard deviations of normal images, which are new, so the proof is made again.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.bundle import SUFFIX, Bundle, BundleContents, Golden, child_path, open_bundle, write_bundle
from edge_ad.data.datasets import MIN_NORMAL_IMAGES, load_dataset
from edge_ad.data.images import read_image, warn_depth
from edge_ad.data.near_duplicates import near_duplicate_groups, thumbnails
from edge_ad.data.prepared import READERS
from edge_ad.deployment.colour_match import in_training_light, seen_with
from edge_ad.deployment.int8 import for_graphs
from edge_ad.deployment.lot import (
    COUNTS,
    STRENGTHS,
    Images,
    LotReader,
    check_finite,
    check_normal,
    check_product,
    check_sizes,
    draw_anomalies,
    has_moved,
    inputs_of,
    known_normal,
    new_cells,
    parts_of,
    with_refitted,
)
from edge_ad.deployment.lot_quality import Looks, LotQuality
from edge_ad.deployment.refit import SHARES, Described, Lot, Part, Refitted, fold_of, refit, reproduced
from edge_ad.deployment.zone_thresholds import with_lot_zones
from edge_ad.engines.offline import in_order
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, GateRefused
from edge_ad.geometry.colour import Gains
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import NotLocated, Pose, PoseRange
from edge_ad.scoring import (
    LOGICAL_SPLIT,
    Array,
    OperatingPoint,
    Statistics,
    Thresholds,
    anomaly_scores,
    anomaly_split,
    choose_operating_point,
    choose_thresholds,
    choose_weights,
    cross_normalised,
    fuse,
    map_quantiles,
    normalise_statistics,
    weighted,
)
from edge_ad.scoring.thresholds import percent

MAX_LEARNED = 120  # normal images that a lot is learned from; more of them set statistics and thresholds
PRIOR_IMAGES = 20  # normal images that the old weights of the branches stand for when new ones are chosen

REPORT_KEY = "recalibration"

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class _Read:
    """Normal images as they were read: poses and image quality; what could not be read, and what not located.

    The inputs are made again where they are needed: those of thousands of images do not fit into the memory of a Jetson.
    """

    quality: LotQuality
    paths: list[Path] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    unlocated: list[tuple[Path, str]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


def recalibrate(
    bundle_path: Path | str,
    normal_folder: Path | str,
    out: Path | str | None = None,
    target_ng: float = 0.01,
    *,
    target_warn: float = 0.05,
    operating_point: str | None = None,
    seed: int = 0,
    forget: bool = False,
    keep_old: Path | None = None,
    keep_colour: bool = False,
    yes: bool = False,
    any_product: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a child of a bundle that has learned the lot in a folder of normal images; return its path.

    The normal images (a flat folder, or an MVTec layout) should be ones the model was not trained on. Where the light is what
    moved, gains of the channels bring it back (see ``match_colour``), unless ``keep_colour`` or ``keep_old`` is given. Where they
    score as those that the bundle knows, they join these, and only mean, deviation and thresholds are new. Otherwise the
    Gaussians of composition and surprise, the memory and the cells of the logic map are refitted, blended with what was known,
    or without it to ``forget`` the old lot; then mean, deviation, weights and thresholds, by scores of refits that had not seen
    the image (near-duplicates stay together). The operating point stays without another. ``parent`` is the sha256 of the old
    file. ``out`` is a file or a folder; without it the child is ``<name>-recalibrated-<n>.edgead`` beside its parent. Images that
    cannot be read are skipped and listed in the report. ``jobs`` images are judged side by side (see ``open_workers``).

    Normal images of the old lot, in ``keep_old`` or those that the bundle keeps, are judged by the child and counted. Raises
    GateRefused where more than twice the promise in ``keep_old`` is NG; BadInput for fewer than 10 readable images, bad targets,
    another size or most of them NG (but ``yes``), another product (but ``any_product``); DeviceFault for scores not finite.
    """
    bundle, folder = open_bundle(bundle_path), Path(normal_folder)
    target = child_path(bundle, None if out is None else Path(out), "recalibrated", "recalibrate")
    point = _operating_point(bundle, operating_point, (target_ng, target_warn))
    read, groups = _read(bundle, folder, seed, yes=yes)
    learned, others = _learned_first(read, groups, seed)
    old = None if keep_old is None else _read(bundle, keep_old, seed, single=True)[0]
    with LotReader(bundle, jobs) as reader:
        paths, keep = read.paths[: sum(map(len, learned))], keep_colour or old is not None  # two lights cannot be brought back
        bundle, normal, gains = in_training_light(bundle, reader, paths, keep=keep, progress=progress)
        lot = _lot(bundle, normal, read, learned, seed=seed, yes=yes, any_product=any_product)
        known = None if forget else _unmoved(bundle, lot)
        parts = _parts(bundle, lot, forget) if known is None else []
        lot = _with_anomalies(bundle, reader, lot, read, seed=seed) if known is None else lot
        refitted = refit(parts, lot, bundle.statistics.branches, seed)
        more = reader.raw_of(inputs_of(bundle, read.paths[len(lot.normal) :]), parts, refitted.constants)
        proof = reader.raw_of(_old_images(bundle, old, gains), parts, refitted.constants)
    statistics, thresholds, raw_scores = _rescored(
        bundle, lot, refitted, more,
        known=known, groups=[*learned, *others], point=point, targets=(target_ng, target_warn), seed=seed,
    )  # fmt: skip
    report = _reported(bundle, lot, refitted, thresholds, known=known, forget=forget, gains=gains)
    report |= _old_lot(fuse(proof, statistics)[1], thresholds, keep_old)
    child = replace(bundle.contents(), statistics=statistics, thresholds=thresholds, raw_scores=raw_scores)
    child = _with_graphs(bundle, child, lot, refitted, forget=forget)
    child = with_lot_zones(bundle, child, lot, refitted, parts=parts, paths=read.paths, forget=forget, jobs=jobs)
    camera = read.quality.report(folder, moved=known is None or gains is not None, forget=forget)
    write_bundle(target, _with_golden(_described(bundle, child, read=read, seed=seed, report=report, camera=camera)))
    return target


def _operating_point(bundle: Bundle, asked: str | None, targets: tuple[float, float]) -> OperatingPoint:
    """Return the operating point; BadInput, before the work and not after it, for another and for bad targets."""
    choose_thresholds([0.0], *targets)
    return OperatingPoint.parse(asked or bundle.thresholds.operating_point)


def _reported(
    bundle: Bundle, lot: Lot, refitted: Refitted, thresholds: Thresholds,
    *, known: Array | None, forget: bool, gains: Gains | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the report of a child says of what was learned."""
    report: dict[str, Any] = {"shares": refitted.shares, "forget": forget, "learned": len(lot.normal), "moved": known is None}
    report |= {"known": 0 if known is None else len(known), "kept": thresholds is bundle.thresholds}
    return report if gains is None else {**report, "gains": [round(gain, 4) for gain in gains]}


def _rescored(
    bundle: Bundle, lot: Lot, refitted: Refitted, more: Array,
    *, known: Array | None, groups: list[list[int]], point: OperatingPoint, targets: tuple[float, float], seed: int,
) -> tuple[Statistics, Thresholds, dict[str, Array]]:  # fmt: skip
    """Return statistics, thresholds and raw scores of a child: from the new images, and the ``known`` of a lot that stays."""
    normal = np.concatenate([*([] if known is None else [known]), refitted.normal, more])
    before = 0 if known is None else len(known)
    z = cross_normalised(normal, [*([row] for row in range(before)), *([before + row for row in group] for group in groups)])
    statistics = _statistics(bundle, normal, z, lot, refitted=refitted, seed=seed)
    raw_scores = _raw_scores(bundle, normal, refitted.anomalies)
    shown, scores = anomaly_scores(raw_scores, statistics), weighted(z, statistics.weight)
    thresholds = choose_operating_point(scores, shown, point, targets)
    if known is not None and _promises_a_tolerance(bundle) and _asks_alike(bundle.thresholds, thresholds):
        return bundle.statistics, bundle.thresholds, raw_scores
    return statistics, thresholds, raw_scores  # a pair: thresholds on scores of other statistics would mean nothing


def _with_graphs(bundle: Bundle, child: BundleContents, lot: Lot, refitted: Refitted, *, forget: bool) -> BundleContents:
    """Return a child with refitted references and the graphs that read them; ranges and plan of INT8 are those of the old ones."""
    share = refitted.shares.get("logic", SHARES[0])
    cells = new_cells(bundle, lot.normal, share, forget=forget) if lot.kinds else None  # nothing is drawn on a lot that stays
    graphs, references = with_refitted(bundle, refitted.constants, cells)
    quantisation = for_graphs(child.quantisation, graphs)
    return replace(child, graphs={**child.graphs, **graphs}, references=references, quantisation=quantisation)


def _read(
    bundle: Bundle, folder: Path, seed: int, *, single: bool = False, yes: bool = True
) -> tuple[_Read, list[list[int]]]:
    """Read the normal images in a folder, and return their groups of near-duplicates, by index; ``single`` looks for none.

    BadInput where too few can be used: an old lot of which nothing was located would else pass unseen; and, unless ``yes``, for
    images of a new size.
    """
    result, read = load_dataset(folder, seed), _Read(LotQuality(bundle, seed))
    read.skipped, read.sizes = list(result.skipped), dict(result.sizes)
    warn_depth(result.bits, bundle.image_bits, folder)
    paths = sorted((*result.normal.fit, *result.normal.normalise, *result.normal.threshold))
    look = partial(_look, bundle, None if single else read.quality)
    for path, seen in zip(paths, in_order(look, paths, READERS), strict=True):
        if isinstance(seen, BadInput):
            logging.getLogger(__name__).warning("skipped %s: %s", path, seen)
            read.skipped.append((path, str(seen)))
        elif isinstance(seen, NotLocated):
            logging.getLogger(__name__).warning("left out %s: %s", path, seen.reason)
            read.unlocated.append((path, seen.reason))
        else:
            pose, looks = seen
            read.poses += [] if pose is None else [pose]
            read.paths.append(path)
            if looks is not None:
                read.quality.add(path, looks)
    _enough(read, folder)
    check_sizes(bundle, read.sizes, str(folder), yes)
    if single:
        return read, []
    return read, near_duplicate_groups(thumbnails(read.paths, bundle.image_bits)[0])


def _look(bundle: Bundle, quality: LotQuality | None, path: Path) -> BadInput | NotLocated | tuple[Pose | None, Looks | None]:
    """Read an image file and return where its part lies and how it looks, if ``quality`` asks, or why it cannot be used."""
    try:
        image = bundle.geometry.region_of(read_image(path, bundle.image_bits))
    except BadInput as error:
        return error
    prepared = bundle.geometry.prepare(image)
    if isinstance(prepared, NotLocated):
        return prepared
    return prepared.pose, None if quality is None else quality.measure(image, prepared)


def _learned_first(read: _Read, groups: list[list[int]], seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Put the images that the lot is learned from first; return their groups of near-duplicates, and those of the others, by the
    new indices.
    """
    learned: list[list[int]] = []
    others: list[list[int]] = []
    for number in np.random.default_rng([seed, 43]).permutation(len(groups)):
        # At least two: what scores an image of one is refitted to the others.
        fits = len(learned) < 2 or sum(map(len, learned)) + len(groups[number]) <= MAX_LEARNED
        (learned if fits else others).append(groups[number])
    order = [row for group in (*learned, *others) for row in group]
    read.paths = [read.paths[row] for row in order]
    new_index = {row: index for index, row in enumerate(order)}
    return [[new_index[row] for row in group] for group in learned], [[new_index[row] for row in group] for group in others]


def _enough(read: _Read, folder: Path) -> None:
    """Raise BadInput where most parts were not located, or too few images are left."""
    count, unlocated = len(read.paths), read.unlocated
    if len(unlocated) > count:
        path, reason = unlocated[0]
        raise BadInput(
            f"{folder}: of {count + len(unlocated)} normal images {len(unlocated)} have no part that the bundle's "
            f"geometry locates ({path.name}: {reason}); train again with these images"
        )
    if count < MIN_NORMAL_IMAGES:
        without = f", {len(unlocated)} show no part that could be located" if unlocated else ""
        raise BadInput(
            f"{folder} holds {count} readable good images ({len(read.skipped)} cannot be read{without}); "
            f"at least {MIN_NORMAL_IMAGES} are needed, so add more"
        )


def _lot(
    bundle: Bundle, normal: Described, read: _Read, groups: list[list[int]], *, seed: int, yes: bool, any_product: bool
) -> Lot:
    """Return the lot of the described images, which must be normal and of this product; no anomalies are drawn on them yet."""
    where = str(read.paths[0].parent)
    check_finite(bundle, normal.raw, read.paths)
    if not any_product:
        check_product(bundle, normal, where)
    check_normal(bundle, normal.raw, where, yes)
    nothing = Described(np.zeros((0, normal.raw.shape[1]), np.float32), {})
    return Lot(normal, fold_of(groups, seed), nothing, (), np.zeros(0, np.intp))


def _with_anomalies(bundle: Bundle, reader: LotReader, lot: Lot, read: _Read, *, seed: int) -> Lot:
    """Return a lot with anomalies that are drawn on its normal images."""
    images = np.stack([*inputs_of(bundle, read.paths[: len(lot.normal)])])
    drawn = draw_anomalies(images, seed, bundle.geometry.part_mask(), bundle.geometry.inspected)
    return replace(lot, anomalies=reader.describe(drawn.images), kinds=drawn.kinds, origins=drawn.origins)


def _unmoved(bundle: Bundle, lot: Lot) -> Array | None:
    """Return raw scores f32 [M, B] of normal images that the bundle knows, which the new ones join; None where the lot has moved
    and is to be learned.
    """
    known = known_normal(bundle, lot.normal.raw)
    return None if has_moved(bundle, known, lot.normal.raw) else known


def _promises_a_tolerance(bundle: Bundle) -> bool:
    """Whether statistics and thresholds come from images disturbed within a tolerance: not from a later lot, nor by hand."""
    later = bundle.report.get(REPORT_KEY)
    return "tolerance" in bundle.report and bundle.thresholds.goods > 0 and (later is None or later.get("kept") is True)


def _asks_alike(old: Thresholds, new: Thresholds) -> bool:
    """Whether two thresholds have the same targets and the same operating point."""
    asked = [(one.target_ng, one.target_warn, one.operating_point) for one in (old, new)]
    return asked[0] == asked[1]


def _parts(bundle: Bundle, lot: Lot, forget: bool) -> list[Part]:
    """Return what can be refitted: what its constants alone do not explain stays as it is, and that is logged."""
    wanted = parts_of(bundle, forget)
    parts = reproduced(wanted, lot.normal, bundle.statistics.branches)
    for part in wanted:
        if part not in parts:
            logging.getLogger(__name__).warning("%s of %s cannot be refitted: it stays as it is", part.branch, bundle.path.name)
    return parts


def _statistics(bundle: Bundle, normal: Array, z: Array, lot: Lot, *, refitted: Refitted, seed: int) -> Statistics:
    """Return the statistics of raw scores ``normal`` f32 [N, B], with the refitted Gaussian of composition; ``z`` f32 [N, B] are
    the same, each normalised by the others.
    """
    old, composition = bundle.statistics, refitted.constants.get("composition", {})
    mean, std = normalise_statistics(normal)
    quantiles = old.quantiles.copy()
    for row, branch in enumerate(old.maps):
        maps = refitted.maps.get(branch, lot.normal.features.get(f"map {branch}"))
        if maps is not None and lot.kinds:
            quantiles[row] = map_quantiles(maps[:, bundle.references.inspected_cells(branch)])
    flat = replace(old, mean=mean, std=std, quantiles=quantiles, **composition)
    if not lot.kinds:  # it has not moved: nothing was drawn on it
        return flat
    return replace(flat, weight=_weights(bundle, z, fuse(refitted.anomalies, flat)[0], lot.kinds, seed=seed))


def _weights(bundle: Bundle, z: Array, anomalies: Array, kinds: tuple[str, ...], *, seed: int) -> Array:
    """Return the weights that the new images and anomalies on them ask for, mixed with the old ones as if these stood for
    PRIOR_IMAGES; the old ones where no synthetic anomalies had chosen them, or logical ones had a say.
    """
    old = bundle.statistics.weight
    # A lot is too small to know which states never occur together, and changed surfaces alone would take their say back.
    if anomaly_split(STRENGTHS[1]) not in bundle.raw_scores or LOGICAL_SPLIT in bundle.raw_scores:
        return old
    chosen = choose_weights(z, anomalies, kinds, seed)
    share = len(z) / (len(z) + PRIOR_IMAGES)
    mixed = share * chosen.astype(np.float64) + (1 - share) * old
    return np.asarray(mixed / mixed.sum(), np.float32)


def _raw_scores(bundle: Bundle, normal: Array, anomalies: Array) -> dict[str, Array]:
    """Return the raw scores of a child: of the normal images, which serve both purposes, and of anomalies on new ones, if any."""
    if not len(anomalies):
        return {**bundle.raw_scores, "normalise": normal, "threshold": normal}
    shown = dict(zip(map(anomaly_split, STRENGTHS), np.split(anomalies, np.cumsum(COUNTS)[:-1]), strict=True))
    return {**bundle.raw_scores, **shown, "normalise": normal, "threshold": normal}


def _old_images(bundle: Bundle, old: _Read | None, gains: Gains | None) -> Iterable[Images]:
    """Return normal images of the old lot: those that were read, or else those that the bundle keeps as proof, as the child sees
    them.
    """
    if old is not None:
        return inputs_of(bundle, old.paths)
    proof = () if bundle.quantisation is None else list(bundle.quantisation.proof)
    return proof if gains is None or not proof else list(seen_with(bundle, np.stack(proof), gains))


def _old_lot(scores: Array, thresholds: Thresholds, folder: Path | None) -> dict[str, Any]:
    """Return what is reported of the old lot, if there are images of it: how many are NG; GateRefused for more than twice the
    promise of those that were asked for.
    """
    rejected, promised = int((~(scores <= thresholds.ng)).sum()), thresholds.supported_ng  # NaN does not pass
    if folder is not None and rejected > math.ceil(2 * promised * len(scores)):
        raise GateRefused(
            f"of the {len(scores)} normal images of the old lot in {folder} {rejected} would be NG, more than twice the promised "
            f"{percent(promised)}: recalibrate with images of both lots, or leave --keep-old out if the old lot is over"
        )
    counted = {"images": len(scores), "ng": rejected, "from": "bundle" if folder is None else str(folder)}
    return {"old_lot": counted} if len(scores) else {}


def _described(
    bundle: Bundle, child: BundleContents, *, read: _Read, seed: int, report: dict[str, Any], camera: dict[str, Any]
) -> BundleContents:
    """Return the child with its parent, its geometry and its report."""
    count = len(child.raw_scores["normalise"])
    messages: dict[str, Any] = {
        "parent": bundle.sha256,
        "goods": {"normalise": count, "threshold": count},
        "skipped": [{"file": path.name, "reason": reason} for path, reason in read.skipped],
        "seed": seed,
        "thresholds": child.thresholds.describe(),
        **report,
    }
    if read.unlocated:
        messages["unlocated"] = [{"file": path.name, "reason": reason} for path, reason in read.unlocated]
    return replace(
        child,
        geometry=_widened(child.geometry, read.poses),
        parent=bundle.sha256,
        report={**bundle.report, **camera, REPORT_KEY: messages},
    )


def _with_golden(child: BundleContents) -> BundleContents:
    """Return a child with the scores that its own graphs and statistics give the golden images."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / f"scratch{SUFFIX}"
        write_bundle(scratch, child)
        with Pipeline(open_bundle(scratch), all_branches=True) as pipeline:
            raw = np.stack([pipeline.infer(image).raw for image in child.golden.images])
    return replace(child, golden=Golden(child.golden.images, raw))


def _widened(geometry: Geometry | None, poses: Sequence[Pose]) -> Geometry | None:
    """Return the geometry with expected poses that take those of new normal images in."""
    if geometry is None or not poses:
        return geometry
    new = PoseRange.of(poses)
    return replace(geometry, expected=new if geometry.expected is None else geometry.expected.joined(new))
