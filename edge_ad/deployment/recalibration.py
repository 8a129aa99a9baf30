"""Derive a child of a bundle without training: new statistics and thresholds from fresh normal images, or thresholds set
by hand. Weights and graphs stay.

Statistics and weights are inputs of the fusion graph, so the parent's engine is reused; but the tolerance of its proof
is in standard deviations of normal images, which are new, so the proof is made again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.bundle import SUFFIX, Bundle, BundleContents, Golden, References, child_path, open_bundle, write_bundle
from edge_ad.bundle.graphs import (
    GAUSSIAN_CONSTANTS,
    GRAPHS,
    MAP_TENSORS,
    MEMORY,
    MEMORY_CONSTANTS,
    graphs_of,
    memory_graph,
)
from edge_ad.bundle.references import reference_values, with_values
from edge_ad.camera.measure import FrameMeasure, camera_report, frame_measurer
from edge_ad.data.datasets import MIN_NORMAL_IMAGES, load_dataset, split_groups
from edge_ad.data.images import read_image, warn_depth
from edge_ad.data.near_duplicates import near_duplicate_groups, thumbnails
from edge_ad.deployment.gate import measure_gate
from edge_ad.engines import engine_store
from edge_ad.engines.parity import compare
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, DeviceFault, EdgeAdError
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import Image, NotLocated, Pose, PoseRange
from edge_ad.scoring import (
    MAPS,
    Array,
    Statistics,
    Thresholds,
    choose_thresholds,
    fuse,
    map_quantiles,
    normalise_statistics,
)
from edge_ad.scoring.memory import Regions, banks_of, constants_of, extend, extend_cells

MAPS_LIMIT = 1000  # normal images whose maps are kept for the quantiles; more would only cost memory

Progress = Callable[[int, int], None]
Skipped = list[tuple[Path, str]]


@dataclass(frozen=True, eq=False)
class Measured:
    """What the model says of some normal images: raw scores f32 [N, B], by branch the maps of at most MAPS_LIMIT, and how the
    frames of those look.
    """

    raw: Array
    maps: dict[str, list[Array]]
    frames: list[FrameMeasure]


class _Reader:
    """Reads normal images and makes inputs of them: ``poses`` of the parts, what could not be read, and what not located."""

    def __init__(self, bundle: Bundle, skipped: Skipped, report: Callable[[], None]) -> None:
        self._geometry, self._bits, self._report = bundle.geometry, bundle.image_bits, report
        self.skipped = skipped
        self.unlocated: Skipped = []
        self.poses: list[Pose] = []

    def read(self, path: Path) -> tuple[Image, Prepared] | None:
        """Return an image and the input made of it; None where there is none."""
        self._report()
        try:
            image = read_image(path, self._bits)
        except BadInput as error:
            logging.getLogger(__name__).warning("skipped %s: %s", path, error)
            self.skipped.append((path, str(error)))
            return None
        prepared = self._geometry.prepare(image)
        if isinstance(prepared, NotLocated):
            logging.getLogger(__name__).warning("left out %s: %s", path, prepared.reason)
            self.unlocated.append((path, prepared.reason))
            return None
        self.poses += [] if prepared.pose is None else [prepared.pose]
        return image, prepared


def recalibrate(
    bundle_path: Path | str,
    normal_folder: Path | str,
    out: Path | str | None = None,
    target_ng: float = 0.01,
    *,
    target_warn: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write a child of a bundle whose statistics and thresholds come from the normal images in a folder; return its path.

    The normal images (a flat folder, or train/good and validation/good of an MVTec layout) should be ones the model was not
    trained on. All are run at FP32; a seeded half (near-duplicates on one side) gives mean, std and map quantiles, the
    other half the thresholds. Where the branch memory counts, a quarter of them is remembered first (more cells to choose
    from, or more images in its Gaussians), and the rest is halved. Weights, the Gaussian of composition, all other graphs
    and golden images stay; ``parent`` is the sha256 of the old file. ``out`` is a file or an existing folder; without it
    the child lies beside its parent as ``<name>-recalibrated-<n>.edgead``. Images that cannot be read are skipped and
    listed in the report. Raises BadInput for fewer than 10 readable normal images and bad targets, DeviceFault when the
    model gives scores that are not finite.
    """
    bundle = open_bundle(bundle_path)
    target = child_path(bundle, Path(out) if out is not None else None, "recalibrated", "recalibrate")
    choose_thresholds([0.0], target_ng, target_warn)  # bad targets are told before the work, not after it
    extends = _extends(bundle)
    learned, halves, skipped = _split(Path(normal_folder), seed, bundle.image_bits, remembered=0.25 if extends else 0.0)
    total, turn = len(learned) + sum(map(len, halves)), count(1)

    def count_one() -> None:
        if progress:
            progress(next(turn), total)

    reader = _Reader(bundle, skipped, count_one)
    graphs, references, remembered = _extended(bundle, learned, reader, seed) if extends else ({}, bundle.references, 0)
    with Pipeline(bundle, graphs=graphs, references=references, all_branches=True) as pipeline:
        measured = [_measure(pipeline, bundle, half, reader) for half in halves]
        golden = _golden(bundle, pipeline) if graphs else bundle.golden
    _enough(measured, reader, Path(normal_folder))
    statistics = _statistics(bundle, measured[0])
    thresholds = choose_thresholds(_scores(measured[1], statistics), target_ng, target_warn)
    # What the loop compares its camera with, as training does: the new normal images may show another camera or light.
    camera = camera_report([frame for half in measured for frame in half.frames][:MAPS_LIMIT], Path(normal_folder))
    child = replace(bundle.contents(), statistics=statistics, thresholds=thresholds, golden=golden)
    child = replace(child, graphs={**child.graphs, **graphs}, references=references)
    _write(bundle, target, child, measured=measured, reader=reader, seed=seed, camera=camera, remembered=remembered)
    return target


def _extends(bundle: Bundle) -> bool:
    """Whether new normal images are remembered: the bundle has a memory that says what it holds, and it counts."""
    memory = memory_graph(bundle.graphs)
    counts = any(memory in graphs_of(branch, bundle.graphs) for branch in bundle.statistics.active)
    reported = bundle.report.get(MEMORY, {})
    return counts and memory is not None and ("cells" in reported or _is_gaussian(bundle))


def _is_gaussian(bundle: Bundle) -> bool:
    reported = bundle.report.get(MEMORY, {})
    return reported.get("variant") == "gaussian" and "regions" in reported


def _extended(
    bundle: Bundle, paths: Sequence[Path], reader: _Reader, seed: int
) -> tuple[dict[str, bytes], References, int]:
    """Return the graph of the memory and the references with which it also knows the images in ``paths``, in as many cells
    or Gaussians as before, and how many of the images it knows.
    """
    name = memory_graph(bundle.graphs)
    assert name is not None
    (seen,) = GRAPHS[name].inputs
    features = []
    with Pipeline(bundle, all_branches=True) as pipeline:
        for path in paths:
            if read := reader.read(path):
                pipeline.infer(read[1].image)
                features.append(pipeline.tensor(seen)[0])
    if not features:
        return {}, bundle.references, 0
    graph, regions = bundle.graph(name), _regions(bundle)
    known = reference_values(name, graph, bundle.references)
    if _is_gaussian(bundle):
        values = _extend_gaussian(graph, known, np.stack(features), regions, images=_images_behind(bundle))
    else:
        values = _extend_banks(graph, known, np.stack(features), regions, seed=seed)
    graph, references = with_values(name, graph, bundle.references, values)
    return {name: graph}, references, len(features)


def _extend_banks(
    graph: bytes, known: Mapping[str, Array], features: Array, regions: Regions, *, seed: int
) -> dict[str, Array]:
    """Choose the remembered cells from those that are ``known`` and from cells of ``features`` f32 [N, C, h, w]."""
    whitening, offset = (_constant(graph, name) for name in MEMORY_CONSTANTS[:2])
    white = _whitened(features, whitening) + offset
    bank, norms = constants_of(extend(banks_of(_reference(known, "memory_bank")), white.astype(np.float32), regions, seed))
    return {"memory_bank": bank, "memory_norms": norms}


def _extend_gaussian(
    graph: bytes, known: Mapping[str, Array], features: Array, regions: Regions, *, images: int
) -> dict[str, Array]:
    """Join the ``known`` Gaussians, which are of ``images`` images, with those of ``features`` f32 [N, C, h, w]."""
    whitening = _constant(graph, GAUSSIAN_CONSTANTS[0])
    gaussian = _reference(known, "memory_mean")[0].transpose(1, 2, 0), _reference(known, "memory_roots")
    mean, roots = extend_cells(gaussian, images, _whitened(features, whitening), regions)
    return {"memory_mean": np.ascontiguousarray(mean.transpose(2, 0, 1)[None]), "memory_roots": roots}


def _reference(known: Mapping[str, Array], name: str) -> Array:
    if name not in known:
        raise BadInput(f"the graph {MEMORY!r} has no {name}: train the bundle again")
    return known[name]


def _images_behind(bundle: Bundle) -> int:
    """Return how many images the Gaussians are of. A bundle that does not say so learned from its ``fit`` images and moved
    copies of them, 128 at most.
    """
    if isinstance(images := bundle.report[MEMORY].get("images"), int):
        return images
    copies = bundle.contents().settings.get("token_augmentation", {}).get("copies", 0)
    return int(min(128, bundle.report.get("goods", {}).get("fit", 128) * (1 + copies)))


def _whitened(features: Array, whitening: Array) -> Array:
    return np.asarray(np.einsum("nchw,dc->nhwd", features, whitening[:, :, 0, 0]), np.float32)


def _constant(graph: bytes, name: str) -> Array:
    import onnx
    from onnx.numpy_helper import to_array

    tensors = onnx.load_model_from_string(graph).graph.initializer
    found = next((tensor for tensor in tensors if tensor.name == name), None)
    if found is None:
        raise BadInput(f"the graph {MEMORY!r} has no constant {name}: train the bundle again")
    return np.asarray(to_array(found), np.float32)


def _regions(bundle: Bundle) -> Regions:
    """Return the regions that the training reported."""
    try:
        values = bundle.report[MEMORY]["regions"]
        return Regions((*values["grid"],), (*values["size"],), values["overlap"])
    except (KeyError, TypeError) as error:
        raise BadInput(f"{bundle.path} does not report the regions of its memory: train it again") from error


def _golden(bundle: Bundle, pipeline: Pipeline) -> Golden:
    """Return the golden images with the scores of the new graph."""
    return Golden(bundle.golden.images, np.stack([pipeline.infer(image).raw for image in bundle.golden.images]))


def _split(
    folder: Path, seed: int, bits: int = 16, remembered: float = 0.0
) -> tuple[list[Path], tuple[list[Path], list[Path]], Skipped]:
    """Return a share of the normal images to remember, the halves of the others for normalising and for the thresholds,
    and what cannot be read.
    """
    result = load_dataset(folder, seed)
    skipped = list(result.skipped)
    warn_depth(result.bits, bits, folder)
    paths = sorted((*result.normal.fit, *result.normal.normalise, *result.normal.threshold))
    table, failed = thumbnails(paths, bits)
    skipped += [(paths[index], reason) for index, reason in sorted(failed.items())]
    groups = [[paths[index] for index in group if index not in failed] for group in near_duplicate_groups(table)]
    groups = [group for group in groups if group]
    total = sum(map(len, groups))
    wanted = max(0, min(int(remembered * total), total - MIN_NORMAL_IMAGES))
    normalise, threshold, learned = split_groups(groups, [(total - wanted) // 2, wanted], seed)
    return sorted(learned), (sorted(normalise), sorted(threshold)), skipped


def _measure(pipeline: Pipeline, bundle: Bundle, paths: Sequence[Path], reader: _Reader) -> Measured:
    raw: list[Array] = []
    tensors = dict(zip(MAPS, MAP_TENSORS, strict=True))
    maps: dict[str, list[Array]] = {branch: [] for branch in MAPS if branch in pipeline.branches}
    frames: list[FrameMeasure] = []
    measure = frame_measurer(bundle.geometry)
    for path in paths:
        read = reader.read(path)
        if read is None:
            continue
        image, prepared = read
        scores = pipeline.infer(prepared.image).raw
        _check_finite(scores, bundle, path)
        raw.append(scores.copy())
        if len(raw) <= MAPS_LIMIT:
            frames.append(measure(image, prepared))
            for branch, values in maps.items():
                values.append(pipeline.tensor(tensors[branch]).astype(np.float32))
    scores_of_all = np.array(raw, dtype=np.float32).reshape(-1, len(bundle.statistics.branches))
    return Measured(scores_of_all, maps, frames)


def _check_finite(scores: Array, bundle: Bundle, path: Path) -> None:
    for branch, score in zip(bundle.statistics.branches, scores, strict=True):
        if branch in bundle.statistics.active and not np.isfinite(score):
            raise DeviceFault(
                f"branch {branch!r} of {bundle.path} gives {score} for the good {path}, not a finite number; "
                "train the bundle again"
            )


def _enough(measured: Sequence[Measured], reader: _Reader, folder: Path) -> None:
    """Raise BadInput where most parts were not located, or too few images are left."""
    unlocated = reader.unlocated
    normal_count = sum(len(half.raw) for half in measured)
    if len(unlocated) > len(reader.poses):
        path, reason = unlocated[0]
        raise BadInput(
            f"{folder}: of {len(reader.poses) + len(unlocated)} normal images {len(unlocated)} have no part that the bundle's "
            f"geometry locates ({path.name}: {reason}); train again with these images"
        )
    if normal_count < MIN_NORMAL_IMAGES:
        without = f", {len(unlocated)} show no part that could be located" if unlocated else ""
        raise BadInput(
            f"{folder} holds {normal_count} readable good images ({len(reader.skipped)} cannot be read{without}); "
            f"at least {MIN_NORMAL_IMAGES} are needed, so add more"
        )


def _statistics(bundle: Bundle, measured: Measured) -> Statistics:
    mean, std = normalise_statistics(measured.raw)
    quantiles = bundle.statistics.quantiles.copy()
    for row, branch in enumerate(bundle.statistics.maps):
        if branch in measured.maps:
            quantiles[row] = map_quantiles(measured.maps[branch])
    return replace(bundle.statistics, mean=mean, std=std, quantiles=quantiles)


def _scores(measured: Measured, statistics: Statistics) -> Array:
    return fuse(measured.raw, statistics)[1]


def _write(
    bundle: Bundle,
    target: Path,
    child: BundleContents,
    *,
    measured: Sequence[Measured],
    reader: _Reader,
    seed: int,
    camera: dict[str, Any],
    remembered: int,
) -> None:
    normalise, threshold = (half.raw for half in measured)
    messages: dict[str, Any] = {
        "parent": bundle.sha256,
        "goods": {"normalise": len(normalise), "threshold": len(threshold)},
        "skipped": [{"file": path.name, "reason": reason} for path, reason in reader.skipped],
        "seed": seed,
        "thresholds": child.thresholds.describe(),
    }
    if remembered:
        messages["remembered"] = remembered
    if reader.unlocated:
        messages["unlocated"] = [{"file": path.name, "reason": reason} for path, reason in reader.unlocated]
    child = replace(
        child,
        geometry=_widened(child.geometry, reader.poses),
        parent=bundle.sha256,
        raw_scores={**bundle.raw_scores, "normalise": normalise, "threshold": threshold},
        report={**bundle.report, **camera, **_memory_report(bundle, remembered), "recalibration": messages},
    )
    write_bundle(target, child)


def _memory_report(bundle: Bundle, remembered: int) -> dict[str, Any]:
    """Return what the report says of a memory that has learned ``remembered`` images; the Gaussians count theirs."""
    if not (remembered and _is_gaussian(bundle)):
        return {}
    return {MEMORY: {**bundle.report[MEMORY], "images": _images_behind(bundle) + remembered}}


def _widened(geometry: Geometry | None, poses: Sequence[Pose]) -> Geometry | None:
    """Return the geometry with expected poses that take those of new normal images in."""
    if geometry is None or not poses:
        return geometry
    new = PoseRange.of(poses)
    return replace(geometry, expected=new if geometry.expected is None else geometry.expected.joined(new))


def reuse_engine(parent_path: Path, child: Bundle) -> str | None:
    """Make the parent's current engine that of ``child`` if it fits and passes; return a sentence, None without an engine."""
    try:
        parent = open_bundle(parent_path)
        current = engine_store.current(parent)
        if current is None or parent.path == child.path:
            return None
        reason = _take_over(parent, child, current)
    except EdgeAdError as error:
        current, reason = None, str(error)
    if current is not None and reason is None:
        images = len(child.golden.images)
        return f"engine: {current.backend} {current.precision} of the parent, proven again on {images} golden images"
    return f"no engine was taken over from the parent ({reason}); run `edge-ad build-engine`"


def _take_over(parent: Bundle, child: Bundle, current: engine_store.Current) -> str | None:
    """Copy, prove, and make current; return why not, and leave nothing then."""
    engine_store.copy(parent, child, current)
    try:
        reason = _refusal(child, current)
        if reason is None:
            engine_store.make_current(child, current.backend, current.precision)
            return None
    except BaseException:
        engine_store.remove(child, current)
        raise
    engine_store.remove(child, current)
    return reason


def _refusal(child: Bundle, current: engine_store.Current) -> str | None:
    with Pipeline(child, precision=current.precision, backend=current.backend) as engine:
        if current.precision != "int8":
            return None if compare(engine, child).accepted else "it is too far from the reference in the new scores"
        with Pipeline(child) as reference:
            return measure_gate(engine, reference, child).refused


REPORT = "rethreshold"
MAX_CHANGES = 100


def rethreshold(bundle_path: Path | str, warn: float, ng: float, reason: str = "", *, by: str = "") -> Path:
    """Write the child ``<name>-thresholds.edgead`` beside a bundle, with other thresholds, and return its path.

    Graphs, statistics and golden images stay, and the engine built for the parent serves the child. Thresholds set by
    hand promise no rate of normal images, so the counts of normal images are dropped. ``parent`` is the sha256 of the
    bundle that was trained or recalibrated; a child is changed in place, and ``report["rethreshold"]`` lists its
    changes (the last 100) with ``reason`` and ``by``. Raises BadInput for thresholds that are not finite or WARN above
    NG, and where the file cannot be written.
    """
    if not (math.isfinite(warn) and math.isfinite(ng)):
        raise BadInput(f"the thresholds are {warn:g} and {ng:g}: both must be finite numbers")
    bundle = open_bundle(bundle_path)
    now = bundle.thresholds
    changed = Thresholds(warn, ng, target_warn=now.target_warn, target_ng=now.target_ng)
    is_child = REPORT in bundle.report
    parent = bundle.parent if is_child and bundle.parent else bundle.sha256
    change = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "by": by,
        "reason": reason,
        "from": {"warn": now.warn, "ng": now.ng},
        "to": {"warn": warn, "ng": ng},
    }
    changes = [*bundle.report.get(REPORT, []), change][-MAX_CHANGES:]
    target = bundle.path if is_child else _target(bundle)
    child = replace(bundle.contents(), parent=parent, thresholds=changed, report={**bundle.report, REPORT: changes})
    current = _current_engine(bundle)
    write_bundle(target, child)
    if current is not None:
        _hand_over(bundle, target, current)
    return target


def _target(bundle: Bundle) -> Path:
    """Return the file of the child: the one that this bundle already has, else a new name."""
    numbers = ["", *(f"-{number}" for number in range(2, 1000))]
    paths = [bundle.path.with_name(f"{bundle.path.stem}-thresholds{number}{SUFFIX}") for number in numbers]
    return next(path for path in paths if not path.exists() or _is_child(path, bundle))


def _is_child(path: Path, bundle: Bundle) -> bool:
    try:
        result = open_bundle(path)
    except BadInput:
        return False
    return REPORT in result.report and result.parent == bundle.sha256


def _current_engine(bundle: Bundle) -> engine_store.Current | None:
    try:
        return engine_store.current(bundle)
    except BadInput:  # an engine of another bundle: it does not serve this one either
        return None


def _hand_over(bundle: Bundle, target: Path, current: engine_store.Current) -> None:
    """Let the engine of a bundle serve its child; with the same graphs and statistics its proof holds."""
    child = open_bundle(target)
    if child.path != bundle.path:
        engine_store.copy(bundle, child, current)
    engine_store.make_current(child, current.backend, current.precision)
