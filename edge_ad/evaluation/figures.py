"""Scores of a labelled test set, and the figures made of them: AUROC by kind and branch, AU-sPRO, intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.datasets import Kind, Saturation, TestItem
from edge_ad.data.images import Image, read_image, read_mask
from edge_ad.engines.offline import Workers
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.evaluation.spro import LIMITS, Channel, MapOfImage, au_spro
from edge_ad.events import Verdict
from edge_ad.geometry.cut_out import Transform
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import NotLocated
from edge_ad.geometry.region import Roi
from edge_ad.geometry.zones import AppliedZones
from edge_ad.scoring import BRANCHES, Statistics, Thresholds, fuse
from edge_ad.scoring.auroc import auroc, auroc_difference, auroc_interval, recall_at

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


class ImageResult(Protocol):
    """What one inference gives, as far as it matters here."""

    @property
    def raw(self) -> Floats: ...
    @property
    def score(self) -> float: ...
    @property
    def map(self) -> Floats: ...


class Judge(Protocol):
    """Whatever judges one image u8[H,W,3] of ``image_size`` and shows what it computed; the pipeline does."""

    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def branches(self) -> Sequence[str]: ...
    def infer(self, image: Image) -> ImageResult: ...
    def tensor(self, name: str) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class TestScores:
    """Per image: its item, ``raw`` f32[N,B], fused ``score`` f32[N], ``maps`` f32[h,w] each, ``sizes`` (H, W) of the
    file, and the ``logic`` maps f32[h,w], none when that branch was not computed.

    Where parts were located, ``transforms`` are the ways from file to cut-out, and ``unlocated`` the reasons by index of
    those images whose part was not: a run lets none of them pass, so their score is infinite, the worst, in every branch,
    and their maps, without any heat, find no defect. ``zones`` are the scores of sensitivity zones by name, image by image;
    ``roi`` is the region of each file that was judged, and ``sizes`` are those of the region.
    """

    __test__ = False

    items: tuple[TestItem, ...]
    raw: Floats
    score: Floats
    maps: tuple[Floats, ...]
    sizes: tuple[tuple[int, int], ...]
    logic: tuple[Floats, ...] = ()
    transforms: tuple[Transform | None, ...] = ()
    unlocated: Mapping[int, str] = field(default_factory=dict)
    zones: tuple[Mapping[str, float], ...] = ()
    roi: Roi | None = None

    def verdict(self, index: int, thresholds: Thresholds) -> Verdict:
        """Return the verdict on an image by its score and those of its zones; NG where its part was not located."""
        if index in self.unlocated:
            return "NG"
        return thresholds.verdict_of_part(float(self.score[index]), self.zones[index] if self.zones else {})

    def transform(self, index: int) -> Transform | None:
        """Return the way from the file of an image to its cut-out; None where the whole image was judged."""
        return self.transforms[index] if self.transforms else None

    @cached_property
    def lowest(self) -> float:
        """The least value of all maps: what counts as the heat around parts."""
        return min((float(one.min()) for one in self.maps), default=0.0)

    def of(self, kind: Kind) -> npt.NDArray[np.intp]:
        """Return the indices of the images of a kind."""
        return np.flatnonzero([item.kind == kind for item in self.items])


def judge_all(
    workers: Workers[Judge], items: Sequence[TestItem], progress: Progress | None = None, *, geometry: Geometry | None = None
) -> TestScores:
    """Return the scores of all ``items``, read a few at a time; ``progress`` is told how many of how many are done.

    ``geometry`` makes the inputs; without one images are squashed to those of the judges. Raises BadInput for an image that
    cannot be read, DeviceFault for a score or a map that is not finite; the first one of ``items`` is named.
    """
    geometry = geometry or Geometry.square(workers.first.image_size)
    judged: list[_Judged] = []
    for one in workers.map(items, partial(_read, geometry), partial(_judge, geometry.zones)):
        judged.append(one)
        if progress is not None:
            progress(len(judged), len(items))
    return _scores_of(items, judged, geometry.roi)


@dataclass(frozen=True, eq=False)
class _Read:
    """An item with its prepared input, or with the reason why its part was not located; ``size`` of the region (H, W)."""

    item: TestItem
    size: tuple[int, int]
    prepared: Prepared | NotLocated


@dataclass(frozen=True, eq=False)
class _Judged:
    """What is kept of one image; a ``reason`` and nothing else where its part was not located."""

    size: tuple[int, int]
    reason: str | None = None
    score: float = float("inf")
    raw: Floats | None = None
    map: Floats | None = None
    zones: Mapping[str, float] = field(default_factory=dict)
    transform: Transform | None = None
    logic: Floats | None = None


def _read(geometry: Geometry, item: TestItem) -> _Read:
    image = geometry.region_of(read_image(item.path, item.bits))
    return _Read(item, (image.shape[0], image.shape[1]), geometry.prepare(image))


def _judge(zones: AppliedZones | None, judge: Judge, read: _Read) -> _Judged:
    prepared = read.prepared
    if isinstance(prepared, NotLocated):
        return _Judged(read.size, prepared.reason)
    result = judge.infer(prepared.image)
    if not (np.isfinite(result.score) and np.isfinite(result.map).all()):
        raise DeviceFault(f"the score or map of {read.item.path} is not a finite number: the engine is faulty; rebuild it")
    return _Judged(
        read.size,
        score=result.score,
        raw=np.array(result.raw, np.float32),
        map=np.array(result.map, np.float32),
        zones={} if zones is None else zones.scores(result.map),
        transform=None if prepared.pose is None else prepared.transform,
        logic=np.array(judge.tensor("map_logic")[0, 0], np.float32) if "logic" in judge.branches else None,
    )


def _scores_of(items: Sequence[TestItem], judged: Sequence[_Judged], roi: Roi | None) -> TestScores:
    """Return the scores of all images; what was not located has no heat, and the worst score."""
    known = [one.map for one in judged if one.map is not None]
    lowest = min((float(one.min()) for one in known), default=0.0)
    blank = np.full(known[0].shape if known else (1, 1), lowest, np.float32)
    rows = [one.raw for one in judged if one.raw is not None]
    empty = np.zeros_like(rows[0]) if rows else np.zeros(len(BRANCHES), np.float32)
    raw = np.stack([empty if one.raw is None else one.raw for one in judged])
    logic = tuple(np.zeros((1, 1), np.float32) if one.logic is None else one.logic for one in judged)
    cut = any(one.transform is not None for one in judged)
    return TestScores(
        tuple(items), raw, np.array([one.score for one in judged], np.float32),
        tuple(blank if one.map is None else one.map for one in judged), tuple(one.size for one in judged),
        logic if any(one.logic is not None for one in judged) else (),
        tuple(one.transform for one in judged) if cut else (),
        {index: one.reason for index, one in enumerate(judged) if one.reason is not None},
        tuple(one.zones for one in judged), roi if judged else None,
    )  # fmt: skip


def read_channels(
    item: TestItem, size: tuple[int, int], saturation: Mapping[int, Saturation], roi: Roi | None = None
) -> list[Channel]:
    """Return the defect channels of an image, each u8 mask file one channel, at the ``size`` (H, W) of the image or its ``roi``.

    With ``saturation`` every mask must hold 0 and exactly one value that it knows; without, any value above 0 is the
    defect and all of it must be found. Raises BadInput for a mask that is unreadable, of another size, empty or of
    unknown value.
    """
    channels = []
    for path in item.masks:
        mask = read_mask(path, item.background)
        mask = mask if roi is None else roi.cut(mask)
        if mask.shape != size:
            raise BadInput(
                f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels "
                f"but its image {item.path} is {size[1]} x {size[0]}: a mask must have the size of its image"
            )
        pixels = mask > 0
        area = int(np.count_nonzero(pixels))
        if not area:
            raise BadInput(f"{path} marks no pixel: a mask must hold a defect, so take the file away or draw it")
        rule = Saturation(1.0, True)
        if saturation:
            values = np.unique(mask[pixels]).tolist()
            if len(values) != 1 or values[0] not in saturation:
                known = ", ".join(map(str, sorted(saturation)))
                message = ", ".join(map(str, values[:5]))
                raise BadInput(
                    f"{path} holds the values {message}: one of {known} is allowed, as defects_config.json lists them"
                )
            rule = saturation[values[0]]
        channels.append(Channel(pixels, saturated_area(rule, area)))
    return channels


def saturated_area(rule: Saturation, area: int) -> int:
    """Return how many of ``area`` pixels must be found for a defect to count as found, at least one."""
    return max(1, int(rule.threshold * area) if rule.relative else min(int(rule.threshold), area))


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
    *,
    computed: Sequence[str] = BRANCHES,
) -> dict[str, Any]:
    """Return every figure that needs image scores alone.

    A kind without images is None, and so is a mean missing a part, a branch that is not among the ``computed`` ones,
    and a subset without such a branch.
    """
    z = z_scores(scores, statistics)
    fused = {
        name: subset_score(z, statistics, [branch for branch in branches if branch in computed])
        for name, branches in SUBSETS.items()
    }
    fewer = {
        branch: subset_score(z, statistics, [other for other in statistics.branches if other != branch and other in computed])
        for branch in statistics.branches
    }
    columns = {branch: z[:, k] if branch in computed else None for k, branch in enumerate(statistics.branches)}
    without = fused["without_composition"]
    return {
        "image_auroc": with_mean(auroc_by_kind(scores, scores.score)),
        "auroc_without_composition": with_mean(auroc_by_kind(scores, without)),
        "branches": {branch: auroc_by_kind(scores, values) for branch, values in columns.items()},
        "weights": {branch: float(weight) for branch, weight in zip(statistics.branches, statistics.weight, strict=True)},
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
        "unlocated": {kind: sum(int(index) in scores.unlocated for index in scores.of(kind)) for kind in KINDS},
    }


def z_scores(scores: TestScores, statistics: Statistics) -> npt.NDArray[np.float32]:
    """Return z f32[N,B] of every branch; infinite for an image whose part was not located."""
    if len(scores.unlocated) == len(scores.items):
        return np.full((len(scores.items), len(statistics.branches)), np.inf, np.float32)
    z, _ = fuse(scores.raw, statistics)
    z[list(scores.unlocated)] = np.inf
    return z


def subset_score(
    z: npt.NDArray[np.float32], statistics: Statistics, branches: Sequence[str]
) -> npt.NDArray[np.float64] | None:
    """Return the scores f64[N] fused from some branches only, from ``z`` f32[N,B]; None for no branches.

    The bundle's weights of these branches are scaled to sum 1; where all of them are 0 the branches count equally.
    """
    chosen = np.array([branch in branches for branch in statistics.branches])
    if not chosen.any():
        return None
    weight = np.where(chosen, statistics.weight, 0.0).astype(np.float64)
    if not weight.any():
        weight = chosen.astype(np.float64)
    used = weight > 0
    return np.asarray(z[:, used].astype(np.float64) @ (weight[used] / weight.sum()))


def auroc_by_kind(scores: TestScores, values: npt.NDArray[Any] | None) -> Figures:
    """Return {"logical", "structural"}: the AUROC of ``values`` [N] against the normal images, None where there is
    nothing.
    """
    return {kind: None if values is None else auroc(*_sides(scores, values, kind)) for kind in ANOMALIES}


def above(scores: TestScores, kind: Kind, thresholds: Thresholds) -> dict[str, int]:
    """Return {"count", "warn_count", "of"}: the images of a kind that are NG, that are NG or WARN, and all of them.

    One whose part was not located does not pass, and counts as NG.
    """
    indices = [int(index) for index in scores.of(kind)]
    verdicts = [scores.verdict(index, thresholds) for index in indices]
    return {
        "count": verdicts.count("NG"),
        "warn_count": verdicts.count("NG") + verdicts.count("WARN"),
        "of": len(indices),
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
        channels = partial(read_channels, item, size, saturation, scores.roi)
        return MapOfImage(scores.maps[index], size, channels, scores.transform(index), scores.lowest)

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
    messages: dict[str, dict[str, float] | None] = {}
    for kind in ANOMALIES:
        interval = None
        if values is not None and less is None:
            interval = auroc_interval(*_sides(scores, values, kind), seed)
        elif values is not None and less is not None:
            interval = auroc_difference(_sides(scores, values, kind), _sides(scores, less, kind), seed)
        messages[kind] = None if interval is None else asdict(interval)
    return messages


def logic_figures(scores: TestScores) -> Figures:
    """Return {"logical", "structural", "mean"}: the mean over images with masks of ``mass_factor`` of the logic map.

    The map holds what stands out from normal images, so an image in which nothing does points nowhere and counts 0; 1
    is chance. None for a kind without masks, or when the branch was not computed.
    """
    result: Figures = {}
    for kind in ANOMALIES:
        factors = []
        for index in scores.of(kind) if scores.logic else ():
            item = scores.items[index]
            if item.masks:
                factors.append(mass_factor(np.maximum(scores.logic[index], 0.0), _in_view(scores, int(index))))
        result[kind] = float(np.mean(factors)) if factors else None
    return with_mean(result)


def suspect_masks(scores: TestScores) -> list[str]:
    """Return the images whose masks mark more than half of them while the fused map is lower there than elsewhere.

    Such a mask is likely to be inverted: 0 on the defect.
    """
    results = []
    for index, (item, heat) in enumerate(zip(scores.items, scores.maps, strict=True)):
        if not item.masks or index in scores.unlocated:
            continue
        defect = _in_view(scores, index)
        if 0.5 < defect.mean() < 1.0 and mass_factor(heat - heat.min(), defect) < 1.0:
            results.append(str(item.path))
    return results


def mass_factor(heat: Floats, defect: npt.NDArray[np.bool_]) -> float:
    """Return (share of the mass of ``heat`` f32 [h, w] >= 0 inside ``defect``) / (share of its area); 0 without mass.

    ``defect`` is bool [H, W]; a cell of the map that it covers in part counts by that part.
    """
    covered = cv2.resize(defect.astype(np.float32), heat.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float64)
    mass, area = float(heat.sum()), float(covered.mean())
    return float((heat * covered).sum()) / mass / area if mass > 0 and area > 0 else 0.0


def _in_view(scores: TestScores, index: int) -> npt.NDArray[np.bool_]:
    """Return the defects of an image, bool [H, W], as the networks saw it: in the cut-out where there is one."""
    defect, transform = union(scores.items[index]), scores.transform(index)
    return defect if transform is None else transform.mask_to_cut_out(defect.astype(np.uint8)) > 0


def union(item: TestItem) -> npt.NDArray[np.bool_]:
    """Return the pixels of all masks of an image, bool [H, W]."""
    masks = [read_mask(path, item.background) > 0 for path in item.masks]
    return np.asarray(np.logical_or.reduce(masks))
