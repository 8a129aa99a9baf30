"""A tolerance in a training: the preset that learns from disturbed copies, disturbed unseen normal images, and what each axis
costs.

Unseen normal images are disturbed in the frame of the camera before the part is located: what a locator takes away does
not reach the input. Copies to learn from are made of inputs, so where parts are located they vary in light, colour, blur
and noise by the tolerance, and in place as the preset says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import BundleContents
from edge_ad.camera.layout import LayoutChange
from edge_ad.camera.measure import FrameMeasure, frame_shown, layout_of
from edge_ad.camera.quality import QualityLimits
from edge_ad.camera.tolerance_limits import LimitLearner
from edge_ad.config import Config
from edge_ad.data.images import read_image
from edge_ad.data.tolerance import Disturbance, Tolerance
from edge_ad.deployment.zone_thresholds import zone_names, zone_scores
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import NotLocated
from edge_ad.presets.presets import Augmentation, Preset
from edge_ad.scoring import OperatingPoint, Thresholds, choose_operating_point, choose_thresholds, lies_above

Image = NDArray[np.uint8]
Scores = NDArray[np.float32]
RANDOM_AXIS = "random"  # all axes at once, drawn within the tolerance
RANDOM = 2  # draws from everything within the tolerance, of each image, beside the corners
MAX_FRAMES = 1500  # disturbed images that are scored, about a minute on a CPU core: of many normal images only some


def chosen_tolerance(settings: Config, preset: Preset, *, aligned: bool) -> Tolerance:
    """Return the tolerance that ``--tolerance`` says; else that of the preset with the axes that [tolerance] names.

    ``aligned`` says whether whole images are judged because their parts lie alike, which is what ``auto`` asks.
    """
    text = settings.train.tolerance
    if text is not None:
        return Tolerance.parse(text, aligned=aligned)
    table = settings.tolerance.model_dump(exclude_none=True)
    given = {name: f"{value:g}" if isinstance(value, (int, float)) else value for name, value in table.items()}
    return Tolerance.read(given, Tolerance.parse(preset.tolerance, aligned=aligned))


def with_tolerance(preset: Preset, tolerance: Tolerance, *, located: bool) -> Preset:
    """Return the preset whose copies of inputs move as widely as ``tolerance``, at least.

    Where it names light, colour, blur or noise, these come from it alone. Parts that are ``located`` move in their
    inputs as the preset says, whatever they do in the frame.
    """
    if not tolerance:
        return replace(preset, tolerance=tolerance.option)

    def widened(now: Augmentation) -> Augmentation:
        if located:
            return now
        turned, moved = max(now.rotate, tolerance.rotation), max(now.shift, tolerance.shift)
        return replace(now, rotate=turned, shift=moved, scale=max(now.scale, tolerance.scale))

    copies = widened(preset.token_augmentation)
    copies = replace(copies, gain=0.0) if tolerance.changes_look else copies
    return replace(
        preset, augmentation=widened(preset.augmentation), token_augmentation=copies, tolerance=tolerance.option
    )


class DisturbedImages:
    """Versions of unseen normal images as inputs u8 [H, W, 3], made one after the other: ``axes`` names those of each image.

    Each axis at its limits, then RANDOM draws. ``rows`` are the indices of the images used, all where their versions are at
    most MAX_FRAMES. A part that is not located in a disturbed frame counts as undisturbed; ``unlocated`` counts these.
    Turned and scaled ones are told by the layout of measured normal ``frames``, where parts are not located.
    """

    def __init__(
        self, paths: Sequence[Path], geometry: Geometry, bits: int, tolerance: Tolerance,
        *, seed: int, frames: Sequence[FrameMeasure] = (),
    ) -> None:  # fmt: skip
        self._corners = [(axis, one) for axis, many in tolerance.corners().items() for one in many]
        self.axes = (*(axis for axis, _ in self._corners), *[RANDOM_AXIS] * RANDOM) if tolerance else ()
        most = max(MAX_FRAMES // max(len(self.axes), 1), 1)
        self.rows = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), most)).round().astype(int))
        self.tolerance, self.unlocated = tolerance, 0
        self._paths, self._geometry, self._bits, self._seed = paths, geometry, bits, seed
        template = None if geometry.locates else layout_of(frames)
        self._learner = LimitLearner(tolerance, None if template is None else LayoutChange(template))

    @property
    def limits(self) -> QualityLimits | None:
        """What tells frames within the tolerance from those three times beyond it; None before the images were gone through,
        and where the tolerance speaks of nothing that is measured.
        """
        return self._learner.limits

    def __len__(self) -> int:
        return len(self.rows) * len(self.axes)

    def __iter__(self) -> Iterator[Image]:
        for place, row in enumerate(self.rows if self.axes else ()):
            rng = np.random.default_rng([self._seed, 17, int(row)])
            frame = self._geometry.region_of(read_image(self._paths[row], self._bits))
            drawn = [one for _, one in self._corners] + [self.tolerance.draw(rng) for _ in range(RANDOM)]
            plain = self._geometry.prepare(frame)
            assert not isinstance(plain, NotLocated)  # unseen normal images are those whose part was located
            shown = frame_shown(self._geometry, frame, plain)
            if place == self._learner.frames:  # gone through again, they are the same ones
                self._learner.add(frame, shown, np.random.default_rng([self._seed, 19, int(row)]), plain.transform.matrix)
            for one in drawn:
                yield self._geometry.without_ignored(one.degrade(self._moved(frame, plain.image, one), rng))

    def _moved(self, frame: Image, plain: Image, one: Disturbance) -> Image:
        if not one.moves:
            return plain
        prepared = self._geometry.prepare(one.move(frame))
        self.unlocated += isinstance(prepared, NotLocated)
        return plain if isinstance(prepared, NotLocated) else prepared.image


def tolerant_thresholds(
    scores: Scores,
    targets: tuple[float, float],
    axes: Sequence[str] = (),
    *,
    anomalies: Mapping[str, Scores] | None = None,
    point: OperatingPoint | None = None,
) -> Thresholds:
    """Return thresholds for the ``targets`` (NG, and WARN or NG) of normal images as they come within a tolerance.

    ``scores`` f32 [N, V] are those of each image undisturbed, then of its versions, whose ``axes`` [V - 1] say what
    disturbs them. New images lie above with the target rate at most (or the 1 / (N + 1) that so few support), as they were taken
    and in states drawn at random from the tolerance; with an axis at its limit, with twice that rate at most. To count an
    image by its highest version would promise more than twice as much as asked for. The operating ``point`` (that of the
    promise if None) is chosen between the undisturbed images and the scores of ``anomalies``; where the highest image lies
    alone and need not set NG, its versions, which lie as high, need not either.
    """
    if scores.shape[1] != 1 + len(axes):
        raise ValueError(f"{scores.shape[1]} versions need {scores.shape[1] - 1} axes, but there are {len(axes)}")
    point = point or OperatingPoint("promise")
    ng, warn = (_least(scores[:, 1:], target, axes) for target in targets)
    others = np.delete(scores, int(scores[:, 0].argmax()), axis=0)
    least_of_others = _least(others[:, 1:], targets[0], axes) if len(others) else ng
    return choose_operating_point(
        scores[:, 0], anomalies or {}, point, targets, least=(ng, warn), least_of_others=min(ng, least_of_others)
    )


def _least(versions: Scores, target: float, axes: Sequence[str]) -> float:
    """Return the least threshold that random states of ``versions`` [N, V] exceed at the ``target`` rate, or the one that so few
    images support, and each limit at twice it.

    The random states of all images are one sample: were those of an image alike, its quantile would be that of the images.
    (Dunn, Wasserman and Ramdas, Distribution-free prediction sets for two-layer hierarchical models, 2022.)
    """
    rate = max(target, 1 / (len(versions) + 1))
    limits = [versions[:, column] for column, axis in enumerate(axes) if axis != RANDOM_AXIS]
    least = [choose_thresholds(scores, *[min(2 * rate, 0.99)] * 2).ng for scores in limits]
    drawn = versions[:, [axis == RANDOM_AXIS for axis in axes]]
    if drawn.size:
        above = math.floor(rate * (len(drawn) + 1) + 1e-9) * drawn.shape[1]
        least.append(float(np.sort(drawn, axis=None)[-above]))
    return max(least, default=-math.inf)


def with_zone_thresholds(
    contents: BundleContents,
    unseen: Sequence[Image],
    disturbed: DisturbedImages | None,
    targets: tuple[float, float],
    *,
    stopped: int,
) -> BundleContents:
    """Return ``contents`` with thresholds for the ``targets`` of each sensitivity zone, as those of the whole image are made.

    ``unseen`` are inputs of normal images, those that training ``stopped`` by first: where these lie below the others they do
    not count. Without sensitivity zones nothing changes.
    """
    names = zone_names(contents)
    if not names:
        return contents
    rows = np.arange(len(unseen)) if disturbed is None else disturbed.rows
    plain = zone_scores(contents, (unseen[row] for row in rows.tolist()))
    axes = () if disturbed is None else disturbed.axes
    moved = {} if disturbed is None else zone_scores(contents, disturbed)
    zones = []
    for name in names:
        scores = np.concatenate([plain[name][:, None], *([moved[name].reshape(len(rows), -1)] if axes else [])], axis=1)
        first = int((rows < stopped).sum())
        scores = scores[first:] if lies_above(scores[:first, 0], scores[first:, 0]) else scores
        zones.append((name, tolerant_thresholds(scores, targets, axes)))
    return replace(contents, thresholds=replace(contents.thresholds, zones=tuple(zones)))


def cost_report(
    disturbed: DisturbedImages, scores: Scores, faint: Mapping[str, Scores], targets: tuple[float, float]
) -> dict[str, Any]:
    """Return what each axis costs: the NG threshold with it alone, and the recall that this loses of ``faint`` anomalies.

    ``scores`` f32 [N, V] are those of normal images, undisturbed first, then as ``disturbed.axes`` says; ``faint`` are
    those of synthetic anomalies by the share of their strength.
    """
    axes, plain = disturbed.axes, choose_thresholds(scores[:, 0], *targets).ng
    found = {share: _share_above(values, plain) for share, values in faint.items()}

    def row(ng: float) -> dict[str, Any]:
        lost = {share: round(found[share] - _share_above(values, ng), 4) for share, values in faint.items()}
        return {"ng": round(ng, 4), "recall_lost": lost}

    def alone(axis: str) -> float:
        columns = [index for index, name in enumerate(axes, 1) if name == axis]
        return tolerant_thresholds(scores[:, [0, *columns]], targets, [axis] * len(columns)).ng

    return {
        "limits": disturbed.tolerance.as_dict(),
        "images": len(scores),
        "versions": len(axes),
        "unlocated": disturbed.unlocated,
        "unseen": [] if disturbed.limits is None else list(disturbed.limits.unseen),
        "none": {"ng": round(plain, 4), "recall": {share: round(value, 4) for share, value in found.items()}},
        "axes": {axis: row(alone(axis)) for axis in dict.fromkeys(axes)},
        "all": row(tolerant_thresholds(scores, targets, axes).ng),
    }


def _share_above(scores: Scores, threshold: float) -> float:
    return float((scores > threshold).mean()) if len(scores) else 0.0
