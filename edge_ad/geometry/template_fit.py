"""Build a template from normal images: register all of them to one, average, and register again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.geometry.background import min_level
from edge_ad.geometry.foreground_fit import COMMON_SHARE
from edge_ad.geometry.matching import Grey, PatchMatch
from edge_ad.geometry.pose import Image, wrap
from edge_ad.geometry.template import Method, TemplateLocator, pose_of, structure_of

WORKING_DIAGONAL = 150.0
# Correlation below which an image does not show what the others show: of a mean, and of one image that stands for it.
COMMON, COMMON_WITH_ONE = 0.5, 0.3
INSET, OVERHANG = 0.12, 0.12
DISC = 0.62
MIN_SIDE = 16

Region = tuple[float, float, float, float]


def fit_template(images: Sequence[Image], names: Sequence[str], method: Method = "rigid", *, turn: float = 15.0,
                 region: Region | None = None) -> TemplateLocator:
    """Return the locator of what all ``images`` u8[H,W,3] show, at turns up to ``turn`` degrees from the reference's.

    The patch is ``region`` (left, top, right, bottom) of the first image, or the middle of the image that resembles all
    others most. Raises BadInput where the images have nothing in common, naming those that differ most.
    """
    size = (images[0].shape[0], images[0].shape[1])
    drawn = region is not None
    region = region or _middle(size, turn)
    level = _level(region, size)
    views = [structure_of(image, level) for image in images]
    mask = _mask(region, level, round_=not drawn and turn >= 180)
    locator = TemplateLocator(method, level, size, np.zeros(mask.shape, np.float32), mask,
                              (region[2] - region[0], region[3] - region[1]), 0.0, turn, 0.0, 0.02 if drawn else OVERHANG)
    reference = 0 if drawn else _medoid(views)
    locator = replace(locator, patch=_piece(views[reference], region, level, mask.shape))
    if not drawn:  # the frame is that of an image in the middle of all poses, which shows least of what others do not
        matches = [locator.matcher.find(view)[0] for view in views]
        _require_common(matches, names, COMMON_WITH_ONE)
        locator = replace(locator, patch=_piece(views[_middle_one(matches, turn)], region, level, mask.shape))
    for least in (COMMON_WITH_ONE, COMMON, COMMON):
        matches = [locator.matcher.find(view)[0] for view in views]
        _require_common(matches, names, least)
        locator = replace(locator, patch=_mean(locator, views, matches, least))
    return _bounded(locator, [locator.matcher.find(view)[0] for view in views], fixed_box=drawn)


def _middle_one(matches: Sequence[PatchMatch], turn: float) -> int:
    """Return which image shows the scene nearest to the median position and, where turns are few, angle."""
    places = np.array([match.matrix[:, 2] for match in matches])
    away = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    angles = np.array([wrap(match.angle) for match in matches])
    reach = float(np.median(np.linalg.norm(places - places.mean(axis=0), axis=1))) + 1.0
    spread = float(np.median(np.abs(angles - np.median(angles)))) + 0.5
    turned = np.zeros(len(matches)) if turn >= 180 else np.abs(angles - np.median(angles)) / spread
    poor = np.array([match.correlation < COMMON_WITH_ONE for match in matches])
    return int(np.argmin(away / reach + turned + 1e3 * poor))


def _middle(size: tuple[int, int], turn: float) -> Region:
    """Return the middle of an image that a shifted or turned part's image still shows."""
    high, wide = size
    if turn >= 180:
        side = DISC * min(size)
        return (wide - side) / 2, (high - side) / 2, (wide + side) / 2, (high + side) / 2
    return INSET * wide, INSET * high, (1 - INSET) * wide, (1 - INSET) * high


def _level(region: Region, size: tuple[int, int]) -> int:
    diagonal = math.hypot(region[2] - region[0], region[3] - region[1])
    level = math.floor(math.log2(diagonal / WORKING_DIAGONAL) + 0.5)
    level = max(0, level, min_level(size))
    if min(region[2] - region[0], region[3] - region[1]) / 2**level < MIN_SIDE:
        raise BadInput(f"the region {tuple(round(side) for side in region)} is too small to be found again: draw one of at least "
                       f"{MIN_SIDE * 2**level} pixels a side")
    return level


def _mask(region: Region, level: int, round_: bool) -> Image:
    wide, high = (max(2, round((region[2 + axis] - region[axis]) / 2**level)) for axis in (0, 1))
    mask = np.full((high, wide), 0 if round_ else 255, np.uint8)
    if round_:
        cv2.circle(mask, (wide // 2, high // 2), min(high, wide) // 2, 255, -1)
    return mask


def _piece(view: Grey, region: Region, level: int, shape: tuple[int, ...]) -> Grey:
    """Return the structure of a region, f32 of ``shape``."""
    left, top = (max(0, round(region[axis] / 2**level)) for axis in (0, 1))
    left, top = min(left, view.shape[1] - shape[1]), min(top, view.shape[0] - shape[0])
    return view[top : top + shape[0], left : left + shape[1]].copy()


def _medoid(views: Sequence[Grey]) -> int:
    """Return which view resembles the others most, in thumbnails."""
    small = np.stack([cv2.resize(view, (32, 32), interpolation=cv2.INTER_AREA).ravel() for view in views])
    small = small / (np.linalg.norm(small, axis=1, keepdims=True) + 1e-6)
    return int(np.argmax((small @ small.T).sum(axis=1)))


def _require_common(matches: Sequence[PatchMatch], names: Sequence[str], least: float) -> None:
    differ = sum(match.correlation < least for match in matches)
    if differ > (1 - COMMON_SHARE) * len(matches):
        worst = ", ".join(names[index] for index in sorted(range(len(matches)), key=lambda index: matches[index].correlation)[:3])
        raise BadInput(f"the images have nothing in common that can be found again: {differ} of {len(matches)} differ, most of "
                       f"all {worst}; sort them or draw anchors")


def _mean(locator: TemplateLocator, views: Sequence[Grey], matches: Sequence[PatchMatch], least: float) -> Grey:
    """Return the mean structure in the patch's frame, each view brought to the same contrast."""
    high, wide = locator.patch.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pieces = []
    for view, match in zip(views, matches, strict=True):
        if match.correlation >= least:
            matrix = match.matrix.copy()
            matrix[:, 2] -= matrix[:, :2] @ ((wide - 1) / 2, (high - 1) / 2)
            piece = cv2.warpAffine(view, matrix, (wide, high), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            pieces.append(piece / (float(piece.std()) + 1e-6))
    contrast = float(np.median([view.std() for view in views]))
    return np.asarray(np.mean(np.stack(pieces), axis=0) * contrast, np.float32)


def _bounded(locator: TemplateLocator, matches: Sequence[PatchMatch], fixed_box: bool) -> TemplateLocator:
    """Return the locator with its expected turns, its least correlation and the largest box that all images show."""
    correlations = np.array([match.correlation for match in matches])
    least = float(np.clip(0.5 * np.percentile(correlations, 5), 0.25, 0.8))
    common = [match for match in matches if match.correlation >= least]
    angles = np.array([wrap(match.angle) for match in common])
    if locator.turn < 180:
        middle = float((angles.max() + angles.min()) / 2)
        turn = min(locator.turn, float(np.ptp(angles)) / 2 * 1.2 + 5.0)
        locator = replace(locator, angle=middle, turn=turn)
    box = locator.box if fixed_box else _largest_box(locator, common)
    return replace(locator, min_correlation=least, box=box)


def _largest_box(locator: TemplateLocator, matches: Sequence[PatchMatch]) -> tuple[float, float]:
    """Return the largest box around the patch's middle that lies within nearly every image, of the images' proportions."""
    high, wide = locator.image_size
    if locator.turn >= 180:
        return locator.box

    def shown(share: float) -> float:
        poses = [pose_of(match, locator.level, (share * wide, share * high)) for match in matches]
        inside: NDArray[np.bool_] = np.array([pose.inside(locator.image_size) for pose in poses])
        return float(inside.mean())

    shares = np.arange(1.0, 1 - 2 * INSET, -0.01)
    return next(((float(share) * wide, float(share) * high) for share in shares if shown(share) >= 0.95), locator.box)


