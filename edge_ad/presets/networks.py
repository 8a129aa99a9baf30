"""Sizes and values of the networks as plain data, importable without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from edge_ad.errors import BadInput

DfscMode = Literal["split", "additive", "location", "drop", "off"]
TeacherKind = Literal["efficientnet_lite0", "pdn_small", "pdn_medium"]
SurpriseKind = Literal["l1", "mahalanobis"]
StudentKind = Literal["compact", "pdn_small", "pdn_medium"]
MemoryVariant = Literal["auto", "gaussian", "global", "local", "off"]
Size = tuple[int, int]  # (height, width), in pixels or in cells
Sides = int | Size  # a size, or the one side of a square


def size_of(sides: Sides) -> Size:
    """Return (height, width) of a size, or of a square given by its side."""
    return (sides, sides) if isinstance(sides, int) else sides


def scaled_size(side: float, size: Size) -> Size:
    """Return (height, width) of about ``side`` squared cells in the aspect ratio of ``size``; squares give ``side``."""
    mean = math.sqrt(size[0] * size[1])
    return max(1, round(side * size[0] / mean)), max(1, round(side * size[1] / mean))


@dataclass(frozen=True)
class TeacherSettings:
    """Which frozen network describes the images.

    ``taps`` are the EfficientNet blocks behind features and tokens, ``pooled_taps`` those behind the composition
    branch. The composition branch also sees the means of ``regions`` x ``regions`` parts of the image at
    ``region_tap``, so that a part in the wrong place counts. ``token_side`` is the side in pixels of a second pass for
    tokens; 0 takes them from the first pass. ``grid`` and ``token_grid`` are the sides of the maps of features and of
    tokens for an image of the preset's side; images of another size have maps of the same strides.
    """

    kind: TeacherKind = "efficientnet_lite0"
    taps: tuple[int, ...] = (2, 4, 10)
    pooled_taps: tuple[int, ...] = (2, 4, 10, 15)
    region_tap: int = 4
    regions: int = 4
    grid: int = 32
    token_grid: int = 16
    token_side: int = 0


@dataclass(frozen=True)
class HvqSettings:
    """Sizes of the tokenizer; the defaults are LADMIM's.

    ``transport`` is the weight of the optimal-transport term in the map of structure: 80 in HVQ-Trans, 0 (left out) in
    LADMIM. ``softness`` above 0 lets codes share a cell after training (ours): two of them about equally where one is
    nearer than the other by less than this many times what it is nearer on average. 0 is the nearest code alone, as
    published. ``standardise`` measures the errors of the drawing in units of how normal images err (ours).
    """

    width: int = 64
    codes: int = 512
    heads: int = 8
    feed_forward: int = 1024
    layers: int = 4
    dropout: float = 0.1
    seed_from_data: bool = False
    transport: float = 0.0
    softness: float = 0.0
    standardise: bool = False


@dataclass(frozen=True)
class LavitSettings:
    """Sizes of the masked-image transformer; the defaults are LADMIM's.

    ``drop_masked`` leaves the masked cells out of the sequence instead of putting a mask token there. ``surprise`` is
    how far predicted and found histograms lie apart: ``l1`` as published, ``mahalanobis`` in units of how normal images
    surprise (ours).
    """

    width: int = 512
    depth: int = 4
    heads: int = 8
    mlp_ratio: float = 4.0
    layer_scale: float = 1e-4
    attention_dropout: float = 0.1
    drop_masked: bool = False
    surprise: SurpriseKind = "l1"


@dataclass(frozen=True)
class DfscSettings:
    """``quantile`` separates similar from novel features, ``margin`` is in units of the teacher's channel variance.

    ``kappa`` above 0 puts a margin of ``kappa`` times the quantile itself (without gradient) in place of ``margin``.
    The default is absolute on purpose: a margin that follows the quantile grows with the distance that it enlarges, and
    may diverge. ``warm_margin`` above 0 lets a warm-up without a hinge set the margin once: ``warm_margin`` times the
    median distance of the novel features when that stalls, which is when its mean over ``warm_window`` of the steps
    differs from the one before by at most the share ``warm_change``, and at the latest after ``warm_share`` of the
    steps. Then it is frozen. Modes: ``split`` is our reading, ``additive`` keeps the plain loss beside the hinge,
    ``location`` parts places instead of elements, ``drop`` leaves the novel features out and has no hinge, ``off`` is
    plain EfficientAD.
    """

    mode: DfscMode = "split"
    quantile: float = 0.99
    margin: float = 2.0
    weight: float = 1.0
    kappa: float = 0.0
    warm_margin: float = 0.0
    warm_share: float = 0.3
    warm_window: float = 0.05
    warm_change: float = 0.02

    def __post_init__(self) -> None:
        """Raise BadInput where two rules would set the margin."""
        if self.kappa and self.warm_margin:
            raise BadInput(
                f"efficientad.dfsc has kappa={self.kappa:g} and warm_margin={self.warm_margin:g}, and each sets the margin: "
                "make one of them 0"
            )


@dataclass(frozen=True)
class EfficientADSettings:
    """Student, autoencoder and loss; ``decoder_sizes`` empty means the published ones.

    ``shared_jitter`` shows the student the colour-jittered image too, which saves one pass of teacher and student.
    ``cropped_penalty`` takes images of other things as published: twice the side, three in ten grey, their centre cut
    out. ``standardise`` measures the errors of both branches in units of how normal images err (ours).
    """

    student: StudentKind = "compact"
    student_width: int = 128
    decoder_sizes: tuple[int, ...] = (3, 8, 15, 32)
    dropout: float = 0.2
    hard_quantile: float = 0.99
    shared_jitter: bool = True
    cropped_penalty: bool = False
    standardise: bool = False
    dfsc: DfscSettings = DfscSettings()


@dataclass(frozen=True)
class MemorySettings:
    """What is remembered of the cells of normal images, and with what a cell is compared (after PatchCore and PaDiM).

    Features are whitened and kept in the ``width`` directions that vary most among normal images (ours). ``global``
    compares with all ``cells``, ``local`` with the ``cells`` of its own region: regions of about ``region`` x ``region``
    cells of the features, which also remember ``overlap`` cells around them. ``gaussian`` has a mean of every cell
    instead, and a covariance of every 2 x 2. ``auto`` takes the one that tells synthetic anomalies from unseen normal
    images better; ``off`` leaves the branch out.
    """

    variant: MemoryVariant = "auto"
    cells: int = 512
    width: int = 96
    region: int = 16
    overlap: int = 4


@dataclass(frozen=True)
class MaskSettings:
    """Block masks: shares of cells masked in training (one is drawn an image) and in use, and the bank's size and seed.
    """

    train_shares: tuple[float, ...] = (0.226, 0.4)
    share: float = 0.4
    least_share: float = 0.16
    train_least_share: float = 0.08
    count: int = 16
    seed: int = 0

    def masked_cells(self, grid: Sides) -> int:
        """Return how many cells of a grid every mask in use hides."""
        rows, columns = size_of(grid)
        return round(self.share * rows * columns)


TILE_STEP = 32  # pixels: sides and places of tiles are multiples, so that seams lie between cells of every grid
MAX_TILES = 9


@dataclass(frozen=True)
class TileLayout:
    """Overlapping tiles of one size over a large input, row by row, beside a ``frame`` (height, width) that shows all of it.

    ``counts`` are (rows, columns). The large input has the shape of the frame and about as many times its pixels as there
    are tiles, so that a tile has about as many pixels as the frame.
    """

    counts: Size
    frame: Size

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return self.counts[0] * self.counts[1]

    @property
    def whole(self) -> Size:
        """The (height, width) of the large input."""
        factor = math.sqrt(self.count)
        height, width = (max(1, round(side * factor / TILE_STEP)) * TILE_STEP for side in self.frame)
        return height, width

    @property
    def tile(self) -> Size:
        """The (height, width) of each tile."""
        return self._axes[0][0], self._axes[1][0]

    @property
    def places(self) -> list[Size]:
        """The (top, left) of each tile in the large input."""
        rows, columns = self._axes
        return [(top, left) for top in rows[1] for left in columns[1]]

    def own_cells(self, stride: int) -> Iterator[list[tuple[slice, slice]]]:
        """Yield for each row of tiles what is kept of each, in cells of ``stride`` pixels: neighbours meet amid their overlap.
        """
        rows, columns = (_own_cells(starts, side, stride) for side, starts in self._axes)
        for row in rows:
            yield [(row, column) for column in columns]

    @property
    def fits(self) -> bool:
        """Whether the large input can be cut so."""
        try:
            return min(self.tile) > 0
        except BadInput:
            return False

    @property
    def _axes(self) -> tuple[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]]]:
        height, width = self.whole
        return _tile_axis(height, self.counts[0]), _tile_axis(width, self.counts[1])


def parse_tiles(text: str) -> Size:
    """Return (rows, columns) of ``ROWSxCOLUMNS``; BadInput for anything else, one tile and more than MAX_TILES."""
    match = re.fullmatch(r"([1-9])x([1-9])", text.strip().lower(), re.ASCII)
    rows, columns = map(int, match.groups()) if match else (0, 0)
    if not 2 <= rows * columns <= MAX_TILES:
        raise BadInput(f"--tiles is {text!r:.80}: give ROWSxCOLUMNS with 2 to {MAX_TILES} tiles, such as 2x2, or leave it out")
    return rows, columns


def _tile_axis(length: int, count: int) -> tuple[int, tuple[int, ...]]:
    """Return the side of tiles and where each begins; neighbours overlap by TILE_STEP or more."""
    if count == 1:
        return length, (0,)
    for side in range(TILE_STEP, length, TILE_STEP):
        starts = tuple(round(index * (length - side) / (count - 1) / TILE_STEP) * TILE_STEP for index in range(count))
        if all(0 < after - before <= side - TILE_STEP for before, after in pairwise(starts)):
            return side, starts
    raise BadInput(f"--tiles: a side of {length} pixels cannot be cut into {count} overlapping tiles; ask for fewer along it")


def _own_cells(starts: tuple[int, ...], side: int, stride: int) -> list[slice]:
    seams = [(after + before + side) // 2 for before, after in pairwise(starts)]
    ends = [0, *seams, starts[-1] + side]
    return [
        slice((low - start) // stride, (high - start) // stride)
        for start, (low, high) in zip(starts, pairwise(ends), strict=True)
    ]
