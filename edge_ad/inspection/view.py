"""Which piece of the image is looked at: a region of interest, cut into fixed tiles.

Per-tile statistics: what is usual in each tile, and thresholds on the worst tile of a part.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.camera.frames import Frame, Image
from edge_ad.config import RunTable, parse_rectangle
from edge_ad.data.images import list_images, read_image, resize
from edge_ad.data.prepared import READERS
from edge_ad.engines.offline import in_order
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.engines.selection import Streams
from edge_ad.errors import BadInput
from edge_ad.geometry.region import Roi
from edge_ad.scoring import Array, Statistics, Thresholds, choose_thresholds, fuse, normalise_statistics
from edge_ad.utils.files import atomic_write

MAX_MAP_SIDE = 4096


@dataclass(frozen=True)
class Grid:
    """Tiles of equal size (to a pixel), row by row."""

    rows: int = 1
    columns: int = 1

    def __len__(self) -> int:
        return self.rows * self.columns

    def boxes(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Return the rows and columns of every tile; together they cover the image once."""
        tops = [height * row // self.rows for row in range(self.rows + 1)]
        lefts = [width * column // self.columns for column in range(self.columns + 1)]
        return [
            (slice(tops[row], tops[row + 1]), slice(lefts[column], lefts[column + 1]))
            for row in range(self.rows)
            for column in range(self.columns)
        ]


@dataclass(frozen=True)
class View:
    """A region of interest (None: the whole image) and its tiles."""

    roi: Roi | None = None
    grid: Grid = Grid()

    @property
    def region(self) -> tuple[int, int, int, int] | None:
        """The region of interest as x, y, width, height; None for the whole image."""
        return None if self.roi is None else (self.roi.x, self.roi.y, self.roi.width, self.roi.height)

    def crop(self, image: Image) -> Image:
        """Return the region of interest of an image u8[H,W,3]; see ``fault`` for one that has no such region."""
        if self.roi is None:
            return image
        roi = self.roi
        return image[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]

    def seen(self, image: Image) -> Image:
        """Return the region that is judged and that the heat map covers; the whole image where there is none."""
        return image if self.fault(image) else self.crop(image)

    def fault(self, image: Image) -> str | None:
        """Return why the region cannot be cut out of this image, None when it can."""
        if self.roi is None and len(self.grid) == 1:
            return None
        height, width = image.shape[:2]
        roi = self.roi or Roi(0, 0, width, height)
        if roi.x + roi.width > width or roi.y + roi.height > height:
            return (
                f"roi: the region {roi.x},{roi.y},{roi.width},{roi.height} reaches beyond the image of {width} x "
                f"{height} pixels"
            )
        if roi.height < self.grid.rows or roi.width < self.grid.columns:
            return f"roi: {roi.width} x {roi.height} pixels cannot be cut into {self.grid.rows} x {self.grid.columns} tiles"
        return None

    def tiles(self, frame: Frame, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
        """Return every tile of a frame resized to ``size`` = (height, width), u8[H,W,3]; computed once."""
        if self.roi is None and len(self.grid) == 1:
            return [frame.resized(size)]
        return frame.once((self, size), lambda: self.cut(frame.image, size))

    def cut(self, image: Image, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
        """Return every tile of an image u8[H,W,3] resized to ``size``."""
        region = self.crop(image)
        return [resize(np.ascontiguousarray(region[box]), size) for box in self.grid.boxes(*region.shape[:2])]

    def spread(self, heat: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
        """Return a map f32[h,w] of what is looked at as one of the whole image u8[H,W,3], 0 beside the region.

        It has the sides of the image, or of a smaller one of the same shape: a map is coarse.
        """
        if self.roi is None or self.fault(image):
            return heat
        roi, (height, width) = self.roi, image.shape[:2]
        factor = min(1.0, MAX_MAP_SIDE / max(height, width))
        whole = np.zeros((max(1, round(height * factor)), max(1, round(width * factor))), np.float32)
        top, left = (min(int(start * factor), side - 1) for start, side in zip((roi.y, roi.x), whole.shape, strict=True))
        bottom = max(top + 1, round((roi.y + roi.height) * factor))
        right = max(left + 1, round((roi.x + roi.width) * factor))
        whole[top:bottom, left:right] = cv2.resize(heat, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        return whole

    def describe(self) -> dict[str, object]:
        """Return the view as plain values for JSON."""
        roi = None if self.roi is None else [self.roi.x, self.roi.y, self.roi.width, self.roi.height]
        return {"roi": roi, "grid": [self.grid.rows, self.grid.columns]}


def view_of(run: RunTable) -> View:
    """Return the region and the tiles that ``roi`` and ``tiles`` set; BadInput for texts that are neither."""
    return View(
        None if run.roi is None else parse_roi(run.roi), Grid() if run.tiles is None else parse_grid(run.tiles)
    )


def parse_roi(text: str) -> Roi:
    """Return the region in ``X,Y,WIDTH,HEIGHT``; BadInput for anything else."""
    return Roi(*parse_rectangle("roi", text, "100,40,640,480"))


def parse_grid(text: str) -> Grid:
    """Return the tiles in ``ROWSxCOLUMNS``; BadInput for anything else or more than 64 tiles."""
    match = re.fullmatch(r"(\d{1,2})x(\d{1,2})", text.strip().lower(), re.ASCII)
    grid = Grid(*map(int, match.groups())) if match else Grid(0, 0)
    if not 1 <= len(grid) <= 64:
        raise BadInput(f"tiles is {text!r}: write ROWSxCOLUMNS with 1 to 64 tiles, such as 2x3")
    return grid


MIN_NORMAL_IMAGES = 10

@dataclass(frozen=True, eq=False)
class TileStatistics:
    """``mean`` and ``std`` f32[T,B] of the raw scores of normal images by tile, and thresholds on the worst tile of a
    part.
    """

    mean: Array
    std: Array
    thresholds: Thresholds

    def judge(self, raw: Array, statistics: Statistics) -> tuple[Array, Array]:
        """Return z [T,B] and score [T] of the raw scores f32[T,B] of all tiles of one part."""
        z, score = zip(
            *(
                fuse(raw[tile : tile + 1], replace(statistics, mean=self.mean[tile], std=self.std[tile]))
                for tile in range(len(raw))
            ),
            strict=True,
        )
        return np.concatenate(z), np.concatenate(score)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "thresholds": self.thresholds.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TileStatistics:
        """Build from ``to_json``."""
        mean, std = np.asarray(value["mean"], np.float32), np.asarray(value["std"], np.float32)
        return cls(mean, std, Thresholds.from_json(value["thresholds"]))


def combine(inferences: Sequence[Inference], view: View, tiles: TileStatistics, statistics: Statistics) -> Inference:
    """Return one Inference for all tiles: raw, z and score of the worst one, the maps put together, times summed."""
    z, score = tiles.judge(np.stack([inference.raw for inference in inferences]), statistics)
    # A score that is not finite must not be hidden by an ordinary one.
    worst = int(np.argmax(np.where(np.isfinite(score), score, np.inf)))
    whole = np.zeros_like(inferences[worst].map)
    for inference, box in zip(inferences, view.grid.boxes(*whole.shape[:2]), strict=True):
        height, width = whole[box].shape
        whole[box] = cv2.resize(inference.map, (width, height), interpolation=cv2.INTER_AREA)
    stages = {name: sum(one.stages_ms.get(name, 0.0) for one in inferences) for name in inferences[0].stages_ms}
    return Inference(inferences[worst].raw, z[worst], float(score[worst]), whole, stages)


def measure_tiles(
    pipeline: Pipeline | Streams, bundle: Bundle, view: View, normal_images: Iterable[Image], *, seed: int = 0
) -> TileStatistics:
    """Measure every tile of normal images u8[H,W,3]: a seeded half gives mean and deviation, the other half the
    thresholds.

    The weights stay those of the bundle. BadInput for fewer than 10 normal images or a region that does not fit them.
    """
    rows = [_raw_scores(pipeline, bundle, view, image) for image in normal_images]
    if len(rows) < MIN_NORMAL_IMAGES:
        raise BadInput(f"per-tile statistics need at least {MIN_NORMAL_IMAGES} normal images, but there are {len(rows)}")
    raw, order = np.stack(rows), np.random.default_rng(seed).permutation(len(rows))
    fit, hold = raw[order[: len(rows) // 2]], raw[order[len(rows) // 2 :]]
    pairs = [normalise_statistics(fit[:, tile]) for tile in range(raw.shape[1])]
    mean, std = np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])
    statistics = TileStatistics(mean, std, bundle.thresholds)
    worst = [float(statistics.judge(part, bundle.statistics)[1].max()) for part in hold]
    old = bundle.thresholds
    return replace(statistics, thresholds=choose_thresholds(worst, old.target_ng, old.target_warn))


def _raw_scores(pipeline: Pipeline | Streams, bundle: Bundle, view: View, image: Image) -> Array:
    """Return the raw scores f32[T,B] of all tiles of an image, side by side where there are streams."""
    if fault := view.fault(image):
        raise BadInput(f"an image of a good does not fit: {fault}")
    inputs = [bundle.geometry.input_of(tile) for tile in view.cut(image, bundle.image_size)]
    if isinstance(pipeline, Streams):
        begun = [pipeline.submit(tile) for tile in inputs]
        return np.stack([one.result().raw for one in begun])
    return np.stack([pipeline.infer(tile).raw for tile in inputs])


def load_tiles(
    pipeline: Pipeline, bundle: Bundle, view: View, folder: Path, *, streams: Streams | None = None
) -> TileStatistics:
    """Return the statistics for this bundle, view, engine and folder of normal images, measured once and kept beside
    the bundle; on ``streams`` of the pipeline, where there are any.

    They are kept in ``<bundle>.tiles/<key>.json``, where the key is a hash of all that decides them.
    """
    paths = list_images(folder)
    details = {
        "bundle": bundle.sha256,
        "engine": [pipeline.backend.name, pipeline.precision],
        **view.describe(),
        "goods": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths],
    }
    key = hashlib.sha256(json.dumps(details).encode()).hexdigest()[:16]
    stored = bundle.path.with_name(f"{bundle.path.name}.tiles") / f"{key}.json"
    if stored.exists():
        try:
            return TileStatistics.from_json(json.loads(stored.read_text()))
        except (OSError, ValueError, KeyError, TypeError, BadInput):
            pass  # damaged: measured again
    images = in_order(lambda path: read_image(path, bundle.image_bits), paths, READERS)
    statistics = measure_tiles(streams or pipeline, bundle, view, images)
    atomic_write(stored, json.dumps({**details, **statistics.to_json()}, indent=1) + "\n")
    return statistics
