"""Learn outline and surface of a part from normal images in which it stands out from the background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.geometry.background import learn_background, min_level, reduce
from edge_ad.geometry.foreground import ROUND, ForegroundLocator, View, correlation, view_of
from edge_ad.geometry.outline import MARGIN, Match, Outline, centroid, outline_of, signed_distance
from edge_ad.geometry.pose import Image, Points, mean_angle, rotation, wrap

WORKING_DIAGONAL = 130.0
MIN_DIAGONAL = 24.0
COMMON_RESIDUAL = 0.25
COMMON_SHARE = 0.8
ALIKE = 0.1
# Enough for a mean outline; more images only take time.
MAX_AVERAGED = 24
UPRIGHT_SPREAD = 30.0


@dataclass(frozen=True)
class _Sample:
    """A view of a normal image, which of its pieces is the part, and the image's name."""

    view: View
    name: str

    @cached_property
    def contour(self) -> Points:
        return self.view.edge(0)


def fit_foreground(images: Sequence[Image], names: Sequence[str], *, empty: Sequence[Image] = (),
                   allow_scale: bool = False) -> ForegroundLocator:
    """Return the locator of the part that all ``images`` u8[H,W,3] show; ``empty`` are images of the empty station.

    Raises BadInput where no part stands out or where the images have no part in common, naming those that differ most.
    """
    level = _level(images, empty)
    background = learn_background([reduce(image, level) for image in images], [reduce(image, level) for image in empty])
    views = [view_of(image, background, level) for image in images]
    samples = [_Sample(view, name) for view, name in zip(views, names, strict=True)
               if view.contours and not view.cut_off(view.contours[0])]
    if len(samples) < max(1, math.ceil(COMMON_SHARE * len(images))):
        raise BadInput(f"a whole part stands out from the background in {len(samples)} of {len(images)} images only")
    medoid = _medoid(samples)
    reference = _reference(medoid)
    locator = ForegroundLocator(background, level, (images[0].shape[0], images[0].shape[1]), reference.field,
                                _empty_surface(reference), reference.origin, (1.0, 1.0), 1, allow_scale)
    locator = replace(locator, surface=locator.seen(medoid.view, _identity(medoid)))
    for _ in range(2):
        locator = _averaged(locator, samples)
    return _framed(locator, samples)


def _level(images: Sequence[Image], empty: Sequence[Image]) -> int:
    """Return how often images are halved so that the part's diagonal is near WORKING_DIAGONAL."""
    first = max(0, math.ceil(math.log2(max(images[0].shape[:2]) / 512)))
    small = [reduce(image, first) for image in images[:24]]
    background = learn_background(small, [reduce(image, first) for image in empty])
    diagonals = []
    for image in small:
        view = view_of(image, background, 0)
        if view.contours:
            diagonals.append(float(np.linalg.norm(np.ptp(view.contours[0], axis=0))))
    diagonal = float(np.median(diagonals)) if diagonals else 0.0
    if diagonal < 6:
        raise BadInput("no part stands out from the background")
    level = first + math.floor(math.log2(diagonal / WORKING_DIAGONAL) + 0.5)
    level = max(0, level, min_level((images[0].shape[0], images[0].shape[1])))
    if diagonal * 2.0 ** (first - level) < MIN_DIAGONAL:
        raise BadInput("the part is too small in the images to be located by its outline: come nearer or set a region")
    return level


def _medoid(samples: Sequence[_Sample]) -> _Sample:
    areas = np.array([sample.view.areas[0] for sample in samples])
    return samples[int(np.argmin(np.abs(areas - np.median(areas))))]


def _reference(sample: _Sample) -> Outline:
    """Return the outline of a sample, in a frame whose origin is its centroid."""
    contour = sample.contour
    middle = centroid(contour)
    reach = math.ceil(float(np.linalg.norm(contour - middle, axis=1).max()) * (1 + 2 * MARGIN)) + 4
    mask = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    fixed = np.rint((contour - middle + reach) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_8, 4)
    return outline_of(mask, (float(reach), float(reach)))


def _identity(sample: _Sample) -> Match:
    shift = -centroid(sample.contour)
    return Match(np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]]), 0.0, 1.0, 1.0)


def _empty_surface(outline: Outline) -> Image:
    return np.zeros(outline.field.shape, np.uint8)


def _match(locator: ForegroundLocator, sample: _Sample) -> Match:
    matches = locator.outline.register(sample.contour, scale=locator.allow_scale)
    return locator.best_by_surface(sample.view, matches)


def _averaged(locator: ForegroundLocator, samples: Sequence[_Sample]) -> ForegroundLocator:
    """Return the locator with the mean outline and surface of all samples that agree with it."""
    matches = [_match(locator, sample) for sample in samples]
    agree = [match.residual <= COMMON_RESIDUAL for match in matches]
    if sum(agree) < COMMON_SHARE * len(samples):
        worst = sorted(range(len(samples)), key=lambda index: -matches[index].residual)[:3]
        names = ", ".join(samples[index].name for index in worst)
        raise BadInput(f"the images have no part in common: {len(samples) - sum(agree)} of {len(samples)} differ in outline, "
                       f"most of all {names}; sort them or draw anchors")
    fields: list[NDArray[np.float32]] = []
    surfaces: list[Image] = []
    for match, sample, good in zip(matches, samples, agree, strict=True):
        if good and len(fields) < MAX_AVERAGED:
            fields.append(_field_in_frame(locator, sample, match))
            surfaces.append(locator.seen(sample.view, match))
    # The median outlasts single specks that touch a part.
    mean_field = np.median(np.stack(fields), axis=0)
    field = signed_distance(np.asarray(mean_field < 0, np.uint8))
    near = np.abs(mean_field) < 3
    field[near] = mean_field[near]
    surface = np.rint(np.mean(np.stack(surfaces), axis=0, dtype=np.float32)).astype(np.uint8)
    return replace(locator, field=np.asarray(field, np.float32), surface=surface)


def _field_in_frame(locator: ForegroundLocator, sample: _Sample, match: Match) -> NDArray[np.float32]:
    """Return the signed distance of a sample's own contour in the frame."""
    contour = sample.contour @ match.matrix[:, :2].T + match.matrix[:, 2] + locator.origin
    fine = 4
    mask = np.zeros((locator.field.shape[0] * fine, locator.field.shape[1] * fine), np.uint8)
    # fillPoly takes whole numbers for centres of pixels; those of the fine grid lie at (u + 0.5) / fine - 0.5.
    fixed = np.rint(((contour + 0.5) * fine - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_8, 4)
    small = cv2.resize(signed_distance(mask), locator.field.shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(small / fine, np.float32)


def _framed(locator: ForegroundLocator, samples: Sequence[_Sample]) -> ForegroundLocator:
    """Return the locator in its final frame: the box of least area, upright, its middle at the origin."""
    matches = [_match(locator, sample) for sample in samples]
    symmetry = _symmetry(locator, samples, matches)
    points = locator.outline.points
    (x, y), (width, height), box_turn = cv2.minAreaRect(points.astype(np.float32))
    width, height = width + 1.0, height + 1.0
    turn = _upright(locator.outline, box_turn, (width, height), [match.angle for match in matches], symmetry=symmetry)
    if round((turn - box_turn) / 90) % 2:
        width, height = height, width
    return _turned(replace(locator, symmetry=symmetry), (x, y), turn, (width, height))


def _upright(outline: Outline, turn: float, size: tuple[float, float], angles: Sequence[float], *, symmetry: int) -> float:
    """Return which of the box's four directions is the part's: as the images show it, or long side level, heavy end left."""
    quarters = [turn + 90 * step for step in range(4)]
    middle = mean_angle(angles)
    spread = max(abs(wrap(angle - middle)) for angle in angles)
    if symmetry != 1 or spread <= UPRIGHT_SPREAD:
        # The image's own directions are those of the frame turned by the parts' angle.
        return min(quarters, key=lambda quarter: abs(wrap(quarter + (middle if symmetry == 1 else 0.0))))
    level = turn if size[0] >= size[1] else turn + 90
    return level if _skewness(outline, level) >= 0 else level + 180


def _skewness(outline: Outline, turn: float) -> float:
    """Return the third moment of the outline's area along a direction: positive where its tail points that way."""
    rows, columns = np.nonzero(outline.mask)
    points = np.stack([columns, rows], axis=1) - outline.origin
    direction = np.array([math.cos(math.radians(turn)), math.sin(math.radians(turn))])
    along = (points - points.mean(axis=0)) @ direction
    return float(np.mean(along**3))


def _turned(locator: ForegroundLocator, centre: tuple[float, float], turn: float,
            size: tuple[float, float]) -> ForegroundLocator:
    """Return the locator with field and surface resampled into a frame at ``centre``, turned by ``turn`` degrees."""
    margin = MARGIN * math.hypot(*size)
    wide, high = (math.ceil(side + 2 * margin) // 2 * 2 + 1 for side in size)
    origin = ((wide - 1) / 2, (high - 1) / 2)
    turned = rotation(turn)
    matrix = np.column_stack([turned, np.array(centre) + locator.origin - turned @ origin])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    field, surface = (cv2.warpAffine(values, matrix, (wide, high), flags=flags, borderMode=cv2.BORDER_REPLICATE)
                      for values in (locator.field, locator.surface))
    unit = float(1 << locator.level)
    return replace(locator, field=np.asarray(field, np.float32), surface=np.asarray(surface, np.uint8), origin=origin,
                   box=(size[0] * unit, size[1] * unit))


def _symmetry(locator: ForegroundLocator, samples: Sequence[_Sample], matches: Sequence[Match]) -> int:
    """Return at how many angles the part looks alike: 1 where outline or surface distinguish them, ROUND for all."""
    outline = locator.outline
    turns = [turn for turn in range(10, 360, 5) if _fits_itself(outline, turn)]
    alike = [turn for turn in turns if _surfaces_alike(locator, samples, matches, turn)]
    if len(alike) > 60:
        return ROUND
    for order in (8, 6, 5, 4, 3, 2):
        if all(any(abs(turn - 360 * step / order) <= 5 for turn in alike) for step in range(1, order)):
            return order
    return 1


def _fits_itself(outline: Outline, turn: float) -> bool:
    turned = rotation(turn)
    start = np.column_stack([turned, outline.centroid - turned @ outline.centroid])
    near = np.full(4, 4 * outline.tolerance)
    (matrix,) = outline.descend(outline.points[:: max(1, len(outline.points) // 200)], start[None], near, False)
    match = outline.judge(outline.points, matrix)
    return match.residual < ALIKE


def _surfaces_alike(locator: ForegroundLocator, samples: Sequence[_Sample], matches: Sequence[Match], turn: float) -> bool:
    """Whether parts turned by ``turn`` resemble the mean surface as they do upright, but for a tenth."""
    centre = locator.outline.centroid
    turning = rotation(turn)
    gaps = []
    for sample, match in list(zip(samples, matches, strict=True))[:12]:
        matrix = turning @ match.matrix
        matrix[:, 2] += centre - turning @ centre
        turned = correlation(locator.seen(sample.view, replace(match, matrix=matrix)), locator.surface, locator.outline.mask)
        gaps.append(locator.agreement(sample.view, match) - turned)
    return float(np.median(gaps)) < ALIKE
