"""Ranges of every graph, a plan of what stays in floating point, and proof images: what INT8 needs, into a bundle."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.bias_correction import Corrections
from calibration.collect import Collector
from calibration.placement import ALL, DIALECTS, Plan
from calibration.ranges import Ranges
from edge_ad.bundle import Bundle, BundleContents, Quantisation, child_path, open_bundle, write_bundle
from edge_ad.bundle.graphs import FP32_GRAPHS, GRAPHS, IMAGE, bound_constants
from edge_ad.config import CalibrateTable
from edge_ad.data.datasets import DataSet, load_dataset
from edge_ad.data.exclusions import LIST_NAME, entry_of, exclusions_text, shown
from edge_ad.data.images import read_image
from edge_ad.deployment.int8 import SCHEMA, Recipe, parse_plans, read_plan
from edge_ad.deployment.precision_search import CORRECTED, Search, Searcher
from edge_ad.deployment.validation_images import evenly, make_validation_images, spread
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.geometry.pose import NotLocated

VALIDATION_IMAGES = 32  # normal images that travel in the bundle to prove engines on
SEARCHED = 12  # of those, the normal images that the plan is chosen on
FEWEST = 10

Images = NDArray[np.uint8]
Report = Callable[[str], None]


@dataclass(frozen=True)
class CalibrateOptions:
    """The settings, and what a training decides beside them.

    Without ``search`` a plan that no file gives keeps the graphs of ``keep`` whole in floating point, and
    ``corrections``, by dialect and graph, are those that were measured before.
    """

    settings: CalibrateTable = CalibrateTable()
    search: bool = True
    keep: tuple[str, ...] = ()
    corrections: dict[str, dict[str, Corrections]] | None = None


def calibrate(
    bundle_path: Path | str,
    normal: Path | str,
    out: Path | str | None = None,
    options: CalibrateOptions | None = None,
    *,
    report: Report = lambda text: None,
) -> tuple[Path, dict[str, Search]]:
    """Write a child of a bundle with INT8 ranges and a plan measured on a folder of normal images; return its path and
    searches.

    ``normal`` is read like a training folder; the images that training held back prove the engine. Networks, statistics
    and thresholds stay. ``out`` is a file or an existing folder; without it the child lies beside its parent as
    ``<name>-calibrated-<n>.edgead``. Raises BadInput for fewer than 10 readable normal images and bad options.
    """
    chosen = options or CalibrateOptions()
    bundle = open_bundle(bundle_path)
    target = child_path(bundle, Path(out) if out is not None else None, "calibrated", "calibrate")
    if chosen.settings.plan is not None:
        read_plan(chosen.settings.plan)  # refused before minutes of reading and measuring
    result = _dataset(bundle, Path(normal), chosen.settings.seed)
    seen = _read([*result.normal.fit, *result.normal.normalise], chosen.settings.images, bundle)
    held_back = _read(result.normal.threshold, VALIDATION_IMAGES, bundle)
    if len(seen) + len(held_back) < FEWEST:
        located = " with a part that can be located" if bundle.geometry.locates else ""
        raise BadInput(
            f"{normal} holds {len(seen) + len(held_back)} readable normal images{located}, but {FEWEST} are needed; add more"
        )
    validation = held_back if len(held_back) else spread(seen, VALIDATION_IMAGES)
    quantisation, searches = measure(bundle, seen, validation, chosen, report=report)
    write_bundle(target, replace(bundle.contents(), parent=bundle.sha256, quantisation=quantisation))
    return target, searches


def _dataset(bundle: Bundle, normal: Path, seed: int) -> DataSet:
    """Return the normal images in a folder, split as the training split them: without those that it excluded, where it is the
    folder of the training. Another one, with other images of these names, has another count.
    """
    result, excluded = load_dataset(normal, seed), set(bundle.report.get("excluded") or ())
    every = (*result.normal.fit, *result.normal.normalise, *result.normal.threshold)
    entries = [entry for path in every if shown(entry := entry_of(path, result.root)) in excluded]
    if not entries or len(every) != sum(bundle.report.get("goods", {}).values()) + len(excluded):
        return result
    logging.getLogger(__name__).warning("left out %d images of %s that the training excluded", len(entries), normal)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / LIST_NAME
        listed.write_bytes(exclusions_text(entries, (), of=len(every)))
        return load_dataset(normal, seed, listed)


def with_quantisation(
    contents: BundleContents, scratch: Path, normal_images: Images, validation: Images, *, options: CalibrateOptions, report: Report
) -> BundleContents:
    """Return ``contents`` calibrated on ``normal_images`` and with ``validation``, both u8 [N, H, W, 3]; ``scratch`` is
    written and removed.
    """
    write_bundle(scratch, contents)
    try:
        seen, held_back = spread(normal_images, options.settings.images), spread(validation, VALIDATION_IMAGES)
        quantisation, _ = measure(open_bundle(scratch), seen, held_back, options, report=report)
    finally:
        scratch.unlink(missing_ok=True)
    return replace(contents, quantisation=quantisation)


def measure(
    bundle: Bundle,
    normal_images: Images,
    validation: Images,
    options: CalibrateOptions,
    *,
    report: Report = lambda text: None,
) -> tuple[Quantisation, dict[str, Search]]:
    """Return ranges measured on ``normal_images`` and a plan chosen on images made from ``validation``, with the
    searches by dialect.
    """
    edited = None if options.settings.plan is None else read_plan(options.settings.plan)
    ranges = measure_ranges(bundle, normal_images, options, report)
    searches: dict[str, Search] = {}
    if edited is None and options.search:
        searches = _search(bundle, Recipe(ranges, {}), validation, options, report=report)
    plan = plan_of(bundle, ranges, searches, options) if edited is None else edited
    if not searches:
        plan = {**plan, "corrections": options.corrections or _corrections(bundle, ranges, normal_images, plan)}
    return Quantisation({name: tensor_range.to_json() for name, tensor_range in ranges.items()}, plan, validation), searches


def measure_ranges(
    bundle: Bundle, normal_images: Images, options: CalibrateOptions, report: Report = lambda text: None
) -> dict[str, Ranges]:
    """Run every graph but the fusion over ``normal_images`` u8 [N, H, W, 3] in one pass and return its ranges by name.
    """
    names = [name for name in GRAPHS if name in bundle.graphs and name not in FP32_GRAPHS]
    collectors = {name: Collector(bundle.graph(name)) for name in names}
    constants = bound_constants(bundle.masks, bundle.statistics, bundle.references.arrays())
    try:
        for number, image in enumerate(normal_images):
            known: dict[str, NDArray[Any]] = {IMAGE: image[None], **constants}
            for collector in collectors.values():
                known.update(collector.update({name: known[name] for name in collector.inputs}))
            if number % 16 == 15 or number + 1 == len(normal_images):
                report(f"ranges: {number + 1} of {len(normal_images)} normal images")
        return {name: current.ranges(options.settings.method, options.settings.percentile) for name, current in collectors.items()}
    except ValueError as error:
        raise DeviceFault(f"the ranges of {bundle.path} cannot be measured: {error}") from error


def plan_of(
    bundle: Bundle, ranges: Mapping[str, Ranges], searches: Mapping[str, Search], options: CalibrateOptions
) -> dict[str, Any]:
    """Return the plan as a JSON object: nodes kept by graph and dialect, and what was measured for it."""
    graphs = {}
    for name in ranges:
        whole = name in options.keep and not searches
        keep: dict[str, tuple[str, ...]] = dict.fromkeys(DIALECTS, (ALL,)) if whole else {}
        for result in searches.values():
            keep.update(result.plans[name].keep if name in result.plans else {})
        graphs[name] = Plan(bundle.graph_sha256(name), keep).to_json()
    measured = {target: sensitivity_json(result) for target, result in searches.items()}
    biases = {target: dict(result.corrections) for target, result in searches.items()}
    messages = {"schema": SCHEMA, "max_flip": options.settings.max_flip, "graphs": graphs}
    return {**messages, "sensitivity": measured, "corrections": biases}


def sensitivity_json(search: Search) -> dict[str, Any]:
    """Return what a search measured as plain values."""
    score = search.loss.rows[-1]
    return {
        "passed": search.passed,
        "images": search.loss.images,
        "score_rms_z": score.rms if np.isfinite(score.rms) else None,
        "expected_flips": search.loss.expected,
        "auroc_change": search.loss.auroc_change,
        "units": [
            {
                "graph": cost.unit.graph,
                "nodes": list(cost.unit.nodes),
                "macs": cost.unit.macs,
                "loss_z": cost.loss if np.isfinite(cost.loss) else None,
                "flips": cost.flips,
                "kept": cost.unit in search.in_float,
            }
            for cost in search.costs
        ],
    }


def _search(bundle: Bundle, recipe: Recipe, validation: Images, options: CalibrateOptions, *, report: Report) -> dict[str, Search]:
    images = make_validation_images(
        spread(validation, SEARCHED), copies=1, anomalies=2, seed=options.settings.seed + 1, geometry=bundle.geometry
    )
    results = {}
    with Pipeline(bundle) as pipeline:
        for target in DIALECTS:
            results[target] = Searcher(bundle, recipe, target, images, pipeline=pipeline).search(options.settings.max_flip, report)
    return results


def _corrections(
    bundle: Bundle, ranges: Mapping[str, Ranges], normal_images: Images, plan: dict[str, Any]
) -> dict[str, dict[str, Corrections]]:
    """Return by dialect and graph the bias corrections that fit a plan which nothing was searched for."""
    plans = {name: graph_plan for name, graph_plan in parse_plans(plan, "the plan").items() if name in ranges}
    images = make_validation_images(spread(normal_images, CORRECTED), copies=0, anomalies=0)
    with Pipeline(bundle, all_branches=True) as pipeline:
        recipe = Recipe(ranges, plans)
        return {
            target: Searcher(bundle, recipe, target, images, pipeline=pipeline).corrections(plans) for target in DIALECTS
        }


def _read(paths: Sequence[Path], maximum: int, bundle: Bundle) -> Images:
    """Read at most ``maximum`` images, evenly spread, as inputs; those that cannot be read or located are skipped."""
    picked = [paths[i] for i in evenly(len(paths), maximum)]
    images = []
    for path in picked:
        try:
            prepared = bundle.geometry.prepare(bundle.geometry.region_of(read_image(path, bundle.image_bits)))
        except BadInput:
            continue
        if isinstance(prepared, NotLocated):
            logging.getLogger(__name__).warning("left out %s: %s", path, prepared.reason)
        else:
            images.append(prepared.image)
    return np.stack(images) if images else np.zeros((0, *bundle.image_size, 3), np.uint8)
