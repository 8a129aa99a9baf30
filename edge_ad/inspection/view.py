"""Which piece of the picture is looked at: a region of interest, cut into fixed tiles."""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Frame, Image
from edge_ad.data.images import resize
from edge_ad.errors import BadInput

MAX_MAP_SIDE = 4096


@dataclass(frozen=True)
class Roi:
    """A rectangle in pixels of the camera's picture, from its upper left corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """Tiles of equal size (to a pixel), row by row."""

    rows: int = 1
    columns: int = 1

    def __len__(self) -> int:
        return self.rows * self.columns

    def boxes(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Return the rows and columns of every tile; together they cover the picture once."""
        tops = [height * row // self.rows for row in range(self.rows + 1)]
        lefts = [width * column // self.columns for column in range(self.columns + 1)]
        return [
            (slice(tops[row], tops[row + 1]), slice(lefts[column], lefts[column + 1]))
            for row in range(self.rows)
            for column in range(self.columns)
        ]


@dataclass(frozen=True)
class View:
    """A region of interest (None: the whole picture) and its tiles."""

    roi: Roi | None = None
    grid: Grid = Grid()

    @property
    def region(self) -> tuple[int, int, int, int] | None:
        """The region of interest as x, y, width, height; None for the whole picture."""
        return None if self.roi is None else (self.roi.x, self.roi.y, self.roi.width, self.roi.height)

    def crop(self, image: Image) -> Image:
        """Return the region of interest of a picture u8[H,W,3]; see ``fault`` for one that has no such region."""
        if self.roi is None:
            return image
        roi = self.roi
        return image[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]

    def seen(self, image: Image) -> Image:
        """Return the region that is judged and that the heat map covers; the whole picture where there is none."""
        return image if self.fault(image) else self.crop(image)

    def fault(self, image: Image) -> str | None:
        """Return why the region cannot be cut out of this picture, None when it can."""
        if self.roi is None and len(self.grid) == 1:
            return None
        height, width = image.shape[:2]
        roi = self.roi or Roi(0, 0, width, height)
        if roi.x + roi.width > width or roi.y + roi.height > height:
            return (
                f"roi: the region {roi.x},{roi.y},{roi.width},{roi.height} reaches beyond the picture of {width} x "
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
        """Return every tile of a picture u8[H,W,3] resized to ``size``."""
        region = self.crop(image)
        return [resize(np.ascontiguousarray(region[box]), size) for box in self.grid.boxes(*region.shape[:2])]

    def spread(self, heat: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
        """Return a map f32[h,w] of what is looked at as one of the whole picture u8[H,W,3], 0 beside the region.

        It has the sides of the picture, or of a smaller one of the same shape: a map is coarse.
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


def parse_roi(text: str) -> Roi:
    """Return the region in ``X,Y,WIDTH,HEIGHT``; BadInput for anything else."""
    match = re.fullmatch(r"(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})", text.replace(" ", ""), re.ASCII)
    roi = Roi(*map(int, match.groups())) if match else Roi(0, 0, 0, 0)
    if roi.width < 8 or roi.height < 8:
        raise BadInput(f"roi is {text!r}: write X,Y,WIDTH,HEIGHT in pixels, at least 8 x 8, such as 100,40,640,480")
    return roi


def parse_grid(text: str) -> Grid:
    """Return the tiles in ``ROWSxCOLUMNS``; BadInput for anything else or more than 64 tiles."""
    match = re.fullmatch(r"(\d{1,2})x(\d{1,2})", text.strip().lower(), re.ASCII)
    grid = Grid(*map(int, match.groups())) if match else Grid(0, 0)
    if not 1 <= len(grid) <= 64:
        raise BadInput(f"tiles is {text!r}: write ROWSxCOLUMNS with 1 to 64 tiles, such as 2x3")
    return grid
