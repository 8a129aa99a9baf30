"""From exported graphs to a finished bundle: the edge pipeline itself scores the normal images that its statistics come
from.

How trained networks err on normal images, where their settings want errors standardised.

Gaussians that allow for noise and for INT8 (ours): disturbed views of normal images, some in FP32 and some through
rounded graphs.

A Mahalanobis distance magnifies what normal images never show, and normal images in FP32 never show an error of
rounding. Learned from rounded views too, composition and surprise err less in INT8, and find synthetic anomalies no
worse.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.placement import DIALECTS
from edge_ad.bundle import Bundle, BundleContents, Golden, open_bundle, write_bundle
from edge_ad.bundle.graphs import CONSTANTS, FUSION, GRAPHS, LAVIT, MAP_TENSORS
from edge_ad.data.component_anomalies import family_of
from edge_ad.data.near_duplicates import near_duplicate_groups, thumbnail
from edge_ad.deployment.calibrate import CalibrateOptions, with_quantisation
from edge_ad.deployment.colour_match import colour_report
from edge_ad.deployment.int8 import derive_int8, measuring_backend, recipe_of
from edge_ad.deployment.lot import CENTRE, tapped
from edge_ad.deployment.validation_images import evenly, spread
from edge_ad.engines.offline import Workers, open_workers
from edge_ad.engines.pipeline import Pipeline
from edge_ad.export.graphs import export_fusion
from edge_ad.models.build import AnyTeacher
from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.presets.presets import FusionSettings, Preset
from edge_ad.scoring import (
    BRANCHES,
    LOGICAL_SPLIT,
    MAPS,
    OperatingPoint,
    Statistics,
    anomaly_scores,
    anomaly_split,
    choose_weights,
    cross_normalised,
    fit_gaussian,
    fuse,
    lies_above,
    map_quantiles,
    normalise_statistics,
    weighted,
)
from edge_ad.scoring.pooling import choose_top, highest_mean
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import Images, ScoringImages, with_faded
from edge_ad.training.loop import Arithmetic
from edge_ad.training.report import family_report
from edge_ad.training.tolerance import DisturbedImages, cost_report, tolerant_thresholds, with_zone_thresholds
from edge_ad.utils.progress import Progress

GOLDEN = 8


@dataclass(frozen=True)
class Scored:
    """Raw scores f32 [N, B] and the maps that have quantiles of every image, one array a map."""

    raw: NDArray[np.float32]
    maps: tuple[NDArray[np.float32], ...]

    def repooled(self, fusion: FusionSettings, maps: Collection[str]) -> Scored:
        """Return the same with the raw scores that ``fusion`` makes of the named ``maps``."""
        raw = self.raw.copy()
        for index, name in enumerate(MAPS):
            if name in maps:
                raw[:, BRANCHES.index(name)] = highest_mean(self.maps[index], fusion.top_of(name))
        return replace(self, raw=raw)

    @staticmethod
    def joined(parts: Sequence[Scored]) -> Scored:
        """Return the images of all ``parts``, one after the other."""
        maps = tuple(np.concatenate([part.maps[index] for part in parts]) for index in range(len(parts[0].maps)))
        return Scored(np.concatenate([part.raw for part in parts]), maps)


def blank_statistics(pooled: NDArray[np.float32]) -> Statistics:
    """Return statistics that leave raw scores as they are, with the Gaussian of the pooled features of normal images
    f32 [N, D].
    """
    centre, precision = fit_gaussian(pooled)
    return Statistics(
        quantiles=np.tile(np.array([0.0, 1.0], np.float32), (len(MAPS), 1)),
        centre=centre,
        precision=precision,
        mean=np.zeros(len(BRANCHES), np.float32),
        std=np.ones(len(BRANCHES), np.float32),
        weight=np.full(len(BRANCHES), 1 / len(BRANCHES), np.float32),
    )


@dataclass(frozen=True)
class Measured:
    """What the pipeline says of all images: of the unseen normal images that training stopped by (``normalise``) and
    of those that nothing used (``threshold``), of anomalies at full strength and at each of the FADES; and what the
    fusion read of the last image. ``disturbed`` are versions of unseen normal images within a tolerance, image by image;
    ``logical`` anomalies have one strength.
    """

    normalise: Scored
    threshold: Scored
    anomalies: Scored
    faded: Mapping[float, Scored]
    fusion_inputs: Mapping[str, NDArray[np.float32]]
    disturbed: Scored | None = None
    logical: Scored | None = None

    def shown(self) -> Scored:
        """Return the anomalies of all strengths, one after the other."""
        return Scored.joined([self.anomalies, *self.faded.values()])

    def unseen(self) -> Scored:
        """Return the normal images that no network learned from: those that training stopped by, then the others."""
        return Scored.joined([self.normalise, self.threshold])

    def kinds(self, of: tuple[str, ...]) -> tuple[str, ...]:
        """Return the kinds of ``shown`` for the kinds of the anomalies at full strength; a faint one is a kind of its own."""
        return with_faded(of, self.faded)

    def repooled(self, fusion: FusionSettings, maps: Collection[str]) -> Measured:
        """Return the same with the raw scores that ``fusion`` makes of the named ``maps``."""
        faded = {share: scored.repooled(fusion, maps) for share, scored in self.faded.items()}
        normalise, threshold = self.normalise.repooled(fusion, maps), self.threshold.repooled(fusion, maps)
        disturbed = None if self.disturbed is None else self.disturbed.repooled(fusion, maps)
        logical = None if self.logical is None else self.logical.repooled(fusion, maps)
        anomalies = self.anomalies.repooled(fusion, maps)
        return Measured(normalise, threshold, anomalies, faded, self.fusion_inputs, disturbed, logical)


@dataclass(frozen=True)
class Versions:
    """Unseen normal images with V versions each, the undisturbed one first: raw scores f32 [N, V, B], the same one after
    the other, and the ``rows`` of all unseen images that these are.
    """

    raw: NDArray[np.float32]
    flat: Scored
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, unseen: Scored, scored: Scored | None, disturbed: DisturbedImages | None) -> Versions:
        """Return all ``unseen`` images by themselves, or those that have ``disturbed`` versions with these."""
        if scored is None or disturbed is None:
            return cls(unseen.raw[:, None], unseen, np.arange(len(unseen.raw)))
        rows, versions = disturbed.rows, len(disturbed.axes)
        plain = Scored(unseen.raw[rows], tuple(maps[rows] for maps in unseen.maps))
        raw = np.concatenate([plain.raw[:, None], scored.raw.reshape(len(rows), versions, -1)], axis=1)
        return cls(raw, Scored.joined([plain, scored]), rows)

    def groups(self, groups: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return ``groups`` of unseen images as indices of these."""
        index_of = {int(row): index for index, row in enumerate(self.rows)}
        inside = ([index_of[index] for index in group if index in index_of] for group in groups)
        return [group for group in inside if group]

    def before(self, count: int) -> int:
        """Return how many of these are among the first ``count`` unseen images."""
        return int((self.rows < count).sum())


def finish_contents(
    contents: BundleContents,
    images: ScoringImages,
    scratch: Path,
    targets: tuple[float, float],
    *,
    point: OperatingPoint,
    preset: Preset,
    given: Collection[str] = (),
    seed: int,
    progress: Progress,
    disturbed: DisturbedImages | None = None,
) -> BundleContents:
    """Return ``contents`` with statistics, weights, thresholds, raw scores and golden images measured by the pipeline.

    ``contents`` carries the exported graphs with ``blank_statistics``; ``targets`` are the rates of normal images
    called NG and called WARN or NG, ``point`` the operating point. A preliminary bundle is written to ``scratch`` so
    that the very code of the edge does the scoring. How many of the highest cells of each map count is chosen then, but
    for what the user has ``given`` of the settings of ``preset`` (keys such as ``fusion.top``). With ``disturbed``
    versions of the unseen normal images statistics, weights and thresholds come from them too.
    """
    measured = _measured(contents, images, disturbed, scratch, progress=progress)
    contents, measured = _with_chosen_tops(contents, measured, images.kinds, preset, given=given, seed=seed, progress=progress)
    anomalies, shown = measured.anomalies, measured.shown()
    unseen, groups = measured.unseen(), _near_duplicates(images)
    versions = Versions.of(unseen, measured.disturbed, disturbed)
    z = cross_normalised(versions.raw, versions.groups(groups))
    kinds, labelled, logical = measured.kinds(images.kinds), not images.origins, measured.logical
    kinds, weighed = (kinds, shown) if logical is None else (kinds + images.logical_kinds, Scored.joined([shown, logical]))
    cells = [contents.references.inspected_cells(name) for name in MAPS]
    statistics = measure(contents.statistics, versions.flat, z, weighed, kinds=kinds, seed=seed, labelled=labelled, cells=cells)
    scores = _witnesses(weighted(z, statistics.weight), versions.before(len(measured.normalise.raw)), progress)
    golden = _golden(images, measured.threshold.raw, anomalies.raw)
    raw = {"normalise": measured.normalise.raw, "threshold": measured.threshold.raw, anomaly_split(1): anomalies.raw}
    raw |= {anomaly_split(share): scored.raw for share, scored in measured.faded.items()}
    raw |= {} if logical is None else {LOGICAL_SPLIT: logical.raw}
    axes = () if disturbed is None else disturbed.axes
    thresholds = tolerant_thresholds(scores, targets, axes, anomalies=anomaly_scores(raw, statistics), point=point)
    branches = branch_report(unseen.raw, anomalies.raw, shown.raw[len(anomalies.raw) :], statistics)
    counts = {"images": len(unseen.raw), "for_thresholds": len(scores), "groups": len(groups)}
    inspected = None if contents.geometry is None else contents.geometry.inspected
    report = {**contents.report, "branches": branches, "unseen": counts, **colour_report(images.fit, inspected)}
    if not labelled:
        report["families"] = family_report(unseen.raw, weighed.raw, kinds, statistics)
    if disturbed is not None:
        faint = {f"{share:g}": fuse(scored.raw, statistics)[1] for share, scored in measured.faded.items()}
        report["tolerance"] = cost_report(disturbed, scores, faint, targets)
    finished = replace(contents, statistics=statistics, thresholds=thresholds, raw_scores=raw, golden=golden, report=report)
    inputs = [*images.normalise, *images.threshold]
    return with_zone_thresholds(finished, inputs, disturbed, targets, stopped=len(images.normalise))


def _near_duplicates(images: ScoringImages) -> list[list[int]]:
    """Return the indices of all unseen normal images in groups of near-duplicates."""
    return near_duplicate_groups(np.stack([thumbnail(image) for part in (images.normalise, images.threshold) for image in part]))


def _witnesses(scores: NDArray[np.float32], stopped: int, progress: Progress) -> NDArray[np.float32]:
    """Return the scores [N, V] that may set thresholds: all, or without the first ``stopped`` where these lie below the others.

    Training stops where the ``stopped`` images err least, and weights and pooling are chosen on them, so that they may
    score lower than new ones; they may also show another state of the line than a validation folder.
    """
    if not lies_above(scores[:stopped, 0], scores[stopped:, 0]):
        return scores
    progress.log(
        f"{stopped} of the unseen normal images, those that training stopped by, score lower than the other "
        f"{len(scores) - stopped}: the thresholds come from the latter alone"
    )
    return scores[stopped:]


def _measured(
    contents: BundleContents, images: ScoringImages, disturbed: DisturbedImages | None, scratch: Path, *, progress: Progress
) -> Measured:
    write_bundle(scratch, contents)
    with open_workers(open_bundle(scratch), "onnxruntime", "fp32", all_branches=True) as workers:
        normalise = score_all(workers, images.normalise, "scoring normal images", progress)
        threshold = score_all(workers, images.threshold, "scoring threshold normal images", progress)
        anomalies = score_all(workers, images.anomalies, "scoring synthetic anomalies", progress)
        faded = _score_faded(workers, images, progress)
        logical = None
        if images.logical is not None and len(images.logical):
            logical = score_all(workers, images.logical, "scoring logical anomalies", progress)
        versions = None if disturbed is None else score_all(workers, disturbed, "scoring disturbed normal images", progress)
        workers.first.infer(images.threshold[0])
        inputs = {name: workers.first.tensor(name) for name in GRAPHS[FUSION].inputs if name not in CONSTANTS}
    scratch.unlink()
    return Measured(normalise, threshold, anomalies, faded, inputs, versions, logical)


def _score_faded(workers: Workers[Pipeline], images: ScoringImages, progress: Progress) -> dict[float, Scored]:
    """Return the scores of the synthetic anomalies at each of the FADES; none where defects are labelled."""
    message = "scoring anomalies at {:.0%} of their strength"
    return {share: score_all(workers, images.faded(share), message.format(share), progress) for share in images.shares}


def _with_chosen_tops(
    contents: BundleContents,
    measured: Measured,
    kinds: tuple[str, ...],
    preset: Preset,
    *,
    given: Collection[str],
    seed: int,
    progress: Progress,
) -> tuple[BundleContents, Measured]:
    """Return both with the numbers of highest cells that unseen normal images and anomalies support."""
    shown, all_kinds, fusion = measured.shown(), measured.kinds(kinds), preset.fusion
    choices = {
        name: choose_top(measured.normalise.maps[index], shown.maps[index], all_kinds, fusion.top_of(name), seed=seed)
        for index, name in enumerate(MAPS)
        if fusion.may_choose(name, given)
    }
    changed = {name: choice for name, choice in choices.items() if choice.top != choice.default}
    for name, choice in changed.items():
        gain = choice.aurocs[choice.top] - choice.aurocs[choice.default]
        progress.log(
            f"map {name}: the mean of its {choice.top} highest cells instead of {choice.default}, "
            f"AUROC {choice.aurocs[choice.top]:.3f} on synthetic anomalies and faded ones, {gain:.3f} more"
        )
    report = {**contents.report, "pooling": {name: choice.as_dict() for name, choice in choices.items()}}
    if not changed:
        return replace(contents, report=report), measured
    chosen = fusion.with_tops({name: choice.top for name, choice in changed.items()})
    zones = None if contents.geometry is None else contents.geometry.zones
    graph = export_fusion(chosen, contents.image_size, measured.fusion_inputs, zones)
    contents = replace(
        contents,
        graphs={**contents.graphs, FUSION: graph.model},
        settings=replace(preset, fusion=chosen).settings(),
        report=report,
    )
    return contents, measured.repooled(chosen, changed)


def measure(
    blank: Statistics, normal: Scored, z: NDArray[np.float32], anomalies: Scored,
    *, kinds: tuple[str, ...], seed: int, labelled: bool, cells: Sequence[NDArray[np.intp] | slice] = (slice(None),) * len(MAPS),
) -> Statistics:  # fmt: skip
    """Return mean, deviation, map quantiles and branch weights from unseen normal images and synthetic or ``labelled`` anomalies.

    ``z`` [N, V, B] are all versions of ``normal`` images, each image normalised by the others: what weights are chosen on.
    ``cells`` are those of every map that count.
    """
    mean, std = normalise_statistics(normal.raw)
    quantiles = np.array([_quantile_pair(maps[:, rows]) for maps, rows in zip(normal.maps, cells, strict=True)], np.float32)
    flat = replace(blank, mean=mean, std=std, quantiles=quantiles)
    shown = fuse(anomalies.raw, flat)[0]
    families = None if labelled else [family_of(kind) for kind in kinds]
    weight = choose_weights(
        z.reshape(-1, z.shape[-1]), shown, kinds, seed, images=len(z), families=families, labelled=labelled
    )
    return replace(flat, weight=weight)


def score_all(workers: Workers[Pipeline], images: Images | DisturbedImages, stage: str, progress: Progress) -> Scored:
    """Run every image through the pipelines, several side by side."""
    began = time.monotonic()
    raw, maps = [], []
    for scores, own in workers.map(images, lambda image: image, _scores_and_maps):
        raw.append(scores)
        maps.append(own)
        progress.step(stage, len(raw), len(images), began)
    stacked = tuple(np.stack([row[index] for row in maps]) for index in range(len(MAP_TENSORS)))
    return Scored(np.stack(raw).astype(np.float32), stacked)


def _scores_and_maps(pipeline: Pipeline, image: Images) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    raw = pipeline.infer(image).raw
    return raw, [pipeline.counted_map(name) for name in MAP_TENSORS]


def branch_report(
    normal: NDArray[np.float32], anomalies: NDArray[np.float32], faded: NDArray[np.float32], statistics: Statistics
) -> dict[str, dict[str, Any]]:
    """Return weight and AUROC of each branch on unseen normal images against synthetic anomalies, and against faded
    ones.
    """
    from edge_ad.scoring.auroc import auroc

    def against(index: int, results: NDArray[np.float32]) -> float | None:
        value = auroc(normal[:, index], results[:, index])
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


def _golden(frames: ScoringImages, normal: NDArray[np.float32], anomalies: NDArray[np.float32]) -> Golden:
    """Keep a few threshold normal images and anomalies, spread over the set, as proof data."""
    half = GOLDEN // 2
    good, bad = evenly(len(normal), half), evenly(len(anomalies), half)
    images = np.concatenate([frames.threshold[good], frames.anomalies[bad]])
    return Golden(images, np.concatenate([normal[good], anomalies[bad]]))


MAX_NORMAL_IMAGES = 128  # each gives hundreds of cells
CHUNK = 16


def learn_tokenizer_errors(tokenizer: HvqTokenizer, tokens: Tensor, arithmetic: Arithmetic, tiles: int = 1) -> None:
    """Tell a trained tokenizer how it draws tokens f32 (N, C, h, w) of learned normal images, or of the ``tiles`` of each;
    nothing where it need not know.
    """
    images = evenly(len(tokens) // tiles, max(1, MAX_NORMAL_IMAGES // tiles))
    chosen = tokens[[image * tiles + tile for image in images for tile in range(tiles)]]
    tokenizer.eval().learn_errors(_parts(chosen, arithmetic), tiles)


def _parts(tokens: Tensor, arithmetic: Arithmetic) -> list[Tensor]:
    return [tokens[start : start + CHUNK].to(arithmetic.device) for start in range(0, len(tokens), CHUNK)]


def learn_student_errors(
    model: EfficientAD, teacher: AnyTeacher, normal_images: Images, arithmetic: Arithmetic, *, tiles: int = 1
) -> None:
    """Tell a trained EfficientAD how its student errs on learned normal images u8 [N, H, W, 3], or on the ``tiles`` of each;
    nothing where it need not know.
    """

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        by_image = normal_images.reshape(-1, tiles, *normal_images.shape[1:])
        chosen = spread(by_image, max(1, MAX_NORMAL_IMAGES // tiles)).reshape(-1, *normal_images.shape[1:])
        for start in range(0, len(chosen), CHUNK):
            pixels = to_pixels(chosen[start : start + CHUNK], arithmetic.device)
            with torch.no_grad():
                yield pixels, teacher(pixels).features

    model.eval().learn_errors(pairs(), tiles)


TURNS = (None, *DIALECTS)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Described:
    """What the Gaussians learn from: pooled features f32 [N, D] of normal images, and their surprise f32 [N, E] where
    it has one.
    """

    pooled: Array
    surprise: Array | None

    def joined(self, other: Described) -> Described:
        """Return both."""
        surprise = self.surprise
        if surprise is not None and other.surprise is not None:
            surprise = np.concatenate([surprise, other.surprise])
        return Described(np.concatenate([self.pooled, other.pooled]), surprise)


def learn_quantization_statistics(
    contents: BundleContents,
    exact: Described,
    images: ScoringImages,
    views: Images,
    *,
    scratch: Path,
    options: CalibrateOptions,
    progress: Progress,
) -> tuple[BundleContents, CalibrateOptions]:
    """Return ``contents`` with Gaussians of ``exact`` normal images and of ``views`` u8 [N, H, W, 3], and ``options``
    with the bias corrections that were measured on the way; both as they are without views.
    """
    if not len(views):
        return contents, options
    calibrated = with_quantisation(contents, scratch, images.fit, images.threshold, options=options, report=progress.log)
    assert calibrated.quantisation is not None
    write_bundle(scratch, calibrated)
    described = exact.joined(describe_views(open_bundle(scratch), views, progress))
    scratch.unlink()
    references = contents.references
    if described.surprise is not None:
        centre, precision = fit_gaussian(described.surprise)
        references = replace(references, surprise_centre=centre, surprise_precision=precision)
    result = replace(contents, references=references, statistics=blank_statistics(described.pooled))
    return result, replace(options, corrections=calibrated.quantisation.plan["corrections"])


def describe_views(bundle: Bundle, views: Images, progress: Progress) -> Described:
    """Describe ``views`` by the graphs of a calibrated bundle: a third in FP32, a third by each dialect of INT8."""
    recipe, began = recipe_of(bundle), time.monotonic()
    surprising = bundle.references.surprise_centre is not None
    pooled: list[Array] = []
    surprise: list[Array] = []
    for turn, target in enumerate(TURNS):
        graphs = {} if target is None else derive_int8(bundle, recipe, target)
        if surprising:
            graphs[LAVIT], outputs = tapped(graphs.get(LAVIT) or bundle.graph(LAVIT), CENTRE)
        backend = measuring_backend(graphs.values())
        with Pipeline(bundle, backend=backend, graphs=graphs, all_branches=True) as pipeline:
            for view in views[turn :: len(TURNS)]:
                pipeline.infer(view)
                pooled.append(pipeline.tensor("pooled")[0])
                if surprising:
                    surprise.append(pipeline.tensor(outputs[CENTRE]))
                progress.step("views", len(pooled), len(views), began)
    return Described(np.stack(pooled), np.stack(surprise) if surprise else None)
