"""Which turns and mirrorings of a normal image are normal too: measured on the normal images, for augmentation.

Where a part's pose is not removed, images may lie anyhow: textures, round parts, loose parts that no locator takes. An
image is described by its coarse structure (blurred brightness in a disc) and by how its edges are directed (a histogram
that does not know where they are). A turn is normal where turned images are as near to the other images as images as
they are: the nearest of the others is no farther, in the median and in most images, in both descriptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.presets.presets import Augmentation, Mirror, Preset

SIDE = 48
COARSE = 12
BINS = 12
SAMPLE = 64
FEWEST = 8
TURNS = (5.0, 10.0, 20.0, 45.0, 90.0, 135.0, 180.0)
WIDE = 45.0
ANY = 360.0
# Turned images may be this much farther from the others in the median, and so many of them may be farther at all: with ten
# images chance alone gives as much. Images that lie the same way are 1.3 to 5 times farther at 5 degrees already.
FARTHER, MAX_SHARE = 1.2, 0.8
# A part that is mirrored may be the wrong part, so mirroring takes more images, and nearer ones.
MIRROR_FARTHER, MIRROR_FEWEST = 1.1, 20

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Symmetry:
    """Turns of up to ``rotate`` degrees to both sides (0: none that was tried; 360: any), and mirrorings, that are normal.

    ``farther`` tells by turn, in degrees, how much farther turned images are from the others than images as they are.
    """

    rotate: float
    mirror: Mirror
    farther: dict[str, float]

    def __str__(self) -> str:
        turned = f"turned by up to {self.rotate:g} degrees" if self.rotate else "as they lie"
        turned = "at any angle" if self.rotate >= ANY else turned
        mirrored = "not mirrored" if self.mirror == "none" else f"mirrored ({self.mirror})"
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in self.farther.items())
        return f"normal images are alike {turned}, {mirrored} (how much farther the next image is: {ratios})"


def measure_symmetry(images: Images) -> Symmetry | None:
    """Return the symmetry of normal images u8[N,H,W,3]; None for fewer than FEWEST."""
    if len(images) < FEWEST:
        return None
    chosen = images[np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int))] if len(images) > SAMPLE else images
    squares = [_square(image) for image in chosen]
    plain = [_described(square) for square in squares]
    test = _Test(plain)
    turns = {turn: test.worst([_all(squares, partial(_turned, angle=angle)) for angle in (turn, -turn)]) for turn in TURNS}
    farther = {f"{turn:g}": round(result.ratio, 3) for turn, result in turns.items()}
    rotate = max((turn for turn in TURNS if all(turns[less].same for less in TURNS if less <= turn)), default=0.0)
    flips: dict[Mirror, int] = {"horizontal": 1, "vertical": 0}
    mirrored = []
    for name, axis in flips.items():
        result = test.worst([_all(squares, partial(cv2.flip, flipCode=axis))])
        farther[name] = round(result.ratio, 3)
        mirrored += [name] if result.same and result.ratio <= MIRROR_FARTHER and len(squares) >= MIRROR_FEWEST else []
    mirror: Mirror = "both" if len(mirrored) == 2 else mirrored[0] if mirrored else "none"
    return Symmetry(ANY if _any_angle([turns[turn] for turn in TURNS if turn >= WIDE]) else rotate, mirror, farther)


def _any_angle(results: Sequence[_Farther]) -> bool:
    """Whether wide turns change nothing: together they tell it with less chance than each of them."""
    ratios, shares = [one.ratio for one in results], [one.share for one in results]
    return float(np.mean(ratios)) <= FARTHER and max(ratios) <= 2 * FARTHER - 1 and float(np.mean(shares)) <= MAX_SHARE


def with_symmetry(preset: Preset, symmetry: Symmetry, settings: Sequence[str]) -> Preset:
    """Return the preset whose movements follow a symmetry, but for values that ``settings`` (KEY=VALUE) set.

    Movements that a preset does not have, as in those that follow publications, stay off.
    """
    moved: dict[str, Augmentation] = {}
    given = {text.partition("=")[0].strip() for text in settings}
    for group in ("augmentation", "token_augmentation"):
        now: Augmentation = getattr(preset, group)
        if not now.rotate:
            continue
        if f"{group}.rotate" not in given:
            now = replace(now, rotate=max(now.rotate, symmetry.rotate))
        if f"{group}.mirror" not in given:
            now = replace(now, mirror=symmetry.mirror)
        moved[group] = now
    return replace(preset, **moved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Farther:
    """How much farther the nearest other image is in the median, and in what share of the images it is farther."""

    ratio: float
    share: float

    @property
    def same(self) -> bool:
        return self.ratio <= FARTHER and self.share <= MAX_SHARE


class _Test:
    """Compares descriptions with those of the unturned images, each with the nearest of the others."""

    def __init__(self, plain: Sequence[tuple[Floats, ...]]) -> None:
        self.plain = [np.stack(parts) for parts in zip(*plain, strict=True)]
        self.own = [_nearest(part, part) for part in self.plain]

    def worst(self, sets: Sequence[Sequence[tuple[Floats, ...]]]) -> _Farther:
        """Return how much farther the moved images of all ``sets`` are than unmoved ones, the worst of them."""
        ratios, shares = [], []
        for moved in sets:
            for plain, own, parts in zip(self.plain, self.own, zip(*moved, strict=True), strict=True):
                nearest = _nearest(np.stack(parts), plain)
                ratios.append(float(np.median(nearest)) / max(float(np.median(own)), 1e-6))
                shares.append(float(np.mean(nearest > own)))
        return _Farther(max(ratios), max(shares))


def _nearest(ones: Floats, others: Floats) -> Floats:
    """Return the distance of each row to the nearest row of ``others`` that is not its own."""
    squared = (ones**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * ones @ others.T
    np.fill_diagonal(squared, np.inf)
    return np.asarray(np.sqrt(np.maximum(squared.min(axis=1), 0)), np.float32)


def _all(squares: Sequence[Floats], move: Callable[[Floats], Any]) -> list[tuple[Floats, ...]]:
    return [_described(np.ascontiguousarray(move(square))) for square in squares]


def _square(image: Images) -> Floats:
    """Return the brightness of the largest central square, f32[SIDE,SIDE]."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    grey = cv2.cvtColor(np.ascontiguousarray(image[top : top + side, left : left + side]), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)


def _turned(square: Floats, angle: float) -> Floats:
    matrix = cv2.getRotationMatrix2D(((SIDE - 1) / 2, (SIDE - 1) / 2), angle, 1.0)
    return np.asarray(cv2.warpAffine(square, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101))


def _disc(side: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.asarray(np.hypot(x, y) <= side / 2 - 1)


def _described(square: Floats) -> tuple[Floats, Floats]:
    """Return the coarse structure and the directions of the edges inside the disc."""
    coarse = cv2.resize(cv2.GaussianBlur(square, (0, 0), 1.5), (COARSE, COARSE), interpolation=cv2.INTER_AREA)[_disc(COARSE)]
    smooth = cv2.GaussianBlur(square, (0, 0), 1.0)
    down, across = cv2.Sobel(smooth, cv2.CV_32F, 0, 1), cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    strength = np.hypot(down, across)[_disc(SIDE)]
    angle = (np.arctan2(down, across)[_disc(SIDE)] % math.pi) / math.pi * BINS
    low = np.floor(angle).astype(int) % BINS
    part = angle - np.floor(angle)
    histogram = np.bincount(low, strength * (1 - part), BINS) + np.bincount((low + 1) % BINS, strength * part, BINS)
    return np.asarray(coarse, np.float32), np.asarray(histogram / strength.size, np.float32)
